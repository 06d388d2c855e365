//! What a pattern kept, as a picture.

use std::ops::Range;

use lacuna::{AttentionShape, BlockMask, Selection, VerticalSlashIndex};

use crate::{Error, Result};

/// One head's selection as a grid of cells, query blocks downwards and key blocks to the right. A cell holds the share
/// of its causally visible (query, key) pairs that was kept; several blocks may share a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskPicture {
    seqlen_q: usize,
    seqlen_k: usize,
    /// Tokens of a cell, queries and keys.
    cell: [usize; 2],
    columns: usize,
    /// Kept pairs, row by row.
    kept: Vec<u64>,
}

/// Cells along a side of the largest picture that [`MaskPicture::to_png`] should draw.
pub const MAX_SIDE: usize = 2048;
/// Pixels that the longer side has at least; few cells are drawn large.
const MIN_PIXELS: usize = 768;
/// Pixels of the left and the upper margin, of the ticks in them, and the most ticks along a side.
const MARGIN: usize = 10;
const TICK: usize = 6;
const MAX_TICKS: usize = 16;

/// Palette: above the diagonal, the ticks, skipped, then from hardly to fully kept.
const ABOVE: u8 = 0;
const INK: u8 = 1;
const SKIPPED: u8 = 2;
const KEPT: u8 = 3;
const COLOURS: [[u8; 3]; 3] = [[255, 255, 255], [64, 64, 64], [228, 228, 228]];
const HARDLY: [u8; 3] = [176, 205, 237];
const FULLY: [u8; 3] = [24, 78, 146];

impl MaskPicture {
    /// The selection of query head `head` in a call of one sequence, in `max_side` cells at most along each side.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a head that the call does not have.
    pub fn new(
        selection: Selection<'_>,
        shape: &AttentionShape,
        head: usize,
        max_side: usize,
    ) -> Result<Self> {
        if head >= shape.num_heads {
            return Err(Error::invalid("head", format_args!("below num_heads ({})", shape.num_heads), head));
        }
        let (seqlen_q, seqlen_k) = (shape.seqlens.seqlen_q(0), shape.seqlens.seqlen_k(0));
        let block = match selection {
            Selection::Blocks(mask) => [mask.block_m(), mask.block_n()],
            _ => [VerticalSlashIndex::TILE; 2],
        };
        let side = seqlen_q.div_ceil(block[0]).max(seqlen_k.div_ceil(block[1]));
        let cell = block.map(|block| block * side.div_ceil(max_side).max(1));
        let columns = seqlen_k.div_ceil(cell[1]);
        let kept = vec![0; seqlen_q.div_ceil(cell[0]) * columns];
        let mut picture = Self { seqlen_q, seqlen_k, cell, columns, kept };
        match selection {
            Selection::Blocks(mask) => picture.add_blocks(mask, head),
            Selection::VerticalSlash(index) => picture.add_vertical_slash(index, head),
            _ => picture.add(0..seqlen_q, 0..seqlen_k),
        }
        Ok(picture)
    }

    fn add_blocks(&mut self, mask: &BlockMask, head: usize) {
        for m in 0..mask.m_blocks(0) {
            for &n in mask.row(0, head, m) {
                let key = n as usize * mask.block_n();
                self.add(m * mask.block_m()..(m + 1) * mask.block_m(), key..key + mask.block_n());
            }
        }
    }

    fn add_vertical_slash(&mut self, index: &VerticalSlashIndex, head: usize) {
        const TILE: usize = VerticalSlashIndex::TILE;
        for m in 0..index.m_tiles(0) {
            let rows = m * TILE..(m + 1) * TILE;
            for &start in index.blocks(0, head, m) {
                self.add(rows.clone(), start as usize..start as usize + TILE);
            }
            for &column in index.columns(0, head, m) {
                self.add(rows.clone(), column as usize..column as usize + 1);
            }
        }
    }

    /// Counts the visible pairs of a rectangle as kept, cell by cell.
    fn add(&mut self, rows: Range<usize>, keys: Range<usize>) {
        let (rows, keys) = (rows.start..rows.end.min(self.seqlen_q), keys.start..keys.end.min(self.seqlen_k));
        for m in rows.start / self.cell[0]..rows.end.div_ceil(self.cell[0]) {
            for n in keys.start / self.cell[1]..keys.end.div_ceil(self.cell[1]) {
                let (cell_rows, cell_keys) = self.cell_ranges(m, n);
                let pairs = self.visible_pairs(intersect(&rows, &cell_rows), intersect(&keys, &cell_keys));
                self.kept[m * self.columns + n] += pairs;
            }
        }
    }

