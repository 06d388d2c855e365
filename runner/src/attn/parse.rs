//! `METHOD[,KEY=VALUE...]+PATTERN[,KEY=VALUE...]` to an attention.

use std::collections::HashSet;
use std::str::FromStr;

use lacuna::Pattern;

use super::entry::{Entry, Field, Key, Refusal, normalize};
use super::error::nearest;
use super::methods::METHODS;
use super::patterns::{PATTERNS, THRESHOLD, THRESHOLD_TABLE};
use super::{Attn, ParseAttnError, PatternOptions, Setting};
use crate::Error;
use crate::context::Method;

impl FromStr for Attn {
    type Err = ParseAttnError;

    /// Case does not matter but in names of files, `-` and `_` are the same, and a switch without a value is on. `compat` is
    /// applied before the keys that it stands for, wherever it stands. A `+` before a digit is a sign. A file that a key names is
    /// read.
    fn from_str(text: &str) -> Result<Self, ParseAttnError> {
        let (mut method, mut pattern) = (None, None);
        for part in parts(text) {
            match Part::parse(part)? {
                Part::Method(next) => {
                    if let Some(before) = method.as_ref().map(Setting::name) {
                        let names = [before, next.name()];
                        return Err(ParseAttnError::Twice { kind: "context methods", names });
                    }
                    if let Some(pattern) = pattern.as_ref().map(Setting::name) {
                        return Err(ParseAttnError::Order { method: next.name(), pattern });
                    }
                    method = Some(next);
                }
                Part::Pattern(next) => {
                    if let Some(before) = pattern.as_ref().map(Setting::name) {
                        let names = [before, next.name()];
                        return Err(ParseAttnError::Twice { kind: "patterns", names });
                    }
                    pattern = Some(next);
                }
            }
        }
        let attn = Self { method, pattern: pattern.unwrap_or_else(|| PATTERNS[0].setting()) };
        if *attn.method() == Method::Ring && *attn.pattern() != Pattern::Dense {
            let (method, pattern) = (attn.method().name(), attn.pattern.name());
            return Err(ParseAttnError::NotUnder { method, pattern });
        }
        Ok(attn)
    }
}

/// Cuts at every `+` that is no sign.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices('+') {
        if !text[at + 1..].starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A context method or a pattern.
enum Part {
    Method(Setting<Method>),
    Pattern(Setting<PatternOptions>),
}

impl Part {
    fn parse(text: &str) -> Result<Self, ParseAttnError> {
        let (name, settings) = text.split_once(',').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let wanted = normalize(name.trim());
        if let Some(entry) = METHODS.iter().find(|entry| entry.is(&wanted)) {
            return setting(entry, settings).map(|(method, _)| Self::Method(method));
        }
        let Some(entry) = PATTERNS.iter().find(|entry| entry.is(&wanted)) else {
            let known = PATTERNS.iter().map(|e| (e.name, spellings(e.name, e.aliases)));
            let known = known.chain(METHODS.iter().map(|e| (e.name, spellings(e.name, e.aliases))));
            return Err(ParseAttnError::UnknownName {
                name: name.trim().into(),
                near: nearest(&wanted, known),
                patterns: PATTERNS.iter().map(|entry| entry.name).collect(),
                methods: METHODS.iter().map(|entry| entry.name).collect(),
            });
        };
        let (pattern, given) = setting(entry, settings)?;
        if pattern.value.thresholds.is_some() && given.contains(THRESHOLD) {
            let keys = [THRESHOLD, THRESHOLD_TABLE];
            return Err(ParseAttnError::Conflict { name: entry.name, keys });
        }
        Ok(Self::Pattern(pattern))
    }
}

