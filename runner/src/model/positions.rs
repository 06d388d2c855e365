//! Where the tokens of a context stand.

use std::ops::Range;

use super::config::Config;
use crate::{Error, Result};

/// The position of every token of a context, and how many there is room for.
pub(crate) struct Positions {
    capacity: usize,
    position_ids: Vec<u32>,
    /// After so many tokens the next one stands here.
    continuation: Option<(usize, u32)>,
}

impl Positions {
    /// None yet.
    pub fn new(capacity: usize) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::invalid("capacity", "at least 1 token", capacity));
        }
        // The kernels count tokens in 32 bits.
        u32::try_from(capacity).map_err(|_| too_large(capacity))?;
        Ok(Self { capacity, position_ids: Vec::new(), continuation: None })
    }

    /// Tokens cached.
    pub fn len(&self) -> usize {
        self.position_ids.len()
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The positions of the cached tokens.
    pub fn cached(&self) -> &[u32] {
        &self.position_ids
    }

    /// Where the next token stands.
    fn next(&self) -> u32 {
        match self.continuation {
            Some((len, position)) if len == self.len() => position,
            _ => self.position_ids.last().map_or(0, |&p| p.saturating_add(1)),
        }
    }

    /// Lets the next token stand at `position`, and so again after a truncation to as many tokens as there are now.
    pub fn continue_at(&mut self, position: u32) {
        self.continuation = Some((self.len(), position));
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
        self.check_room(tokens.len())?;
        let next = self.next();
        let position_ids = match position_ids {
            Some(ids) if ids.len() != tokens.len() => {
                let expected = format!("one for each of {} tokens", tokens.len());
                return Err(Error::invalid("position_ids", expected, ids.len()));
            }
            Some(ids) => ids.to_vec(),
            // Those that overflow are refused with the others that the model does not have.
            None => (0..tokens.len() as u32).map(|i| next.saturating_add(i)).collect(),
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

    /// Refuses `tokens` more where there is no room for them.
    pub fn check_room(&self, tokens: usize) -> Result<()> {
        let end = self.len().saturating_add(tokens);
        if end > self.capacity {
            return Err(Error::TooLong {
                what: "the context",
                tokens: end,
                limit_name: "the session's capacity",
                limit: self.capacity,
            });
        }
        Ok(())
    }

    /// Refuses rows that are not cached.
    pub fn check_rows(&self, rows: &Range<usize>) -> Result<()> {
        if rows.start > rows.end || rows.end > self.len() {
            let expected = format!("rows of {} cached tokens", self.len());
            return Err(Error::invalid("rows", expected, format_args!("{rows:?}")));
        }
        Ok(())
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
        self.continuation = self.continuation.filter(|&(at, _)| at <= len);
        Ok(())
    }

    /// Counts copies of cached tokens as cached.
    pub fn duplicate(&mut self, rows: Range<usize>) -> Result<()> {
        self.check_rows(&rows)?;
        self.check_room(rows.len())?;
        self.position_ids.extend_from_within(rows);
        Ok(())
    }

    /// Refuses rows to keep that are not cached, or do not ascend.
    pub fn check_kept(&self, rows: &[usize]) -> Result<()> {
        if let Some(w) = rows.windows(2).find(|w| w[0] >= w[1]) {
            return Err(Error::invalid("rows", "ascending", format_args!("{} after {}", w[1], w[0])));
        }
        if let Some(row) = rows.last().filter(|&&row| row >= self.len()) {
            return Err(Error::invalid("rows", format_args!("below {} cached tokens", self.len()), row));
        }
        Ok(())
    }

    /// Keeps the tokens of `rows`, ascending.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.check_kept(rows)?;
        let next = self.next();
        self.position_ids = rows.iter().map(|&row| self.position_ids[row]).collect();
        self.continue_at(next);
        Ok(())
    }
}

/// Refuses a KV cache that could not be addressed.
pub(crate) fn too_large(capacity: usize) -> Error {
    Error::invalid("capacity", "small enough that the KV cache can be addressed", capacity)
}
