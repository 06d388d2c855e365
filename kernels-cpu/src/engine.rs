//! Block-sparse flash attention over a ragged batch: the one engine of the dense, block-sparse and vertical-slash
//! operations.
//!
//! Keys and values are packed once per call and KV head; all query tiles and all heads of a group read them. A task is
//! a tile of query rows of one head; tasks run on all threads, those that read most keys first. A row's arithmetic
//! depends on its own position, its own keys and its list alone: not on the tile, the batch, or the threads.

use std::cmp::Reverse;

use lacuna_core::{
    AttentionOptions, AttentionShape, Element, Error, Layout, Result, TensorView, TensorViewMut,
};
use rayon::prelude::*;

use crate::buffer::{Buffer, SharedPtr};
use crate::forward::{KvPanel, Scale, Scratch};
use crate::key_list::KeyList;
use crate::pack::{HeadDim, pack_keys, pack_values, panel_rows};
use crate::per_type::per_type;
use crate::schedule;
use crate::simd::matmul::PANEL;
use crate::simd::{Dot, Isa, Kernel, Operand};
use crate::tile_size::{KEY_TILE, KEY_TILE_PANELS, PACK_CHUNK_PANELS};

/// Which keys every task reads.
pub(crate) trait Pattern: Sync {
    /// Key ranges of the query block that holds the rows of `task`.
    fn key_list(&self, task: &Task) -> KeyList<'_>;
    /// Single keys besides, all visible to all rows of the task; ascending, counted from the sequence's first key.
    fn columns(&self, _task: &Task) -> &[u32] {
        &[]
    }
}

/// A tile of query rows of one head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) b: usize,
    pub(crate) head: usize,
    /// The query block of the pattern.
    pub(crate) m_block: usize,
    /// First row, in the sequence.
    row: usize,
    rows: usize,
    /// Keys that the last row sees: all keys of the sequence before this position.
    visible: usize,
    /// Keys to read, and the same for this call's pattern.
    cost: usize,
}

/// Validated sizes, packed operands and scratch of one attention operation.
pub(crate) struct Engine<T: Element> {
    op: &'static str,
    isa: Isa,
    shape: AttentionShape,
    options: AttentionOptions,
    scale: Scale,
    dim: HeadDim,
    /// Panels of the sequences before each one.
    panel_starts: Vec<usize>,
    keys: Buffer,
    values: Buffer,
    workers: Vec<Worker>,
    chunks: Vec<Chunk>,
    tasks: Vec<Task>,
    element: std::marker::PhantomData<T>,
}

/// What a thread works with.
struct Worker {
    scratch: Scratch,
    /// Packed keys and values of gathered columns, one tile of them.
    gathered: Option<(Buffer, Buffer)>,
}

/// Panels that one thread packs.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    b: usize,
    head_k: usize,
    panel: usize,
}

impl<T: Element> Engine<T> {
    /// For query blocks of `block_m` rows, worked on in tiles of `row_tile` rows.
    pub(crate) fn new(
        op: &'static str,
        shape: &AttentionShape,
        options: &AttentionOptions,
        block_m: usize,
        row_tile: usize,
        gathers: bool,
    ) -> Result<Self> {
        options.check(op)?;
        let isa = Isa::current();
        let dim = HeadDim { head_dim: shape.head_dim };
        let (seqlens, heads_k) = (&shape.seqlens, shape.num_heads_k);
        // Reserved before it is filled: a batch that no memory can hold is refused.
        let mut tasks = Vec::new();
        let count = (0..seqlens.batch()).try_fold(0usize, |n, b| {
            let seqlen_q = seqlens.seqlen_q(b);
            let tiles = seqlen_q.div_ceil(block_m).checked_mul(block_m.min(seqlen_q).div_ceil(row_tile))?;
            n.checked_add(tiles.checked_mul(shape.num_heads)?)
        });
        count.filter(|&n| tasks.try_reserve_exact(n).is_ok()).ok_or_else(|| Error::TooLarge {
            op,
            what: "the number of tasks",
            limit: isize::MAX as u64,
            got: format!("{} heads of {} query tokens", shape.num_heads, seqlens.total_q()),
        })?;
        let mut panel_starts = vec![0];
        let mut chunks = Vec::new();
        for b in 0..seqlens.batch() {
            let (seqlen_q, seqlen_k) = (seqlens.seqlen_q(b), seqlens.seqlen_k(b));
            panel_starts.push(panel_starts[b] + seqlen_k.div_ceil(PANEL));
            if seqlen_q > 0 {
                for head_k in 0..heads_k {
                    let panels = (0..seqlen_k.div_ceil(PANEL)).step_by(PACK_CHUNK_PANELS);
                    chunks.extend(panels.map(|panel| Chunk { b, head_k, panel }));
                }
            }
            for (m_block, first) in (0..seqlen_q).step_by(block_m).enumerate() {
                let end = first.saturating_add(block_m).min(seqlen_q);
                for row in (first..end).step_by(row_tile) {
                    let rows = row_tile.min(end - row);
                    let visible = visible(options.causal, row + rows - 1, seqlens.past(b), seqlen_k);
                    let task = Task { b, head: 0, m_block, row, rows, visible, cost: visible };
                    tasks.extend((0..shape.num_heads).map(|head| Task { head, ..task }));
                }
            }
        }
        let bytes = isa.operand_bytes::<T>();
        let pair = size_of::<f32>() / bytes;
        let threads = rayon::current_num_threads();
        let (key_row, value_row) = (dim.key_stride(pair) * bytes, dim.value_stride() * bytes);
        let panels = [panel_starts[seqlens.batch()], heads_k];
        let new_worker = |_| -> Result<Worker> {
            let gathered = if gathers {
                Some((Buffer::zeroed(op, &[KEY_TILE, key_row])?, Buffer::zeroed(op, &[KEY_TILE, value_row])?))
            } else {
                None
            };
            Ok(Worker { scratch: Scratch::new(op, row_tile, dim)?, gathered })
        };
        Ok(Self {
            op,
            isa,
            scale: Scale::new(shape, options.softmax_scale),
            dim,
            keys: Buffer::zeroed(op, &[panels[0], panels[1], PANEL, key_row])?,
            values: Buffer::zeroed(op, &[panels[0], panels[1], PANEL, value_row])?,
            workers: (0..threads).map(new_worker).collect::<Result<_>>()?,
            panel_starts,
            chunks,
            tasks,
            shape: shape.clone(),
            options: *options,
            element: std::marker::PhantomData,
        })
    }