/// An entry with the keys of `settings`, `KEY=VALUE[,...]`, and the names of those that were given.
fn setting<T: Clone>(
    entry: &'static Entry<T>,
    settings: Option<&str>,
) -> Result<(Setting<T>, HashSet<&'static str>), ParseAttnError> {
    let mut given = HashSet::new();
    let mut values = Vec::new();
    for part in settings.into_iter().flat_map(|settings| settings.split(',')) {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (part.trim(), None),
        };
        let key = find_key(entry, name)?;
        if !given.insert(key.name) {
            return Err(ParseAttnError::DuplicateKey { name: entry.name, key: key.name });
        }
        values.push((key, value));
    }
    values.sort_by_key(|(key, _)| !matches!(key.field, Field::Compat { .. }));
    let mut setting = entry.setting();
    for (key, value) in values {
        let value = match (value, &key.field) {
            (Some(value), _) if !value.is_empty() => value,
            (None, Field::Switch { .. }) => "true",
            _ => {
                let example = key.default(entry);
                return Err(ParseAttnError::MissingValue { name: entry.name, key: key.name, example });
            }
        };
        key.set(&mut setting.value, value).map_err(|refusal| match refusal {
            Refusal::Expected(expected) => {
                ParseAttnError::InvalidValue { name: entry.name, key: key.name, expected, got: value.into() }
            }
            Refusal::File(reason) => ParseAttnError::File { name: entry.name, key: key.name, reason },
        })?;
    }
    (entry.check)(&setting.value).map_err(|e| refused(entry, e))?;
    Ok((setting, given))
}

/// The library's refusal, in terms of the entry's keys.
fn refused<T>(entry: &'static Entry<T>, error: Error) -> ParseAttnError {
    let (arg, expected, got) = match error {
        Error::InvalidArgument { arg, expected, got } => (arg, expected, got),
        Error::Attention(lacuna::Error::InvalidArgument { arg, expected, got, .. }) => (arg, expected, got),
        error => return ParseAttnError::Options(error.to_string()),
    };
    let key = entry.keys.iter().find(|key| key.is(&normalize(arg)));
    ParseAttnError::InvalidValue { name: entry.name, key: key.map_or(arg, |key| key.name), expected, got }
}