    fn cell_ranges(&self, m: usize, n: usize) -> (Range<usize>, Range<usize>) {
        let range = |i: usize, cell: usize, seqlen: usize| i * cell..((i + 1) * cell).min(seqlen);
        (range(m, self.cell[0], self.seqlen_q), range(n, self.cell[1], self.seqlen_k))
    }

    /// (row, key) pairs with `key <= row + past`.
    fn visible_pairs(&self, rows: Range<usize>, keys: Range<usize>) -> u64 {
        let past = self.seqlen_k as i64 - self.seqlen_q as i64;
        // Pairs of one row at or after `key`, summed over the rows: a difference of triangular numbers.
        let triangle = |n: i64| if n > 0 { (n * (n + 1) / 2) as u64 } else { 0 };
        let from = |key: usize| {
            triangle(rows.end as i64 + past - key as i64) - triangle(rows.start as i64 + past - key as i64)
        };
        from(keys.start) - from(keys.end)
    }

    /// Cells, downwards.
    fn rows(&self) -> usize {
        self.seqlen_q.div_ceil(self.cell[0])
    }

    /// The kept share of a cell, `None` where nothing is visible.
    fn share(&self, m: usize, n: usize) -> Option<f64> {
        let (rows, keys) = self.cell_ranges(m, n);
        match self.visible_pairs(rows, keys) {
            0 => None,
            visible => Some(self.kept[m * self.columns + n] as f64 / visible as f64),
        }
    }

    /// The kept share of all visible pairs; 1 when nothing is visible.
    pub fn density(&self) -> f64 {
        match self.visible_pairs(0..self.seqlen_q, 0..self.seqlen_k) {
            0 => 1.0,
            visible => self.kept.iter().sum::<u64>() as f64 / visible as f64,
        }
    }

    /// Tokens of a cell, queries and keys.
    pub fn cell(&self) -> [usize; 2] {
        self.cell
    }

    /// Tokens between two ticks of [`MaskPicture::to_png`].
    pub fn tick(&self) -> usize {
        let tokens = self.seqlen_q.max(self.seqlen_k);
        tokens.div_ceil(MAX_TICKS).next_power_of_two()
    }

    /// A PNG: dark where everything is kept, pale where hardly anything, grey where nothing, white where nothing is
    /// visible; ticks on the left (queries) and above (keys) every [`MaskPicture::tick`] tokens.
    pub fn to_png(&self) -> Vec<u8> {
        let scale = MIN_PIXELS.div_ceil(self.rows().max(self.columns).max(1));
        let (width, height) = (MARGIN + self.columns * scale + 1, MARGIN + self.rows() * scale + 1);
        let mut pixels = vec![ABOVE; width * height];
        for m in 0..self.rows() {
            for n in 0..self.columns {
                let colour = match self.share(m, n) {
                    None => ABOVE,
                    Some(0.0) => SKIPPED,
                    Some(share) => KEPT + (share * f64::from(u8::MAX - KEPT)).round() as u8,
                };
                for y in MARGIN + m * scale..MARGIN + (m + 1) * scale {
                    pixels[y * width + MARGIN + n * scale..][..scale].fill(colour);
                }
            }
        }
        for token in (0..=self.seqlen_k).step_by(self.tick()) {
            let x = MARGIN + token * scale / self.cell[1];
            (MARGIN - TICK..MARGIN).for_each(|y| pixels[y * width + x] = INK);
        }
        for token in (0..=self.seqlen_q).step_by(self.tick()) {
            let y = MARGIN + token * scale / self.cell[0];
            pixels[y * width + MARGIN - TICK..][..TICK].fill(INK);
        }
        encode(width, height, &pixels)
    }

