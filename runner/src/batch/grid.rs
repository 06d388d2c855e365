//! The file of a sweep.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::expand::expand;
use super::grid_file::{Raw, RawAttn, RawNeedle};
use crate::attn::{Attn, parse_length};
use crate::needle::{Haystack, ValueKind};
use crate::{Error, Result};

/// What a sweep runs: every kind of attention at every length, over the same samples.
///
/// ```toml
/// lengths = ["2k", "4k"]
/// samples = 8
///
/// [[attn]]
/// attn = "dense"
///
/// [[attn]]
/// attn = "seq-topk,block=512,top_k={top_k}"
/// top_k = [64, 128]
/// ```
#[derive(Debug)]
pub struct Grid {
    /// The model's directory. `None`: the needle model.
    pub model: Option<PathBuf>,
    /// Tokens of a prompt; under [`Data::Files`] what they are called.
    pub lengths: Vec<usize>,
    /// Samples of each length, at most. Default 10.
    pub samples: u64,
    /// Seed of prompts and of sampling. Default 0.
    pub seed: u64,
    /// The most tokens of an answer. Default 32.
    pub max_new_tokens: usize,
    /// Texts that end an answer. Default a full stop for needles, none for files.
    pub stop: Vec<String>,
    /// The prompts. Default needles.
    pub data: Data,
    /// All kinds of attention, no two the same.
    pub attns: Vec<Attn>,
}

/// Where a sweep's prompts come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Texts with facts hidden in them, one of which is asked for.
    Needle(NeedleData),
    /// A JSONL file for each of the lengths.
    Files(Vec<PathBuf>),
}

/// How facts are hidden. Sample `i` has the seed of the grid, and `i` more.
#[derive(Debug, Clone, PartialEq)]
pub struct NeedleData {
    /// Default [`Haystack::Prose`].
    pub haystack: Haystack,
    /// Default [`ValueKind::Number`].
    pub value: ValueKind,
    /// Facts in a text. Default 1.
    pub needles: usize,
    /// Where the only fact is, in percent of the text, one sample after the other. Default: anywhere.
    pub depths: Option<Vec<f64>>,
}

impl Grid {
    /// Reads a grid. Paths in it start at its directory.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] with the line and the key that are wrong.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::malformed(path, "not UTF-8 text"))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).map_err(|reason| Error::malformed(path, reason))
    }

    /// Reads the text of a grid whose paths start at `directory`.
    ///
    /// # Errors
    /// What is wrong, with the line and the key, as a phrase to stand after the name of the file.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let source = Source(text);
        let raw: Raw = toml::from_str(text).map_err(|e| match e.span() {
            Some(span) => source.at(&span, e.message()),
            None => e.message().to_owned(),
        })?;
        let (lengths, data) = match (raw.files, raw.needle) {
            (Some(files), None) => {
                if let Some(lengths) = raw.lengths {
                    let reason = "the lengths are those of [files]; leave lengths out";
                    return Err(source.at(&lengths.span(), reason));
                }
                source.files(files, directory)?
            }
            (None, needle) => {
                let lengths = raw.lengths.ok_or("lengths = [...] is missing")?;
                let span = lengths.span();
                let lengths: Vec<usize> = lengths.into_inner().iter().map(|n| n.get_ref().0).collect();
                if lengths.is_empty() {
                    return Err(source.at(&span, "at least one length is needed"));
                }
                source.distinct(&span, &lengths)?;
                (lengths, Data::Needle(source.needle(needle.unwrap_or_default())?))
            }
            (Some(files), Some(_)) => {
                return Err(source.at(&files.span(), "[files] and [needle] exclude one another"));
            }
        };
        let samples = match raw.samples {
            Some(samples) if *samples.get_ref() == 0 => {
                return Err(source.at(&samples.span(), "must be at least 1, got 0"));
            }
            samples => samples.map_or(10, Spanned::into_inner),
        };
        let stop = raw.stop.unwrap_or_else(|| match data {
            Data::Needle(_) => vec![".".into()],
            Data::Files(_) => Vec::new(),
        });
        Ok(Self {
            model: raw.model.map(|model| directory.join(model)),
            lengths,
            samples,
            seed: raw.seed.unwrap_or(0),
            max_new_tokens: raw.max_new_tokens.map_or(32, |n| n.get_ref().0),
            stop,
            data,
            attns: source.attns(raw.attn)?,
        })
    }
}

/// The text of a grid, for errors.
struct Source<'a>(&'a str);

