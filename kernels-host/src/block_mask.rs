//! Which key blocks each query block reads, in device memory: uploaded, or written there by a search.

use lacuna_core::{AttentionShape, BlockMask, Error, Result, Seqlens};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::BlockMaskParams;
use lacuna_kernels_gpu::tile_size::{BLOCK_MASK_FILL_ROWS, WARP};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::search::{SearchCall, SearchLayout};
use crate::stream::Stream;

const OP: &str = "block_mask";

/// A [`BlockMask`] in device memory.
#[derive(Debug)]
pub struct DeviceBlockMask {
    block_m: usize,
    block_n: usize,
    num_heads: usize,
    seqlens: Seqlens,
    indptr: DeviceBuffer<u32>,
    /// Room for the lists; a search fills as much of it as they need.
    indices: DeviceBuffer<u32>,
    /// The lists are those that `indptr` speaks of: no search broke off between them.
    whole: bool,
}

impl DeviceBlockMask {
    /// Uploads a mask. (That its lists ascend and stay in range, [`BlockMask`] has made sure.)
    ///
    /// # Errors
    /// A mask with rows missing, and what the device refuses.
    pub fn from_host(context: &Context, mask: &BlockMask) -> Result<Self> {
        if !mask.is_complete() {
            return Err(Error::shape(OP, "block_mask.indptr", [mask.num_rows() + 1], [mask.indptr().len()]));
        }
        Ok(Self {
            block_m: mask.block_m(),
            block_n: mask.block_n(),
            num_heads: mask.num_heads(),
            seqlens: mask.seqlens().clone(),
            indptr: DeviceBuffer::from_host(context, mask.indptr(), "block mask indptr")?,
            indices: DeviceBuffer::from_host(context, mask.indices(), "block mask indices")?,
            whole: true,
        })
    }

    /// Room for what a search over blocks of `block_size` x `block_size` tokens can find: every block that some query
    /// sees. Empty until a search fills it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more rows or blocks than 32 bits count, and what the device refuses.
    pub fn for_search(
        context: &Context,
        shape: &AttentionShape,
        block_size: usize,
        causal: bool,
    ) -> Result<Self> {
        let layout = SearchLayout::new(OP, shape, block_size, causal)?;
        Ok(Self {
            block_m: block_size,
            block_n: block_size,
            num_heads: shape.num_heads,
            seqlens: shape.seqlens.clone(),
            indptr: DeviceBuffer::from_host(context, &vec![0; layout.rows + 1], "block mask indptr")?,
            indices: DeviceBuffer::uninit(context, layout.blocks, "block mask indices")?,
            whole: true,
        })
    }

    /// Query tokens of a block.
    pub fn block_m(&self) -> usize {
        self.block_m
    }

    /// Key tokens of a block.
    pub fn block_n(&self) -> usize {
        self.block_n
    }

    /// The most blocks that it can list.
    pub fn capacity(&self) -> usize {
        self.indices.len()
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> usize {
        (self.indptr.len() + self.indices.len()) * size_of::<u32>()
    }

    /// Listed blocks of all rows. Waits for `stream`.
    ///
    /// # Errors
    /// A search that failed half way, a stream of another device, and what the driver reports.
    pub fn num_blocks(&self, stream: &Stream) -> Result<usize> {
        self.check_whole(OP)?;
        let mut total = [0];
        self.indptr.copy_to_host(stream, self.indptr.len() - 1, &mut total)?;
        let total = total[0] as usize;
        if total > self.capacity() {
            let expected = format_args!("at most {} blocks", self.capacity()).to_string();
            return Err(Error::invalid(OP, "indptr", expected, total));
        }
        Ok(total)
    }

    /// A checked copy. Waits for `stream`.
    ///
    /// # Errors
    /// As [`DeviceBlockMask::num_blocks`], and lists that do not ascend or leave their range.
    pub fn to_host(&self, stream: &Stream) -> Result<BlockMask> {
        let mut indices = vec![0; self.num_blocks(stream)?];
        self.indices.copy_to_host(stream, 0, &mut indices)?;
        let indptr = self.indptr.to_host(stream)?;
        // Nothing that depends on the head dim or the KV heads is in a mask.
        let shape = AttentionShape::new(self.num_heads, self.num_heads, 1, self.seqlens.clone())?;
        BlockMask::from_csr(&shape, self.block_m, self.block_n, indptr, indices)
    }

    /// Row offsets into the lists: a `u32` per row, and one for the end.
    pub fn indptr(&self) -> DevicePtr {
        self.indptr.ptr()
    }

    /// Key blocks of all rows, [`DeviceBlockMask::capacity`] `u32`.
    pub fn indices(&self) -> DevicePtr {
        self.indices.ptr()
    }

    /// Refuses a mask that is not made of `blocks` for `shape`, or lies on another device.
    pub(crate) fn check(
        &self,
        op: &'static str,
        context: &Context,
        shape: &AttentionShape,
        blocks: [usize; 2],
    ) -> Result<()> {
        let arg = Arg { op, name: "block_mask" };
        let got = [self.block_m, self.block_n];
        if blocks != got {
            return Err(Error::shape(op, "the blocks of block_mask", blocks, got));
        }
        if self.num_heads != shape.num_heads || self.seqlens != shape.seqlens {
            return Err(Error::invalid(
                op,
                arg.name,
                format_args!("made for {} heads and {:?}", shape.num_heads, shape.seqlens),
                format_args!("{} heads and {:?}", self.num_heads, self.seqlens),
            ));
        }
        arg.device(context, self.indptr.driver())?;
        self.check_whole(op)
    }

    /// Hands `launches` the addresses of `indptr` and `indices` to write. When it fails, the mask cannot be used until
    /// another search has filled it.
    pub(crate) fn fill(
        &mut self,
        op: &'static str,
        context: &Context,
        shape: &AttentionShape,
        call: &SearchCall,
        blocks: [usize; 2],
        launches: impl FnOnce(DevicePtr, DevicePtr) -> Result<()>,
    ) -> Result<()> {
        let was_whole = std::mem::replace(&mut self.whole, true);
        let fits = self.check(op, context, shape, blocks).and_then(|()| {
            if self.capacity() >= call.blocks {
                return Ok(());
            }
            let expected = format_args!("with room for {} blocks", call.blocks).to_string();
            Err(Error::invalid(op, "block_mask", expected, self.capacity()))
        });
        if let Err(why) = fits {
            self.whole = was_whole;
            return Err(why);
        }
        self.whole = false;
        launches(self.indptr.ptr(), self.indices.ptr())?;
        self.whole = true;
        Ok(())
    }

    fn check_whole(&self, op: &'static str) -> Result<()> {
        if self.whole {
            Ok(())
        } else {
            Err(Error::invalid(op, "block_mask", "filled by a search", "one whose search failed half way"))
        }
    }
}

/// From a bitmask of blocks to lists: two launches, by which every search ends.
#[derive(Debug)]
pub struct Plan {
    params: BlockMaskParams,
    scan: Launch,
    fill: Launch,
}

impl Plan {
    /// Launches of a run.
    pub const LAUNCHES: usize = 2;

