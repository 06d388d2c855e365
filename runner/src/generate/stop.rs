//! Stop strings in a stream of text pieces.

/// Looks for stop strings across the borders of the pieces a text arrives in, and holds back what may be the start of one.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Empty strings are ignored: they would stop at once.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|s: &String| !s.is_empty()).collect();
        Self { stops, held: String::new() }
    }

    /// Takes the next piece. Returns the text that is certain to lie before any stop string, and whether one was found;
    /// after that the rest is dropped.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        // The one complete first, of those the longest: so the borders between pieces make no difference.
        let found = |stop: &String| self.held.find(stop).map(|at| (at + stop.len(), at));
        if let Some((_, at)) = self.stops.iter().filter_map(found).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let safe = self
            .held
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len());
        let held = self.held.split_off(safe);
        (std::mem::replace(&mut self.held, held), false)
    }

    /// What was held back, at the end of the text.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_a_stop_string_across_pieces_and_cuts_before_it() {
        let mut stops = StopStrings::new(["<end>", "STOP"]);
        assert_eq!(stops.push("a <e"), ("a ".into(), false));
        assert_eq!(stops.push("n"), (String::new(), false));
        assert_eq!(stops.push("x ST"), ("<enx ".into(), false));
        assert_eq!(stops.push("OP and more"), (String::new(), true));
    }

    proptest! {
        #[test]
        fn equals_a_search_in_the_whole_text(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            words in prop::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let text: String = pieces.concat();
            let first = words.iter().filter_map(|w| text.find(w).map(|at| (at + w.len(), at))).min();
            let mut stops = StopStrings::new(words);
            let mut got = String::new();
            let mut stopped = false;
            for piece in &pieces {
                let (safe, stop) = stops.push(piece);
                got += &safe;
                if stop {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                got += &stops.finish();
            }
            prop_assert_eq!(stopped, first.is_some());
            prop_assert_eq!(got, &text[..first.map_or(text.len(), |(_, at)| at)]);
        }
    }
}
