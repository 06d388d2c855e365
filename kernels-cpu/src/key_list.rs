//! Which keys a tile of query rows reads.

use crate::simd::matmul::PANEL;

/// Ranges of keys, ascending and without overlap: range `i` is the `width` keys from `starts[i] * unit` on.
///
/// A block list has `unit = width = block_n`; dense attention is the list of one block that holds all keys; key tiles
/// that start anywhere have `unit = 1`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyList<'a> {
    pub(crate) starts: &'a [u32],
    pub(crate) unit: usize,
    pub(crate) width: usize,
}

impl<'a> KeyList<'a> {
    /// All keys.
    pub(crate) fn dense() -> Self {
        Self { starts: &[0], unit: 1, width: usize::MAX }
    }

    /// The panels that hold the list's keys before `limit`.
    pub(crate) fn panels(self, limit: usize) -> Panels<'a> {
        Panels { list: self, limit, at: 0, end: 0 }
    }

    /// How many keys before `limit` it has.
    pub(crate) fn len(self, limit: usize) -> usize {
        let full =
            |start: &u32| (*start as usize).saturating_mul(self.unit).saturating_add(self.width) <= limit;
        let whole = self.starts.partition_point(full);
        let partial = self
            .starts
            .get(whole)
            .map_or(0, |&start| limit.saturating_sub((start as usize).saturating_mul(self.unit)));
        whole * self.width + partial
    }
}

/// One panel of 16 keys, of which lanes `lo..hi` belong to the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panel {
    pub(crate) index: usize,
    pub(crate) lo: i32,
    pub(crate) hi: i32,
}

/// Iterator over the panels of a list, ascending. Ranges that touch are joined, so that the panels of a list do not
/// depend on how its keys are cut into blocks; a panel that two ranges share comes twice, each time with its lanes.
pub(crate) struct Panels<'a> {
    list: KeyList<'a>,
    limit: usize,
    at: usize,
    end: usize,
}

impl Panels<'_> {
    fn start_of_next(&self) -> Option<usize> {
        let start = (*self.list.starts.first()? as usize).saturating_mul(self.list.unit);
        (start < self.limit).then_some(start)
    }
}

impl Iterator for Panels<'_> {
    type Item = Panel;

    #[inline]
    fn next(&mut self) -> Option<Panel> {
        if self.at >= self.end {
            self.at = self.start_of_next()?;
            self.end = self.at;
            while self.start_of_next() == Some(self.end) {
                self.end = self.end.saturating_add(self.list.width).min(self.limit);
                self.list.starts = &self.list.starts[1..];
            }
        }
        let index = self.at / PANEL;
        let first = index * PANEL;
        let panel = Panel { index, lo: (self.at - first) as i32, hi: (self.end - first).min(PANEL) as i32 };
        self.at = first + PANEL;
        Some(panel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn panel(index: usize, lo: i32, hi: i32) -> Panel {
        Panel { index, lo, hi }
    }

    #[test]
    fn dense_is_one_range_cut_at_the_limit() {
        let got: Vec<Panel> = KeyList::dense().panels(37).collect();
        assert_eq!(got, [panel(0, 0, 16), panel(1, 0, 16), panel(2, 0, 5)]);
        assert_eq!(KeyList::dense().panels(0).count(), 0);
        assert_eq!(KeyList::dense().len(37), 37);
    }

    proptest! {
        #[test]
        fn panels_hold_exactly_the_keys_of_the_list(
            starts in prop::collection::btree_set(0u32..40, 0..12), width in 1usize..40, limit in 0usize..800,
        ) {
            let starts: Vec<u32> = starts.into_iter().collect();
            let list = KeyList { starts: &starts, unit: width, width };
            let want: Vec<usize> = starts
                .iter()
                .flat_map(|&n| n as usize * width..(n as usize + 1) * width)
                .filter(|&key| key < limit)
                .collect();
            let got: Vec<usize> = list
                .panels(limit)
                .flat_map(|p| (p.lo..p.hi).map(move |lane| p.index * PANEL + lane as usize))
                .collect();
            prop_assert_eq!(list.len(limit), want.len());
            prop_assert_eq!(got, want);
        }
    }
}