    /// Plans lists of `rows` rows, sequences having at most `n_blocks` key blocks.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for 2^31 rows or more, and what the device refuses.
    pub fn new(context: &Context, rows: usize, n_blocks: usize) -> Result<Self> {
        const ROWS: &str = "the number of rows";
        if rows > i32::MAX as usize {
            return Err(Error::TooLarge {
                op: OP,
                what: ROWS,
                limit: i32::MAX as u64,
                got: rows.to_string(),
            });
        }
        let words = check::to_u32(OP, "the number of key blocks", n_blocks)?.div_ceil(WARP);
        let ctas = rows.div_ceil(BLOCK_MASK_FILL_ROWS as usize);
        Ok(Self {
            params: BlockMaskParams { rows: rows as u32, words },
            scan: Launch::new(context, OP, &kernel::block_mask_scan(), [1; 3], ["", "", ""])?,
            fill: Launch::new(context, OP, &kernel::block_mask_fill(), [ctas, 1, 1], [ROWS, "", ""])?,
        })
    }

    /// Words of a row of the bitmask: bit `i` of word `w` stands for key block `32 w + i`.
    pub fn words(&self) -> usize {
        self.params.words as usize
    }

    /// Queues the lists.
    ///
    /// # Safety
    /// `bitmask` holds `u32 [rows, words]`, `counts` `u32 [rows]`, the bits set in each row, less than 2^32 together.
    /// `indptr` has room for `u32 [rows + 1]`, `indices` for a `u32` per set bit. All lie in memory of the plan's device
    /// that nothing else writes, and of the latter two nothing else reads, until the work is done. `stream` is a live
    /// stream of that device.
    ///
    /// # Errors
    /// What the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        bitmask: DevicePtr,
        counts: DevicePtr,
        indptr: DevicePtr,
        indices: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.scan.run(stream, [counts, indptr], &self.params)?;
            self.fill.run(stream, [bitmask, indptr, indices], &self.params)
        }
    }
}

/// The bitmask that the kernels of a search write, and the plan that makes lists of it.
#[derive(Debug)]
pub(crate) struct Bitmask {
    words: DeviceBuffer<u32>,
    counts: DeviceBuffer<u32>,
    lists: Plan,
}

impl Bitmask {
    /// Allocates the bitmask and the counts of its rows.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn new(context: &Context, call: &SearchCall) -> Result<Self> {
        let lists = Plan::new(context, call.rows, call.max_n_blocks)?;
        Ok(Self {
            // Rows are below 2^31 and words below 2^25.
            words: DeviceBuffer::uninit(context, call.rows * lists.words(), "bitmask of blocks")?,
            counts: DeviceBuffer::uninit(context, call.rows, "blocks of each row")?,
            lists,
        })
    }

    /// `u32 [rows, words]`, to be written whole before [`Bitmask::list`].
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.words.ptr()
    }

    /// `u32 [rows]`, the bits of each row, to be written before [`Bitmask::list`].
    pub(crate) fn counts(&self) -> DevicePtr {
        self.counts.ptr()
    }

    /// Words of a row.
    pub(crate) fn words(&self) -> u32 {
        self.lists.params.words
    }

    /// Bytes of device memory.
    pub(crate) fn bytes(&self) -> usize {
        (self.words.len() + self.counts.len()) * size_of::<u32>()
    }

    /// Queues the lists.
    ///
    /// # Safety
    /// Bitmask and counts have been queued on `stream`, a live stream of the context's device; for `indptr` and `indices`
    /// as [`Plan::run_raw`].
    pub(crate) unsafe fn list(&self, stream: RawStream, indptr: DevicePtr, indices: DevicePtr) -> Result<()> {
        // SAFETY: the caller's promise; the rest is this struct's, of the sizes that the kernels say.
        unsafe { self.lists.run_raw(stream, self.words.ptr(), self.counts.ptr(), indptr, indices) }
    }
}
