//! The columns and slashes of every head, in device memory.

use lacuna_core::{AttentionShape, Error, Result, Seqlens, VerticalSlashIndex};

use super::OP;
use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::DevicePtr;
use crate::stream::Stream;

/// A vertical-slash pattern in device memory: for every (sequence, query head) the key columns and the slash offsets that it
/// keeps. `batch x heads x (columns + slashes + 2) x 4` bytes, whatever the lengths.
#[derive(Debug)]
pub struct DeviceVerticalSlashIndex {
    num_heads: usize,
    seqlens: Seqlens,
    columns: Lists,
    slashes: Lists,
}

/// A list of every (sequence, query head), ascending, each with room for the longest.
#[derive(Debug)]
struct Lists {
    entries: DeviceBuffer<u32>,
    counts: DeviceBuffer<u32>,
    step: usize,
}

impl Lists {
    /// Empty lists with room for `most` entries.
    fn empty(context: &Context, heads: usize, most: usize, what: &'static str) -> Result<Self> {
        let len = heads.checked_mul(most).ok_or_else(|| Error::TooLarge {
            op: OP,
            what,
            limit: usize::MAX as u64,
            got: format!("{heads} x {most}"),
        })?;
        check::to_u32(OP, what, most)?;
        let mut lists = Self {
            entries: DeviceBuffer::uninit(context, len, what)?,
            counts: DeviceBuffer::uninit(context, heads, what)?,
            step: most,
        };
        let stream = context.default_stream();
        lists.entries.fill_bytes(&stream, 0)?;
        lists.counts.fill_bytes(&stream, 0)?;
        stream.synchronize()?;
        Ok(lists)
    }

    fn from_host(context: &Context, lists: &[Vec<u32>], what: &'static str) -> Result<Self> {
        let most = lists.iter().map(Vec::len).max().unwrap_or(0);
        let mut device = Self::empty(context, lists.len(), most, what)?;
        let mut entries = vec![0; device.entries.len()];
        for (h, list) in lists.iter().enumerate() {
            entries[h * most..][..list.len()].copy_from_slice(list);
        }
        let counts: Vec<u32> = lists.iter().map(|list| list.len() as u32).collect();
        let stream = context.default_stream();
        device.entries.copy_from_host(&stream, &entries)?;
        device.counts.copy_from_host(&stream, &counts)?;
        stream.synchronize()?;
        Ok(device)
    }

    fn to_host(&self, stream: &Stream) -> Result<Vec<Vec<u32>>> {
        let entries = self.entries.to_host(stream)?;
        let counts = self.counts.to_host(stream)?;
        let list = |(h, &count): (usize, &u32)| entries[h * self.step..][..count as usize].to_vec();
        Ok(counts.iter().enumerate().map(list).collect())
    }
}

impl DeviceVerticalSlashIndex {
    /// An index of empty lists, for heads that keep up to `most_columns` and `most_slashes`; a
    /// [`SearchPlan`](super::SearchPlan) knows how many it finds, and has
    /// [a function for it](super::SearchPlan::empty_index).
    ///
    /// # Errors
    /// [`Error::TooLarge`] for sizes that overflow, [`Error::Device`] for what the device refuses.
    pub fn empty(
        context: &Context,
        shape: &AttentionShape,
        most_columns: usize,
        most_slashes: usize,
    ) -> Result<Self> {
        let heads = shape.seqlens.batch().saturating_mul(shape.num_heads);
        Ok(Self {
            num_heads: shape.num_heads,
            seqlens: shape.seqlens.clone(),
            columns: Lists::empty(context, heads, most_columns, "the columns of a vertical-slash index")?,
            slashes: Lists::empty(context, heads, most_slashes, "the slashes of a vertical-slash index")?,
        })
    }

