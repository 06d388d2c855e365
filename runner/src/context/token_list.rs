//! Tokens of a pass, and where they stand.

use super::prefill::positions;
use crate::Result;

/// Some tokens in the order in which they are run.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct TokenList {
    pub tokens: Vec<u32>,
    pub position_ids: Vec<u32>,
}

impl TokenList {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Adds tokens that stand one after the other, the first at `start`.
    pub fn run(mut self, tokens: &[u32], start: usize) -> Result<Self> {
        self.position_ids.extend(positions(start, tokens.len())?);
        self.tokens.extend_from_slice(tokens);
        Ok(self)
    }

    /// Adds the tokens of `context` at `chosen`, in their own places.
    pub fn chosen(mut self, context: &[u32], chosen: &[u32]) -> Self {
        self.position_ids.extend_from_slice(chosen);
        self.tokens.extend(chosen.iter().map(|&position| context[position as usize]));
        self
    }

    /// Closes the gaps: one token after the other, the first at `start`.
    pub fn contiguous(mut self, start: usize) -> Result<Self> {
        self.position_ids = positions(start, self.len())?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_their_places_until_the_gaps_are_closed() {
        let list = TokenList::default().chosen(&[10, 11, 12, 13], &[1, 3]).run(&[14, 15], 7).unwrap();
        assert_eq!(list.tokens, [11, 13, 14, 15]);
        assert_eq!(list.position_ids, [1, 3, 7, 8]);
        let list = list.contiguous(5).unwrap();
        assert_eq!((list.tokens, list.position_ids), (vec![11, 13, 14, 15], vec![5, 6, 7, 8]));
    }

    #[test]
    fn positions_beyond_32_bits_are_refused() {
        assert!(TokenList::default().run(&[1, 2], u32::MAX as usize).is_err());
    }
}
