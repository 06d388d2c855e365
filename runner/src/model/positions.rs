//! Where the tokens of a context stand.

use super::config::Config;
use crate::{Error, Result};

/// The position of every token of a context, and how many there is room for.
pub(crate) struct Positions {
    capacity: usize,
    position_ids: Vec<u32>,
}

impl Positions {
    /// None yet.
    pub fn new(capacity: usize) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::invalid("capacity", "at least 1 token", capacity));
        }
        // The kernels count tokens in 32 bits.
        u32::try_from(capacity).map_err(|_| too_large(capacity))?;
        Ok(Self { capacity, position_ids: Vec::new() })
    }

    /// Tokens cached.
    pub fn len(&self) -> usize {
        self.position_ids.len()
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The positions of `tokens`: `position_ids`, or on from the last one. Refuses tokens and positions that the model does not
    /// have, and more than there is room for.
    pub fn of_next(&self, config: &Config, tokens: &[u32], position_ids: Option<&[u32]>) -> Result<Vec<u32>> {
        if tokens.is_empty() {
            return Err(Error::invalid("tokens", "at least 1 token", "none"));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= config.vocab_size) {
            let expected = format!("ids below vocab_size ({})", config.vocab_size);
            return Err(Error::invalid("tokens", expected, token));
        }
        let end = self.len().saturating_add(tokens.len());
        if end > self.capacity {
            return Err(Error::TooLong {
                what: "the context",
                tokens: end,
                limit_name: "the session's capacity",
                limit: self.capacity,
            });
        }
        let next = self.position_ids.last().map_or(0, |&p| p.saturating_add(1));
        let position_ids = match position_ids {
            Some(ids) if ids.len() != tokens.len() => {
                let expected = format!("one for each of {} tokens", tokens.len());
                return Err(Error::invalid("position_ids", expected, ids.len()));
            }
            Some(ids) => ids.to_vec(),
            None => (next..).take(tokens.len()).collect(),
        };
        let needed = position_ids.iter().max().map_or(0, |&p| p as usize + 1);
        if needed > config.max_position_embeddings {
            return Err(Error::TooLong {
                what: "the context",
                tokens: needed,
                limit_name: "max_position_embeddings",
                limit: config.max_position_embeddings,
            });
        }
        Ok(position_ids)
    }

    /// Counts tokens as cached, once every layer holds them.
    pub fn commit(&mut self, position_ids: &[u32]) {
        self.position_ids.extend_from_slice(position_ids);
    }

    /// Forgets all but the first `len`.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.len() {
            let expected = format!("at most {} cached tokens", self.len());
            return Err(Error::invalid("len", expected, len));
        }
        self.position_ids.truncate(len);
        Ok(())
    }
}

/// Refuses a KV cache that could not be addressed.
pub(crate) fn too_large(capacity: usize) -> Error {
    Error::invalid("capacity", "small enough that the KV cache can be addressed", capacity)
}
