//! The texts that needles are hidden in.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::wording::{NOISE, STOP, ValueKind, record};
use super::words::{self, Words};

/// What the needles are hidden in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Haystack {
    /// Five short sentences over and over: the easiest.
    Noise,
    /// Sentences of a small English grammar over our own word lists, in paragraphs; never the same twice.
    #[default]
    Prose,
    /// Nothing but needles, with other keys: the hardest.
    Needles,
}

impl Haystack {
    /// What stands between an inserted needle and the text after it.
    pub(super) const fn joint(self) -> &'static str {
        match self {
            Self::Noise | Self::Prose => " ",
            Self::Needles => "\n",
        }
    }
}

/// The pieces of a haystack, in order: sentences with the white space that follows them. It ends when the keys do.
pub(super) struct Pieces<'a> {
    haystack: Haystack,
    kind: ValueKind,
    keys: &'a mut Keys,
    rng: &'a mut ChaCha8Rng,
    /// How many sentences there are to go in this line or paragraph.
    left: usize,
}

impl<'a> Pieces<'a> {
    pub fn new(haystack: Haystack, kind: ValueKind, keys: &'a mut Keys, rng: &'a mut ChaCha8Rng) -> Self {
        Self { haystack, kind, keys, rng, left: 0 }
    }
}

impl Iterator for Pieces<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.left == 0 {
            self.left = match self.haystack {
                Haystack::Noise => NOISE.len(),
                Haystack::Prose => self.rng.random_range(3..=8),
                Haystack::Needles => 1,
            };
        }
        let mut piece = match self.haystack {
            Haystack::Noise => NOISE[NOISE.len() - self.left].to_owned(),
            Haystack::Prose => sentence(self.rng),
            Haystack::Needles => {
                record(self.kind, &self.keys.next()?) + " " + &self.kind.draw(self.rng) + STOP
            }
        };
        self.left -= 1;
        piece.push(if self.left == 0 { '\n' } else { ' ' });
        Some(piece)
    }
}

/// Distinct keys `adjective-noun` in random order.
pub(super) struct Keys {
    nouns: Vec<&'static str>,
    order: Vec<usize>,
}

impl Keys {
    pub fn new(rng: &mut ChaCha8Rng) -> Self {
        let nouns: Vec<_> = words::key_nouns().collect();
        let mut order: Vec<_> = (0..nouns.len() * words::ADJECTIVES.len()).collect();
        order.shuffle(rng);
        Self { nouns, order }
    }
}

impl Iterator for Keys {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let pair = self.order.pop()?;
        let (adjective, noun) = (pair / self.nouns.len(), pair % self.nouns.len());
        Some(format!("{}-{}", words::ADJECTIVES[adjective], self.nouns[noun]))
    }
}

/// A sentence of 6 to 25 words.
fn sentence(rng: &mut ChaCha8Rng) -> String {
    loop {
        let mut sentence = Sentence { rng, text: String::new(), words: 0 };
        sentence.statement();
        if (6..=25).contains(&sentence.words) {
            return words::capitalised(&sentence.text) + STOP;
        }
    }
}

/// A sentence under construction, by a phrase-structure grammar:
///
/// ```text
/// statement  ->  clause  |  clause, and|but|so clause  |  clause conjunction clause  |  conjunction clause, clause
/// clause     ->  actor action  |  place was adjective [and adjective]
/// action     ->  verb object [along a place]  |  verb [adverb] along a place
/// actor      ->  person|animal [with object]  |  person who verb object,
/// ```
struct Sentence<'a> {
    rng: &'a mut ChaCha8Rng,
    text: String,
    words: usize,
}