impl Source<'_> {
    /// `line 3: samples: must be ...`
    fn at(&self, span: &Range<usize>, reason: &str) -> String {
        let before = self.0.get(..span.start).unwrap_or(self.0);
        let number = before.matches('\n').count();
        let line = self.0.lines().nth(number).unwrap_or_default();
        let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|key| !key.is_empty());
        let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
        let reason: Vec<&str> = reason.split_whitespace().collect();
        format!("line {}: {key}{}", number + 1, reason.join(" "))
    }

    fn distinct(&self, span: &Range<usize>, lengths: &[usize]) -> Result<(), String> {
        let twice = lengths.iter().enumerate().find(|(i, length)| lengths[..*i].contains(length));
        twice.map_or(Ok(()), |(_, length)| Err(self.at(span, &format!("{length} is given twice"))))
    }

    fn files(
        &self,
        files: Spanned<BTreeMap<String, PathBuf>>,
        directory: &Path,
    ) -> Result<(Vec<usize>, Data), String> {
        let span = files.span();
        let mut pairs = Vec::new();
        for (name, path) in files.into_inner() {
            let length = parse_length(&name);
            let length =
                length.map_err(|expected| self.at(&span, &format!("{name:?} must be {expected}")))?;
            pairs.push((length, directory.join(path)));
        }
        if pairs.is_empty() {
            return Err(self.at(&span, "at least one file is needed"));
        }
        pairs.sort();
        let (lengths, paths): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        self.distinct(&span, &lengths)?;
        Ok((lengths, Data::Files(paths)))
    }

    fn needle(&self, raw: RawNeedle) -> Result<NeedleData, String> {
        let haystack = match &raw.haystack {
            None => Haystack::default(),
            Some(name) => match name.get_ref().as_str() {
                "prose" => Haystack::Prose,
                "noise" => Haystack::Noise,
                "needles" => Haystack::Needles,
                _ => return Err(self.at(&name.span(), "must be prose, noise or needles")),
            },
        };
        let value = match &raw.value {
            None => ValueKind::default(),
            Some(name) => match name.get_ref().as_str() {
                "number" => ValueKind::Number,
                "uuid" => ValueKind::Uuid,
                _ => return Err(self.at(&name.span(), "must be number or uuid")),
            },
        };
        let needles = match &raw.needles {
            None => 1,
            Some(needles) if (1..=16).contains(needles.get_ref()) => usize::from(*needles.get_ref()),
            Some(needles) => return Err(self.at(&needles.span(), "must be 1 to 16")),
        };
        let depths = match raw.depths {
            None => None,
            Some(depths) => {
                let list = depths.get_ref();
                let reason = match list {
                    _ if needles != 1 => "the place of one fact; needles must be 1",
                    list if list.is_empty() => "at least one is needed",
                    list if list.iter().any(|depth| !(0.0..=100.0).contains(depth)) => "must be 0 to 100",
                    _ => "",
                };
                if !reason.is_empty() {
                    return Err(self.at(&depths.span(), reason));
                }
                Some(depths.into_inner())
            }
        };
        Ok(NeedleData { haystack, value, needles, depths })
    }

    fn attns(&self, entries: Spanned<Vec<Spanned<RawAttn>>>) -> Result<Vec<Attn>, String> {
        let span = entries.span();
        let mut attns = Vec::<Attn>::new();
        for entry in entries.into_inner() {
            let span = entry.span();
            for attn in expand(&entry.get_ref().0).map_err(|reason| self.at(&span, &reason))? {
                if attns.contains(&attn) {
                    return Err(self.at(&span, &format!("{attn} is given twice")));
                }
                attns.push(attn);
            }
        }
        match attns.is_empty() {
            true => Err(self.at(&span, "at least one kind of attention is needed")),
            false => Ok(attns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Grid, String> {
        Grid::parse(text, Path::new("dir"))
    }

    #[test]
    fn a_small_grid_and_its_defaults() {
        let grid = parse("lengths = [\"2k\", 512]\nattn = [\"dense\", \"streaming\"]").unwrap();
        assert_eq!((grid.model, grid.samples, grid.seed, grid.max_new_tokens), (None, 10, 0, 32));
        assert_eq!(grid.lengths, [2048, 512]);
        assert_eq!(grid.stop, ["."]);
        let needle =
            NeedleData { haystack: Haystack::Prose, value: ValueKind::Number, needles: 1, depths: None };
        assert_eq!(grid.data, Data::Needle(needle));
        let labels: Vec<_> = grid.attns.iter().map(Attn::to_string).collect();
        assert_eq!(labels, ["dense", "streaming"]);
    }

    #[test]
    fn everything_at_once() {
        let grid = parse(
            r#"
model = "llama"
samples = 3
seed = 7
max_new_tokens = "1k"
stop = ["\n"]

[files]
"32k" = "b.jsonl"
"16k" = "/a.jsonl"

[[attn]]
attn = "dense"

[[attn]]
attn = "streaming,global={g},local={l}"
g = [64, "128"]
l = ["1k"]
"#,
        )
        .unwrap();
        assert_eq!(grid.model, Some("dir/llama".into()));
        assert_eq!((grid.samples, grid.seed, grid.max_new_tokens), (3, 7, 1024));
        assert_eq!(grid.lengths, [16384, 32768]);
        assert_eq!(grid.data, Data::Files(vec!["/a.jsonl".into(), "dir/b.jsonl".into()]));
        assert_eq!(grid.attns.len(), 3);
        assert_eq!(grid.stop, ["\n"]);
    }

    #[test]
    fn mistakes_are_named_by_line_and_key() {
        let base = "lengths = [512]\nattn = [\"dense\"]\n";
        for (text, says) in [
            (format!("{base}samples = 0"), "line 3: samples: must be at least 1, got 0"),
            (format!("{base}samples = \"3\""), "line 3: samples: invalid type: string"),
            (format!("{base}smaples = 3"), "line 3: smaples: unknown field `smaples`, expected one of"),
            (format!("{base}[needle]\nneedles = 0"), "line 4: needles: must be 1 to 16"),
            (
                format!("{base}[needle]\nhaystack = \"hay\""),
                "line 4: haystack: must be prose, noise or needles",
            ),
            (format!("{base}[needle]\nvalue = \"x\""), "line 4: value: must be number or uuid"),
            (format!("{base}[needle]\ndepths = [101]"), "line 4: depths: must be 0 to 100"),
            (format!("{base}[needle]\ndepths = [nan]"), "line 4: depths: must be 0 to 100"),
            (format!("{base}[needle]\nneedles = 2\ndepths = [1]"), "line 5: depths: the place of one fact"),
            (format!("{base}[files]\n512 = \"x\""), "line 1: lengths: the lengths are those of [files]"),
            ("attn = [\"dense\"]".into(), "lengths = [...] is missing"),
            ("lengths = [512]".into(), "missing field `attn`"),
            ("lengths = []\nattn = [\"dense\"]".into(), "line 1: lengths: at least one length is needed"),
            ("lengths = [512, \"512\"]\nattn = [\"dense\"]".into(), "line 1: lengths: 512 is given twice"),
            ("lengths = [0]\nattn = [\"dense\"]".into(), "line 1: lengths: must be at least 1"),
            ("lengths = [-5]\nattn = [\"dense\"]".into(), "line 1: lengths: must be a whole number"),
            ("lengths = [512]\nattn = []".into(), "line 2: attn: at least one kind of attention"),
            ("lengths = [512]\nattn = [\"dens\"]".into(), "line 2: attn: there is no"),
            ("lengths = [512]\nattn = [\"dense\", \"dense\"]".into(), "line 2: attn: dense is given twice"),
            (
                "lengths = [512]\nattn = [7]".into(),
                "line 2: attn: invalid type: integer `7`, expected a text such as",
            ),
            ("lengths = [512]\n[[attn]]\ntop_k = [1]".into(), "missing field `attn`"),
            ("lengths = [512]\n[[attn]]\nattn = \"dense\"\nk = [[1]]".into(), "a list must hold texts"),
            ("attn = [\"dense\"]\n[files]\nbig = \"x\"".into(), "\"big\" must be a whole number"),
            ("attn = [\"dense\"]\n[files]\n".into(), "at least one file is needed"),
            ("lengths = [".into(), "line 1: "),
        ] {
            let reason = parse(&text).unwrap_err();
            assert!(reason.contains(says), "{text}\n{reason}");
            assert!(!reason.contains('\n'), "{reason}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grid.toml");
        assert!(Grid::from_file(&path).unwrap_err().to_string().starts_with("cannot read "));
        std::fs::write(&path, b"\xff").unwrap();
        assert!(Grid::from_file(&path).unwrap_err().to_string().ends_with("grid.toml: not UTF-8 text"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_grid_or_a_reason(text in "(\\PC|\n|lengths|attn|=|\\[|\\]|\"){0,60}") {
            if let Err(reason) = parse(&text) {
                proptest::prop_assert!(!reason.is_empty());
            }
        }
    }
}
