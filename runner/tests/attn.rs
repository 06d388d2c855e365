//! Attention by name: whatever is written, the answer is a context method, a pattern, both, or one sentence.

use lacuna_runner::attn::{Attn, Entry, METHODS, PATTERNS};
use proptest::prelude::*;

/// An entry of a registry with any of its keys, each with a value drawn from many that are right and some that are wrong.
fn setting<T>(entries: &'static [Entry<T>]) -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "[0-9]{1,5}[kKmM]?",
        "0\\.[0-9]{1,3}",
        Just("none".to_owned()),
        Just("true".to_owned()),
        Just("original".to_owned()),
        Just("auto".to_owned()),
        prop::sample::select(vec!["first", "before", "random", "compat", "grouped", "recursive", "topk"])
            .prop_map(str::to_owned),
        "[-+.eE0-9a-z]{0,6}",
    ];
    (0..entries.len()).prop_flat_map(move |entry| {
        let entry = &entries[entry];
        let names: Vec<&str> =
            entry.keys.iter().flat_map(|key| key.aliases.iter().copied().chain([key.name])).collect();
        let key = if names.is_empty() { Just("none").boxed() } else { prop::sample::select(names).boxed() };
        prop::collection::vec((key, value.clone()), 0..4).prop_map(move |settings| {
            settings.iter().fold(entry.name.to_owned(), |text, (key, value)| format!("{text},{key}={value}"))
        })
    })
}

/// A pattern, a context method, or both.
fn attn() -> impl Strategy<Value = String> {
    let both =
        (setting(METHODS), setting(PATTERNS)).prop_map(|(method, pattern)| format!("{method}+{pattern}"));
    prop_oneof![setting(PATTERNS), setting(METHODS), both]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_label_reads_back_as_the_same(text in attn()) {
        if let Ok(attn) = text.parse::<Attn>() {
            let again: Attn = attn.to_string().parse().unwrap();
            prop_assert_eq!(&again, &attn);
            prop_assert_eq!(again.to_string(), attn.to_string());
        }
    }

    #[test]
    fn a_refusal_is_one_line(text in prop_oneof![attn(), "[-a-z_]{0,14}(,[a-z_]{0,10}(=[-0-9.a-zé]{0,8})?){0,3}", ".{0,40}"]) {
        if let Err(e) = text.parse::<Attn>() {
            let message = e.to_string();
            prop_assert!(!message.is_empty());
            prop_assert!(text.contains('\n') || !message.contains('\n'), "{}", message);
        }
    }

    #[test]
    fn case_and_dashes_do_not_matter(text in attn()) {
        let shouted = text.to_uppercase().replace('-', "_");
        match (text.parse::<Attn>(), shouted.parse::<Attn>()) {
            (Ok(a), Ok(b)) => prop_assert_eq!(a, b),
            (Err(_), Err(_)) => (),
            // A dash in a number is a sign.
            (a, b) => prop_assert!(text.contains("=-") || text.contains("e-"), "{:?} {:?}", a, b),
        }
    }
}

fn defaults_read_back<T: Clone>(entries: &'static [Entry<T>]) {
    for entry in entries {
        for key in entry.keys {
            let text = format!("{},{}={}", entry.name, key.name, key.default(entry));
            let attn: Attn = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(attn.to_string(), entry.name, "{text}");
        }
    }
}

#[test]
fn every_key_reads_back_its_default() {
    defaults_read_back(PATTERNS);
    defaults_read_back(METHODS);
}