    /// The sizes it was made for.
    pub(crate) fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// Attention of `q` over the keys that `pattern` lists.
    pub(crate) fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        pattern: &dyn Pattern,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        self.shape.check_call(self.op, q, k, v, out, softmax_lse.as_deref())?;
        let (out, layout) = out.as_mut_ptr();
        let call = Call {
            engine: self,
            q: *q,
            k: *k,
            v: *v,
            pattern,
            out: SharedPtr(out),
            layout,
            lse: softmax_lse.map(|lse| SharedPtr(lse.as_mut_ptr())),
        };
        per_type!(T, Call, call, run);
        Ok(())
    }

    /// The panel of sequence `b` and KV head `head_k` that holds its keys `16 * panel ..`.
    #[inline(always)]
    fn panel_index(&self, b: usize, head_k: usize, panel: usize) -> usize {
        let panels = self.panel_starts[b + 1] - self.panel_starts[b];
        self.panel_starts[b] * self.shape.num_heads_k + head_k * panels + panel
    }

    fn head_k(&self, head: usize) -> usize {
        self.shape.head_k(head, self.options.gqa_interleave)
    }
}

/// One run, its arguments checked.
struct Call<'a, T: Element> {
    engine: &'a mut Engine<T>,
    q: TensorView<'a, T>,
    k: TensorView<'a, T>,
    v: TensorView<'a, T>,
    pattern: &'a dyn Pattern,
    out: SharedPtr<T>,
    layout: Layout,
    lse: Option<SharedPtr<f32>>,
}

impl<T: Element> Call<'_, T> {
    fn run(mut self) {
        self.pack();
        self.attend();
    }

    fn pack(&mut self) {
        let keys = SharedPtr(self.engine.keys.as_mut_ptr::<u8>());
        let values = SharedPtr(self.engine.values.as_mut_ptr::<u8>());
        let call = &*self;
        call.engine.chunks.par_iter().for_each(|&chunk| {
            call.engine.isa.run::<T, _>(PackChunk { call, chunk, keys, values });
        });
    }

    fn attend(&mut self) {
        let mut tasks = std::mem::take(&mut self.engine.tasks);
        let mut workers = std::mem::take(&mut self.engine.workers);
        let (engine, pattern) = (&*self.engine, self.pattern);
        for task in &mut tasks {
            task.cost = pattern.key_list(task).len(task.visible) + pattern.columns(task).len();
        }
        // The longest first; heads of one group side by side, so that they find their keys in the shared cache.
        tasks.sort_unstable_by_key(|t| {
            (Reverse(t.cost), t.b, engine.head_k(t.head), t.m_block, t.row, t.head)
        });
        let call = &*self;
        schedule::for_each(&mut workers, tasks.len(), |worker, i| {
            engine.isa.run::<T, _>(Attend { call, worker, task: tasks[i] });
        });
        (self.engine.tasks, self.engine.workers) = (tasks, workers);
    }
}

/// The keys that row `row` of a sequence sees: all before the returned position.
#[inline(always)]
fn visible(causal: bool, row: usize, past: isize, seqlen_k: usize) -> usize {
    if causal { (row as isize + past + 1).clamp(0, seqlen_k as isize) as usize } else { seqlen_k }
}

struct PackChunk<'a, T: Element> {
    call: &'a Call<'a, T>,
    chunk: Chunk,
    keys: SharedPtr<u8>,
    values: SharedPtr<u8>,
}