    /// Uploads the lists of an index.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for one with heads missing, [`Error::Device`] for what the device refuses.
    pub fn from_host(context: &Context, index: &VerticalSlashIndex) -> Result<Self> {
        index.check_complete(OP)?;
        let batch = index.seqlens().batch();
        let heads = || (0..batch).flat_map(|b| (0..index.num_heads()).map(move |h| index.kept(b, h)));
        let columns: Vec<_> = heads().map(|(columns, _)| columns.to_vec()).collect();
        let slashes: Vec<_> = heads().map(|(_, slashes)| slashes.iter().rev().copied().collect()).collect();
        Ok(Self {
            num_heads: index.num_heads(),
            seqlens: index.seqlens().clone(),
            columns: Lists::from_host(context, &columns, "the columns of a vertical-slash index")?,
            slashes: Lists::from_host(context, &slashes, "the slashes of a vertical-slash index")?,
        })
    }

    /// Fetches the lists, once what is queued on `stream` is done, and makes an index of the host from them:
    /// [`VerticalSlashIndex::density`] says what share of the pairs it keeps.
    ///
    /// # Errors
    /// A stream of another device; lists of another owner that are not as [`VerticalSlashIndex::push_head`] takes them.
    pub fn to_host(&self, stream: &Stream) -> Result<VerticalSlashIndex> {
        let shape = AttentionShape::new(self.num_heads, self.num_heads, 1, self.seqlens.clone())?;
        let mut index = VerticalSlashIndex::empty(&shape)?;
        for (columns, mut slashes) in self.columns.to_host(stream)?.iter().zip(self.slashes.to_host(stream)?)
        {
            // A sequence without keys has no scores to choose from.
            if slashes.is_empty() {
                slashes.push(0);
            }
            slashes.reverse();
            index.push_head(columns, &slashes)?;
        }
        Ok(index)
    }

    /// The addresses that raw calls take.
    pub fn raw(&self) -> RawVerticalSlashIndex {
        RawVerticalSlashIndex {
            columns: self.columns.entries.ptr(),
            column_counts: self.columns.counts.ptr(),
            column_step: self.columns.step as u32,
            slashes: self.slashes.entries.ptr(),
            slash_counts: self.slashes.counts.ptr(),
            slash_step: self.slashes.step as u32,
        }
    }

    /// Query heads.
    pub fn num_heads(&self) -> usize {
        self.num_heads
    }

    /// The lengths the index was made for.
    pub fn seqlens(&self) -> &Seqlens {
        &self.seqlens
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> usize {
        let bytes = |lists: &Lists| (lists.entries.len() + lists.counts.len()) * size_of::<u32>();
        bytes(&self.columns) + bytes(&self.slashes)
    }

    /// Refuses an index of another shape, or on another device.
    pub(super) fn check(&self, context: &Context, num_heads: usize, seqlens: &Seqlens) -> Result<()> {
        if self.num_heads != num_heads || self.seqlens != *seqlens {
            return Err(Error::invalid(
                OP,
                "index",
                format_args!("made for {num_heads} heads and {seqlens:?}"),
                format_args!("{} heads and {:?}", self.num_heads, self.seqlens),
            ));
        }
        Arg { op: OP, name: "index" }.device(context, self.columns.counts.driver())
    }

    /// Refuses an index with other room for its lists.
    pub(super) fn check_room(&self, columns: usize, slashes: usize) -> Result<()> {
        let (want, got) = ([columns, slashes], [self.columns.step, self.slashes.step]);
        if want == got {
            Ok(())
        } else {
            Err(Error::shape(OP, "the room for columns and slashes of index", want, got))
        }
    }
}

/// A [`DeviceVerticalSlashIndex`] as the raw level takes it. The lists of query head `h` of sequence `b` are row
/// `r = b * num_heads + h` of each array; all are multiples of 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawVerticalSlashIndex {
    /// `u32 [rows, column_step]`: key columns, ascending.
    pub columns: DevicePtr,
    /// `u32 [rows]`: how many of them are kept.
    pub column_counts: DevicePtr,
    /// Room of a row.
    pub column_step: u32,
    /// `u32 [rows, slash_step]`: offsets query - key, ascending from 0.
    pub slashes: DevicePtr,
    /// `u32 [rows]`: how many of them are kept.
    pub slash_counts: DevicePtr,
    /// Room of a row.
    pub slash_step: u32,
}
