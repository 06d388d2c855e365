//! Rows of the cache that go to another place in it.

use bytemuck::Pod;
use lacuna::gpu::gather_rows::{Count, Plan};
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream};
use lacuna::{Element, Layout};

use crate::Result;

/// Rows that are on the way at a time.
const MAX_ROWS: usize = 4096;

/// Copies of rows of `[heads_k, capacity, head_dim]` memory within it, planned for all lists of a cache.
///
/// Rows go in steps through memory of their own: all of a step are read before one of them is written. The rows of a later step
/// are still whole then where each row lies at its new place or behind it, and where all lie before the first new place.
pub(super) struct Moves<T> {
    steps: Vec<Step<T>>,
    /// Of the whole list.
    layout: Layout,
    /// `[rows, heads_k, head_dim]`
    passing: DeviceBuffer<T>,
    /// The numbers from 0 on.
    in_order: DeviceBuffer<u32>,
}

struct Step<T> {
    take: Plan<T>,
    put: Plan<T>,
    rows: DeviceBuffer<u32>,
    to: usize,
}

impl<T: Element + Pod> Moves<T> {
    /// Plans that `rows` go to `to` and behind it, in their order.
    pub fn new(context: &Context, layout: Layout, rows: &[u32], to: usize) -> Result<Self> {
        Self::in_steps(context, layout, rows, to, MAX_ROWS)
    }

    fn in_steps(context: &Context, layout: Layout, rows: &[u32], to: usize, max_rows: usize) -> Result<Self> {
        const WHAT: &str = "rows on the way";
        let Layout { seqlen, heads, head_dim, .. } = layout;
        let most = rows.len().min(max_rows);
        let step = |(i, rows): (usize, &[u32])| -> Result<Step<T>> {
            Ok(Step {
                take: Plan::new(context, seqlen, heads, head_dim, rows.len())?,
                put: Plan::new(context, rows.len(), heads, head_dim, rows.len())?,
                rows: DeviceBuffer::from_host(context, rows, WHAT)?,
                to: to + i * max_rows,
            })
        };
        let in_order: Vec<u32> = (0..most as u32).collect();
        Ok(Self {
            steps: rows.chunks(max_rows).enumerate().map(step).collect::<Result<_>>()?,
            layout,
            passing: DeviceBuffer::uninit(context, most * heads * head_dim, WHAT)?,
            in_order: DeviceBuffer::from_host(context, &in_order, WHAT)?,
        })
    }

    /// Queues the copies in one list.
    pub fn run(&mut self, stream: &Stream, list: &mut DeviceBuffer<T>) -> Result<()> {
        let Layout { heads, head_dim, token_stride, .. } = self.layout;
        for Step { take, put, rows, to } in &self.steps {
            let passing = Layout::thd(rows.len(), heads, head_dim);
            let src = DeviceView::new(list, 0, self.layout)?;
            take.run(
                stream,
                &src,
                rows,
                Count::All,
                &mut DeviceViewMut::new(&mut self.passing, 0, passing)?,
            )?;
            let layout = Layout { seqlen: rows.len(), ..self.layout };
            let mut out = DeviceViewMut::new(list, to * token_stride, layout)?;
            let src = DeviceView::new(&self.passing, 0, passing)?;
            put.run(stream, &src, &self.in_order, Count::All, &mut out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use lacuna::{Arch, Device};

    use super::*;

    const LAYOUT: Layout = Layout {
        batch: 1,
        seqlen: 40,
        heads: 2,
        head_dim: 8,
        batch_stride: 640,
        token_stride: 8,
        head_stride: 320,
    };

    /// The rows of both heads after the copies, in steps of so many rows; at first each element is its own row's number.
    fn moved(rows: &[u32], to: usize, max_rows: usize) -> Vec<f32> {
        let context = Device::Emulated(Arch::Sm80).context().unwrap().unwrap();
        let stream = context.default_stream();
        let list: Vec<f16> = (0..640).map(|i| f16::from_f32((i / 8) as f32)).collect();
        let mut list = DeviceBuffer::from_host(&context, &list, "list").unwrap();
        let mut moves = Moves::in_steps(&context, LAYOUT, rows, to, max_rows).unwrap();
        moves.run(&stream, &mut list).unwrap();
        let list = list.to_host(&stream).unwrap();
        let rows = list.chunks_exact(8);
        rows.map(|row| if row.iter().all(|x| *x == row[0]) { row[0].to_f32() } else { f32::NAN }).collect()
    }

    #[test]
    fn rows_arrive_whole_in_any_number_of_steps() {
        let down: Vec<u32> = (0..38).filter(|row| row % 4 != 1).collect();
        let all: Vec<u32> = (1..40).collect();
        for (rows, to) in
            [(&down[..], 0), (&all, 0), (&[7, 8, 9, 10, 11, 30], 5), (&[0, 1, 2, 3, 4, 5, 6], 30)]
        {
            let mut want: Vec<f32> = (0..80).map(|row| row as f32).collect();
            for (i, &row) in rows.iter().enumerate() {
                want[to + i] = row as f32;
                want[40 + to + i] = 40.0 + row as f32;
            }
            for max_rows in [1, 3, 4, 100] {
                assert_eq!(moved(rows, to, max_rows), want, "{rows:?} to {to} in steps of {max_rows}");
            }
        }
        assert_eq!(moved(&[], 40, 3), (0..80).map(|row| row as f32).collect::<Vec<_>>());
    }
}