impl Sentence<'_> {
    fn statement(&mut self) {
        match self.rng.random_range(0..10) {
            0..5 => self.clause(),
            5..7 => {
                self.clause();
                self.text.push(',');
                self.one_of(&["and", "but", "so"]);
                self.clause();
            }
            7 => {
                self.clause();
                self.one_of(&words::CONJUNCTIONS);
                self.clause();
            }
            _ => {
                self.one_of(&words::CONJUNCTIONS);
                self.clause();
                self.text.push(',');
                self.clause();
            }
        }
    }

    fn clause(&mut self) {
        if self.chance(0.15) {
            self.noun_phrase(&[&words::PLACES]);
            self.word("was");
            self.one_of(&words::ADJECTIVES);
            if self.chance(0.5) {
                self.word("and");
                self.one_of(&words::ADJECTIVES);
            }
        } else {
            self.actor();
            self.action();
        }
    }

    fn actor(&mut self) {
        if self.chance(0.1) {
            self.noun_phrase(&[&words::PEOPLE]);
            self.word("who");
            self.one_of(&words::TRANSITIVE_VERBS);
            self.object();
        } else {
            self.noun_phrase(&[&words::PEOPLE, &words::PEOPLE, &words::ANIMALS]);
            if self.chance(0.1) {
                self.word("with");
                self.object();
            }
        }
    }

    fn action(&mut self) {
        if self.chance(0.5) {
            self.one_of(&words::TRANSITIVE_VERBS);
            self.object();
            if self.chance(0.5) {
                self.place();
            }
        } else {
            self.one_of(&words::INTRANSITIVE_VERBS);
            if self.chance(0.3) {
                self.one_of(&words::ADVERBS);
            }
            self.place();
        }
    }

    fn object(&mut self) {
        self.noun_phrase(&[&words::THINGS, &words::THINGS, &words::THINGS, &words::ANIMALS]);
    }

    fn place(&mut self) {
        self.one_of(&words::PREPOSITIONS);
        self.noun_phrase(&[&words::PLACES]);
    }

    /// Determiner, perhaps an adjective, and a noun from one of the lists.
    fn noun_phrase(&mut self, lists: &[&Words]) {
        let list = lists.choose(self.rng).expect("a phrase has nouns to choose from");
        let noun = *list.choose(self.rng).expect("word lists are not empty");
        let adjective = self.chance(0.4).then(|| *words::ADJECTIVES.choose(self.rng).expect("not empty"));
        match self.rng.random_range(0..4) {
            0 | 1 => self.word("the"),
            2 if adjective.unwrap_or(noun).starts_with(['a', 'e', 'i', 'o', 'u']) => self.word("an"),
            2 => self.word("a"),
            _ => self.one_of(&words::DETERMINERS),
        }
        if let Some(adjective) = adjective {
            self.word(adjective);
        }
        self.word(noun);
    }

    fn one_of(&mut self, words: &[&str]) {
        let word = *words.choose(self.rng).expect("word lists are not empty");
        self.word(word);
    }

    fn word(&mut self, word: &str) {
        if self.words > 0 {
            self.text.push(' ');
        }
        self.text.push_str(word);
        self.words += 1;
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needle::vocabulary::VOCABULARY;
    use crate::needle::{tokenizer, wording::MARKERS};
    use rand::SeedableRng;
    use std::collections::HashSet;

    fn text(haystack: Haystack, pieces: usize, seed: u64) -> String {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let keys = &mut Keys::new(rng);
        Pieces::new(haystack, ValueKind::Number, keys, rng).take(pieces).collect()
    }

    #[test]
    fn prose_is_made_of_whole_tokens_and_holds_no_marker_and_no_digit() {
        let text = text(Haystack::Prose, 2000, 5);
        for id in tokenizer().encode(text.trim_end(), false).unwrap().get_ids() {
            let token = VOCABULARY.tokens().nth(*id as usize).unwrap();
            assert!(*id >= 256 || b".,\nA".contains(&token[0]), "{:?}", String::from_utf8_lossy(token));
        }
        assert!(!text.contains(|c: char| c.is_ascii_digit()));
        for word in text.split(|c: char| !c.is_alphabetic()) {
            assert!(!MARKERS.contains(&word.to_lowercase().as_str()), "{word}");
        }
    }

    #[test]
    fn prose_has_sentences_and_paragraphs_of_the_promised_lengths() {
        let text = text(Haystack::Prose, 2000, 6);
        let paragraphs: Vec<_> = text.lines().collect();
        let (_last, whole) = paragraphs.split_last().unwrap();
        for paragraph in whole {
            let sentences: Vec<_> = paragraph.split_inclusive('.').collect();
            assert!((3..=8).contains(&sentences.len()), "{paragraph}");
            for sentence in sentences {
                let words: Vec<_> = sentence.split_whitespace().collect();
                assert!((6..=25).contains(&words.len()), "{sentence}");
                assert!(words[0].starts_with(|c: char| c.is_ascii_uppercase()), "{sentence}");
                for pair in words.windows(2).filter(|pair| ["a", "an"].contains(&pair[0])) {
                    assert_eq!(pair[0] == "an", pair[1].starts_with(['a', 'e', 'i', 'o', 'u']), "{sentence}");
                }
            }
        }
    }

    #[test]
    fn noise_is_five_sentences_to_the_line() {
        let text = text(Haystack::Noise, 12, 0);
        assert_eq!(text.lines().count(), 3);
        assert_eq!(text.lines().next().unwrap(), NOISE.join(" "));
    }

    #[test]
    fn keys_never_repeat() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let keys: Vec<_> = Keys::new(&mut rng).collect();
        assert!(keys.len() > 60_000);
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
    }
}