    /// Lines of text, two characters a cell: `█` kept, `▓▒░` kept in part, `·` skipped.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for m in 0..self.rows() {
            let line: String = (0..self.columns)
                .map(|n| match self.share(m, n) {
                    None => "  ",
                    Some(0.0) => "· ",
                    Some(share) if share < 1.0 / 3.0 => "░░",
                    Some(share) if share < 2.0 / 3.0 => "▒▒",
                    Some(share) if share < 1.0 => "▓▓",
                    Some(_) => "██",
                })
                .collect();
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

fn intersect(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}

fn encode(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
    let mut palette = COLOURS.concat();
    for i in 0..=u8::MAX - KEPT {
        let blend = |from: u8, to: u8| {
            let t = f64::from(i) / f64::from(u8::MAX - KEPT);
            (f64::from(from) + t * (f64::from(to) - f64::from(from))).round() as u8
        };
        palette.extend((0..3).map(|c| blend(HARDLY[c], FULLY[c])));
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(pixels))
        .expect("a picture of matching size is encoded into memory");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::Seqlens;

    fn shape(seqlen_q: usize, seqlen_k: usize) -> AttentionShape {
        AttentionShape::new(2, 1, 16, Seqlens::single(seqlen_q, seqlen_k).unwrap()).unwrap()
    }

    /// The picture's own counts against one pair at a time.
    #[test]
    fn counts_are_those_of_single_pairs() {
        for (seqlen_q, seqlen_k, max_side) in [(200, 200, 100), (130, 257, 3), (70, 300, 100), (100, 60, 100)]
        {
            let shape = shape(seqlen_q, seqlen_k);
            let mask = BlockMask::sink_and_local(&shape, 16, 16, 16, 40).unwrap();
            let mut index = VerticalSlashIndex::empty(&shape).unwrap();
            for _ in 0..2 {
                index.push_head(&[3, 50], &[120, 30, 0]).unwrap();
            }
            let past = seqlen_k as isize - seqlen_q as isize;
            let visible = |i: usize, j: usize| j as isize <= i as isize + past;
            let in_blocks = |i: usize, j: usize| mask.row(0, 1, i / 16).contains(&(j as u32 / 16));
            let in_index = |i: usize, j: usize| {
                index.columns(0, 1, i / 64).contains(&(j as u32))
                    || index.blocks(0, 1, i / 64).iter().any(|&s| (s as usize..s as usize + 64).contains(&j))
            };
            type Keeps<'a> = &'a dyn Fn(usize, usize) -> bool;
            let cases: [(Selection, Keeps); 3] = [
                (Selection::Blocks(&mask), &in_blocks),
                (Selection::VerticalSlash(&index), &in_index),
                (Selection::Dense, &|_, _| true),
            ];
            for (selection, keeps) in cases {
                let picture = MaskPicture::new(selection, &shape, 1, max_side).unwrap();
                assert!(picture.rows() <= max_side && picture.columns <= max_side);
                for m in 0..picture.rows() {
                    for n in 0..picture.columns {
                        let (rows, keys) = picture.cell_ranges(m, n);
                        let pairs = rows.flat_map(|i| keys.clone().map(move |j| (i, j)));
                        let seen: Vec<_> = pairs.filter(|&(i, j)| visible(i, j)).collect();
                        let kept = seen.iter().filter(|&&(i, j)| keeps(i, j)).count();
                        let want = (!seen.is_empty()).then(|| kept as f64 / seen.len() as f64);
                        assert_eq!(picture.share(m, n), want, "{seqlen_q} {seqlen_k} {m} {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn text_of_a_small_mask() {
        let shape = shape(320, 320);
        let mask = BlockMask::sink_and_local(&shape, 64, 64, 64, 1).unwrap();
        let picture = MaskPicture::new(Selection::Blocks(&mask), &shape, 0, 10).unwrap();
        assert_eq!(picture.to_text(), "██\n████\n██· ██\n██· · ██\n██· · · ██\n");
    }

    #[test]
    fn png_has_the_colours_of_its_cells() {
        let shape = shape(256, 256);
        let mask = BlockMask::sink_and_local(&shape, 64, 64, 0, 1).unwrap();
        let picture = MaskPicture::new(Selection::Blocks(&mask), &shape, 0, MAX_SIDE).unwrap();
        let bytes = picture.to_png();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(&bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let side = MIN_PIXELS / 4;
        assert_eq!(
            (info.width as usize, info.height as usize),
            (MARGIN + 4 * side + 1, MARGIN + 4 * side + 1)
        );
        let at = |m: usize, n: usize| {
            let (y, x) = (MARGIN + m * side + side / 2, MARGIN + n * side + side / 2);
            <[u8; 3]>::try_from(&pixels[(y * info.width as usize + x) * 3..][..3]).unwrap()
        };
        assert_eq!(
            [at(1, 1), at(1, 0), at(0, 1)],
            [FULLY, COLOURS[SKIPPED as usize], COLOURS[ABOVE as usize]]
        );
    }

    #[test]
    fn refuses_a_head_out_of_range_and_draws_nothing_at_all() {
        let empty = shape(0, 0);
        let message = MaskPicture::new(Selection::Dense, &empty, 2, 10).unwrap_err().to_string();
        assert_eq!(message, "head must be below num_heads (2), got 2");
        let picture = MaskPicture::new(Selection::Dense, &empty, 0, 10).unwrap();
        assert_eq!(picture.to_text(), "");
        assert!(!picture.to_png().is_empty());
    }
}