impl<T: Element> Kernel for PackChunk<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { call: Call { engine, k, v, .. }, chunk, .. } = self;
        let Chunk { b, head_k, panel } = chunk;
        let dim = engine.dim;
        let tokens = engine.shape.seqlens.k_range(b);
        for panel in panel..(panel + PACK_CHUNK_PANELS).min(tokens.len().div_ceil(PANEL)) {
            let first = tokens.start + panel * PANEL;
            let tokens = first..(first + PANEL).min(tokens.end);
            let index = engine.panel_index(b, head_k, panel);
            // SAFETY: the buffers hold every panel; each is written by one chunk.
            unsafe {
                let (rows, count) = panel_rows(k, head_k, tokens.clone());
                let keys = self.keys.0.cast::<P>().add(index * PANEL * dim.key_stride(P::PAIR));
                pack_keys(s, dim, &rows[..count], keys);
                let (rows, count) = panel_rows(v, head_k, tokens);
                let values = self.values.0.cast::<P>().add(index * PANEL * dim.value_stride());
                pack_values(s, dim, &rows[..count], values);
            }
        }
    }
}

struct Attend<'a, T: Element> {
    call: &'a Call<'a, T>,
    worker: &'a mut Worker,
    task: Task,
}

impl<T: Element> Kernel for Attend<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { call, task, .. } = self;
        let Call { engine, q, k, v, pattern, layout, .. } = call;
        let Engine { shape, dim, .. } = engine;
        let Worker { scratch, gathered } = self.worker;
        let Task { b, head, .. } = task;
        let head_k = engine.head_k(head);
        let first_token = shape.seqlens.q_range(b).start + task.row;
        let (past, seqlen_k) = (shape.seqlens.past(b), shape.seqlens.seqlen_k(b));

        let mut rows = scratch.rows::<P>(0..task.rows, *dim, engine.scale);
        for r in 0..task.rows {
            let visible = visible(engine.options.causal, task.row + r, past, seqlen_k);
            rows.set(s, r, q.row(first_token + r, head), visible as u32);
        }

        let base = engine.panel_index(b, head_k, 0);
        let (key_panel, value_panel) = (PANEL * dim.key_stride(P::PAIR), PANEL * dim.value_stride());
        let nothing =
            KvPanel::<P> { keys: std::ptr::null(), values: std::ptr::null(), first: 0, lo: 0, hi: 0 };
        let mut tile = [nothing; KEY_TILE_PANELS];
        let mut len = 0;
        let mut panels = pattern.key_list(&task).panels(task.visible);
        loop {
            let panel = panels.next();
            if let Some(panel) = panel {
                let index = base + panel.index;
                // SAFETY: the panel is one of the sequence's, packed before the tasks started.
                tile[len] = unsafe {
                    KvPanel {
                        keys: engine.keys.as_ptr::<P>().add(index * key_panel),
                        values: engine.values.as_ptr::<P>().add(index * value_panel),
                        first: (panel.index * PANEL) as u32,
                        lo: panel.lo,
                        hi: panel.hi,
                    }
                };
                len += 1;
            }
            if len == KEY_TILE_PANELS || (panel.is_none() && len > 0) {
                // SAFETY: the panels are valid.
                unsafe { rows.step(s, &tile[..len]) };
                len = 0;
            }
            if panel.is_none() {
                break;
            }
        }

        if let Some((keys, values)) = gathered {
            let first_key = shape.seqlens.k_range(b).start;
            let (keys, values) = (keys.as_mut_ptr::<P>(), values.as_mut_ptr::<P>());
            for columns in pattern.columns(&task).chunks(KEY_TILE) {
                let mut len = 0;
                for columns in columns.chunks(PANEL) {
                    // SAFETY: the gathered panels hold a tile.
                    unsafe {
                        let (keys, values) = (keys.add(len * key_panel), values.add(len * value_panel));
                        let (column_rows, count) =
                            panel_rows(k, head_k, columns.iter().map(|&c| first_key + c as usize));
                        pack_keys(s, *dim, &column_rows[..count], keys);
                        let (column_rows, count) =
                            panel_rows(v, head_k, columns.iter().map(|&c| first_key + c as usize));
                        pack_values(s, *dim, &column_rows[..count], values);
                        // All rows see a column: only the lanes past the last one are masked.
                        tile[len] = KvPanel { keys, values, first: 0, lo: 0, hi: count as i32 };
                    }
                    len += 1;
                }
                // SAFETY: the panels are valid.
                unsafe { rows.step(s, &tile[..len]) };
            }
        }

        for r in 0..task.rows {
            let token = first_token + r;
            // SAFETY: rows of the output do not overlap, and each belongs to one task; so do the elements of the LSE,
            // `[num_heads, total_q]`.
            unsafe {
                let out = call.out.0.add(layout.offset(token, head));
                let lse = rows.finish(s, r, std::slice::from_raw_parts_mut(out, shape.head_dim));
                if let Some(to) = call.lse {
                    to.0.add(head * shape.seqlens.total_q() + token).write(lse);
                }
            }
        }
    }
}