fn find_key<T>(entry: &'static Entry<T>, name: &str) -> Result<&'static Key<T>, ParseAttnError> {
    let wanted = normalize(name);
    entry.keys.iter().find(|key| key.is(&wanted)).ok_or_else(|| ParseAttnError::UnknownKey {
        name: entry.name,
        key: name.into(),
        near: nearest(&wanted, entry.keys.iter().map(|key| (key.name, spellings(key.name, key.aliases)))),
        keys: entry.keys.iter().map(|key| key.name).collect(),
    })
}

impl<T> Entry<T> {
    /// Whether this is one of its names, normalized.
    fn is(&self, wanted: &str) -> bool {
        spellings(self.name, self.aliases).any(|have| have == wanted)
    }
}

impl<T> Key<T> {
    /// Whether this is one of its names, normalized.
    fn is(&self, wanted: &str) -> bool {
        spellings(self.name, self.aliases).any(|have| have == wanted)
    }
}

/// All names of an entry or a key, normalized.
fn spellings(name: &'static str, aliases: &'static [&'static str]) -> impl Iterator<Item = String> {
    aliases.iter().copied().chain([name]).map(normalize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{
        AnchorContent, AnchorPositions, CompressMode, CompressOptions, Positions, QueryPosition,
        SequentialTopKOptions, StarOptions, StarTopKOptions, StarXMode, StarXOptions, SummaryMethod,
        SummaryOptions,
    };
    use lacuna::{FlexPrefillCompat, Threshold};

    fn parse(text: &str) -> Pattern {
        text.parse::<Attn>().unwrap_or_else(|e| panic!("{text}: {e}")).pattern().clone()
    }

    fn refused(text: &str) -> String {
        text.parse::<Attn>().unwrap_err().to_string()
    }

    fn method(text: &str) -> Method {
        text.parse::<Attn>().unwrap_or_else(|e| panic!("{text}: {e}")).method().clone()
    }

    #[test]
    fn names_and_aliases() {
        for entry in PATTERNS {
            let default = (entry.default)().pattern;
            for name in entry.aliases.iter().chain([&entry.name]) {
                assert_eq!(parse(name), default);
                assert_eq!(parse(&name.to_uppercase().replace('-', "_")), default);
                assert_eq!(method(name), Method::Full);
            }
            // The library's own name for the pattern.
            assert_eq!(parse(default.name()), default);
        }
        for entry in METHODS {
            let default = (entry.default)();
            for name in entry.aliases.iter().chain([&entry.name]) {
                assert_eq!(method(name), default);
                assert_eq!(method(&name.to_uppercase().replace('-', "_")), default);
                assert_eq!(parse(name), Pattern::Dense);
            }
        }
    }

    #[test]
    fn no_two_entries_share_a_name() {
        let patterns = PATTERNS.iter().flat_map(|e| spellings(e.name, e.aliases));
        let all: Vec<_> = patterns.chain(METHODS.iter().flat_map(|e| spellings(e.name, e.aliases))).collect();
        let different: HashSet<_> = all.iter().filter(|name| !name.contains('_')).collect();
        assert_eq!(different.len(), all.iter().filter(|name| !name.contains('_')).count());
        for entry in METHODS {
            let keys: Vec<_> = entry.keys.iter().flat_map(|k| spellings(k.name, k.aliases)).collect();
            assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "{}", entry.name);
        }
    }

    #[test]
    fn a_method_and_a_pattern_combine() {
        let attn: Attn = " Star, block=4096 + FlexPrefill,gamma=0.95".parse().unwrap();
        assert_eq!(attn.to_string(), "star,block=4k+flexprefill,gamma=0.95");
        assert_eq!(attn.name(), "star+flexprefill");
        assert_eq!(attn.method(), &method("star,block=4k"));
        assert_eq!(attn.pattern(), &parse("flexprefill,gamma=0.95"));
        for (text, label, name) in [
            ("star,block=4k+dense", "star,block=4k", "star"),
            ("full", "dense", "dense"),
            ("bmrt", "compress", "compress"),
            ("ring+full", "ring", "ring"),
            ("flexprefill,tau=1e-2", "flexprefill,tau=0.01", "flexprefill"),
            ("flexprefill,tau=.01e+1", "flexprefill", "flexprefill"),
        ] {
            let attn: Attn = text.parse().unwrap();
            assert_eq!((attn.to_string().as_str(), attn.name().as_str()), (label, name));
        }
        let options = attn.options(7);
        assert_eq!(
            (&options.method, &options.pattern, options.max_new_tokens),
            (attn.method(), attn.pattern(), 7)
        );
    }

    #[test]
    fn keys_of_methods_reach_their_fields() {
        let star = StarOptions {
            block_size: Some(4096),
            anchor_block_size: Some(512),
            recompute_anchor: true,
            anchor: AnchorContent::Shuffled,
            anchor_positions: AnchorPositions::BeforeBlock,
            q_causal_on_remote: true,
            seed: 7,
        };
        let keys = "block=4k,anchor=512,recompute_anchor,content=shuffled,positions=before,q_causal_on_remote,seed=7";
        assert_eq!(method(&format!("star,{keys}")), Method::Star(star.clone()));
        let aliases = "block_size=4096,anchor_block_size=512,recompute-anchor=on,anchor_content=SHUFFLED,\
                       anchor_positions=Before,q-causal-on-remote=1,seed=7";
        assert_eq!(method(&format!("star,{aliases}")), Method::Star(star.clone()));
        let more = "mode=biased-lse,stride=8,heads=grouped,lambda=0.5,tau=0.25";
        assert_eq!(
            method(&format!("starx,{keys},{more}")),
            Method::StarX(StarXOptions {
                star,
                mode: StarXMode::BiasedLse,
                stride: 8,
                cyclic_heads: false,
                bias: 0.5,
                threshold: 0.25,
            })
        );
        assert_eq!(method("star,block=auto,anchor=auto"), method("star"));
        assert_eq!(
            method("star-topk,top_k=9,num_blocks=3,block=64"),
            Method::StarTopK(StarTopKOptions { top_k: 9, num_blocks: 3, block_size: Some(64) })
        );
        assert_eq!(
            method("seq-topk,compat=original,block=64,top_k=9"),
            Method::SequentialTopK(SequentialTopKOptions {
                top_k: 9,
                block_size: 64,
                positions: Positions::Contiguous,
                query_position: QueryPosition::CacheLen,
            })
        );
        assert_eq!(
            method("seq-topk,query_pos=context,compat=original"),
            method("seq-topk,positions=contiguous")
        );
        assert_eq!(
            method("compress,block=64,budget=32,divisor=8,mode=recursive"),
            Method::Compress(CompressOptions {
                block_size: 64,
                budget: 32,
                protection_divisor: 8,
                mode: CompressMode::Recursive,
            })
        );
        assert_eq!(
            method(
                "summary,method=topk,block=64,k=9,prune_percent=12.5,cosine=off,layers=1,chunk=32,positions=contiguous,seed=3"
            ),
            Method::Summary(SummaryOptions {
                method: SummaryMethod::TopK,
                block_size: 64,
                k: Some(9),
                pruning_percent: 12.5,
                use_cosine_similarity: false,
                num_layers_for_clustering: 1,
                chunk_size: 32,
                positions: Positions::Contiguous,
                seed: 3,
            })
        );
    }

    #[test]
    fn keys_reach_their_fields() {
        let Pattern::FlexPrefill(o) =
            parse("flexprefill, Gamma=0.95 ,MIN-BUDGET=2k,max_budget=4K,block_size=64,qa_only")
        else {
            panic!()
        };
        assert_eq!(
            (o.gamma, o.min_budget, o.max_budget, o.block_size, o.qa_only),
            (0.95, 2048, Some(4096), 64, true)
        );
        let Pattern::XAttention(o) = parse("xattn,threshold=0.5,stride=16,norm=2,chunk=2k") else { panic!() };
        assert_eq!(
            (o.threshold, o.stride, o.norm, o.chunk_size),
            (Threshold::Scalar(0.5), 16, 2.0, Some(2048))
        );
        let Pattern::VerticalSlash(o) = parse("vertical-slash,vertical=1,slash=2,last_q=3,sink=4,recent=5")
        else {
            panic!()
        };
        assert_eq!((o.vertical_size, o.slash_size, o.last_q, o.sink, o.recent), (1, 2, 3, 4, 5));
        let Pattern::TriShape(o) = parse("tri-shape,init=1,local=2,last=3,block=4") else { panic!() };
        assert_eq!((o.n_init, o.n_local, o.n_last, o.block_size), (1, 2, 3, 4));
        let Pattern::AShape(o) = parse("a-shape,init=1,local=2,block=4") else { panic!() };
        assert_eq!((o.n_init, o.n_local, o.block_size), (1, 2, 4));
        let Pattern::SinkAndLocal(o) = parse("streaming,global=1,local=2,block=4") else { panic!() };
        assert_eq!((o.global_window, o.local_window, o.block_size), (1, 2, 4));
        let Pattern::BlockDiagonal(o) = parse("block-diagonal,chunk=1,block=4") else { panic!() };
        assert_eq!((o.chunk_size, o.block_size), (1, 4));
    }

    #[test]
    fn compat_comes_before_its_switches() {
        for text in
            ["flexprefill,compat=original,slash_cover=off", "flexprefill,slash_cover=off,compat=original"]
        {
            let Pattern::FlexPrefill(o) = parse(text) else { panic!() };
            assert_eq!(o.compat, FlexPrefillCompat { slash_cover: false, ..FlexPrefillCompat::ORIGINAL });
        }
    }

    #[test]
    fn every_refusal_is_one_sentence() {
        for (text, says) in [
            (
                "",
                "there is no pattern or context method ''; the patterns are dense, flexprefill, xattention, \
                 vertical-slash, a-shape, tri-shape, streaming, block-diagonal; the context methods are ring, star, \
                 starx, star-topk, seq-topk, compress, summary",
            ),
            ("flexprefil", "there is no pattern or context method 'flexprefil' (did you mean flexprefill?)"),
            ("starr,block=1k", "'starr' (did you mean star?)"),
            ("star+flexprefil", "'flexprefil' (did you mean flexprefill?)"),
            ("seqtopk", "(did you mean seq-topk?)"),
            ("star+", "there is no pattern or context method ''"),
            ("star+ring", "star and ring are both context methods, of which one can run"),
            ("star+dense+starx", "star and starx are both context methods"),
            ("dense+flexprefill", "dense and flexprefill are both patterns, of which one can run"),
            ("star+dense+dense", "dense and dense are both patterns"),
            ("flexprefill,gamma=0.5+star", "the context method comes before the pattern: star+flexprefill"),
            ("ring+streaming", "ring runs under dense attention alone, not under streaming"),
            ("ring,block=1", "ring has no key 'block'; it has none"),
            ("star,block=0", "star: block must be at least 1, or auto, got 0"),
            ("star,block=-1", "star: block must be a whole number, such as 512 or 16k (16384), got -1"),
            (
                "star,content=last",
                "star: content must be one of first, previous, none, constant, random, shuffled, got last",
            ),
            ("star,block=1k,anchor_block_size=2k", "star: anchor must be at most a block (1024), got 2048"),
            ("starx,block=1k,anchor=2k", "starx: anchor must be at most a block (1024), got 2048"),
            ("star,seed=-1", "star: seed must be a whole number up to 18446744073709551615, got -1"),
            ("starx,bias=inf", "starx: bias must be a finite number, got inf"),
            ("starx,threshold=0", "starx: threshold must be in (0, 1], got 0"),
            ("starx,heads=all", "starx: heads must be cyclic or grouped, got all"),
            ("starx,lambda=1,bias=1", "starx: bias is given twice"),
            ("seq-topk,topk=0", "did you mean top_k?"),
            ("compress,divisor=1", "compress: divisor must be at least 2, got 1"),
            ("summary,prune_percent=101", "summary: prune_percent must be in [0, 100], got 101"),
            ("xatn", "(did you mean xattention?)"),
            ("dense,block=1", "dense has no key 'block'; it has none"),
            (
                "a-shape,initt=1",
                "a-shape has no key 'initt' (did you mean init?); its keys are init, local, block",
            ),
            ("flexprefill,gamma=0.9,gamma=0.9", "flexprefill: gamma is given twice"),
            ("streaming,local=1,local_window=2", "streaming: local is given twice"),
            ("flexprefill,gamma", "flexprefill: gamma needs a value, as in gamma=0.9"),
            ("flexprefill,gamma=", "flexprefill: gamma needs a value"),
            ("flexprefill,", "flexprefill has no key ''"),
            ("flexprefill,gamma=2", "flexprefill: gamma must be in (0, 1], got 2"),
            ("flexprefill,gamma=NaN", "flexprefill: gamma must be in (0, 1], got NaN"),
            ("flexprefill,block=0", "flexprefill: block must be one of 16, 32, 64, 128, 256, got 0"),
            (
                "flexprefill,block=x",
                "flexprefill: block must be a whole number, such as 512 or 16k (16384), got x",
            ),
            ("flexprefill,max_budget=0", "flexprefill: max_budget must be at least 1, or none, got 0"),
            (
                "flexprefill,max_budget=512",
                "flexprefill: max_budget must be at least min_budget (1024), got 512",
            ),
            ("flexprefill,qa_only=maybe", "flexprefill: qa_only must be true or false, got maybe"),
            ("flexprefill,compat=no", "flexprefill: compat must be fixed or original, got no"),
            ("xattention,norm=0", "xattention: norm must be above 0, got 0"),
            ("xattention,norm=inf", "xattention: norm must be above 0, got inf"),
            (
                "xattention,stride=48",
                "xattention: stride must be a positive divisor of block_size (128), got 48",
            ),
            (
                "xattention,chunk_size=100",
                "xattention: chunk_size must be a positive multiple of block_size (128)",
            ),
            ("vertical-slash,last_q=0", "vertical-slash: last_q must be at least 1, got 0"),
            ("block-diagonal,chunk=0", "block-diagonal: chunk must be at least 1, got 0"),
        ] {
            let message = refused(text);
            assert!(message.contains(says), "{text}: {message}");
        }
    }
}
