//! What is done to a context's rows between passes.

use std::ops::Range;

use bytemuck::Pod;
use lacuna::Element;

use super::session::LlamaSession;
use crate::model::kv_session::check_layer;
use crate::model::{KvRows, KvSession, Observer, PassOptions, PassOutput};
use crate::{Error, Result};

/// A step that was begun before its token was asked for counts on the rows and on the next position: whatever changes these
/// forgets it. Its kernels come before all that follows on the stream, and write behind the rows that count.
impl<T: Element + Pod> KvSession for LlamaSession<'_, T> {
    fn pass(
        &mut self,
        tokens: &[u32],
        options: PassOptions<'_>,
        observer: &mut dyn Observer,
    ) -> Result<PassOutput> {
        self.run(tokens, options, observer)
    }

    fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.positions.check_kept(rows)?;
        // Rows that stay where they are need no move.
        let first = rows.iter().zip(0..).position(|(&row, to)| row != to).unwrap_or(rows.len());
        let moved: Vec<u32> = rows[first..].iter().map(|&row| row as u32).collect();
        self.cache.copy(&self.model.context, &self.stream, &moved, first)?;
        self.decoder.drop_ahead();
        self.positions.keep(rows)
    }

    fn duplicate(&mut self, rows: Range<usize>) -> Result<()> {
        self.positions.check_rows(&rows)?;
        self.positions.check_room(rows.len())?;
        let copied: Vec<u32> = rows.clone().map(|row| row as u32).collect();
        self.cache.copy(&self.model.context, &self.stream, &copied, self.positions.len())?;
        self.decoder.drop_ahead();
        self.positions.duplicate(rows)
    }

    fn read_kv(&mut self, rows: Range<usize>) -> Result<KvRows> {
        self.positions.check_rows(&rows)?;
        let mut bytes = Vec::new();
        let size = rows.len() * self.cache.bytes_per_token();
        bytes
            .try_reserve_exact(size)
            .map_err(|_| Error::OutOfMemory { what: "keys and values to send", bytes: size as u128 })?;
        for layer in 0..self.model.config.num_hidden_layers {
            self.cache.read(&self.stream, layer, rows.clone(), &mut bytes)?;
        }
        Ok(KvRows { position_ids: self.positions.cached()[rows].to_vec(), bytes })
    }

    fn append_kv(&mut self, rows: &KvRows) -> Result<()> {
        let KvRows { position_ids, bytes } = rows;
        let (tokens, per_token) = (position_ids.len(), self.cache.bytes_per_token());
        rows.check(per_token)?;
        self.positions.check_room(tokens)?;
        let layers = self.model.config.num_hidden_layers;
        let per_layer = tokens * per_token / layers;
        let to = self.positions.len();
        for layer in 0..layers {
            let bytes = &bytes[layer * per_layer..][..per_layer];
            self.cache.write(&self.stream, layer, to, tokens, bytes)?;
        }
        self.decoder.drop_ahead();
        self.positions.commit(position_ids);
        Ok(())
    }

    fn read_k(&mut self, layer: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        check_layer(layer, self.model.config.num_hidden_layers)?;
        self.positions.check_rows(&rows)?;
        self.cache.read_k(&self.stream, layer, rows)
    }

    fn position_ids(&self) -> &[u32] {
        self.positions.cached()
    }

    fn continue_at(&mut self, position: u32) {
        self.decoder.drop_ahead();
        self.positions.continue_at(position);
    }

    fn records_decoding(&self) -> bool {
        true
    }

    fn kv_bytes_per_token(&self) -> usize {
        self.cache.bytes_per_token()
    }
}
