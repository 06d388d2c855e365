//! Attention with lists of values, multiplied out.

use std::collections::HashSet;

use crate::attn::Attn;

/// The most kinds of attention that one entry stands for.
const MAX_EXPANDED: usize = 1000;

/// One entry of a grid: a text with `{name}` where a value of the list of that name is to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttnEntry {
    /// The text.
    pub text: String,
    /// The lists, in their order.
    pub lists: Vec<(String, Vec<String>)>,
}

/// All kinds of attention that an entry stands for: every value of every list with every other, those of the last list changing
/// fastest.
///
/// # Errors
/// A phrase that says what is wrong: with a name that has no list, a list that has no place or no values, or a text that is no
/// attention.
pub fn expand(entry: &AttnEntry) -> Result<Vec<Attn>, String> {
    let mut texts = vec![entry.text.clone()];
    let mut names = HashSet::new();
    for (name, values) in &entry.lists {
        let place = format!("{{{name}}}");
        if !names.insert(name) {
            return Err(format!("{name} is given twice"));
        }
        if !entry.text.contains(&place) {
            return Err(format!("{name} has no place: {place} is not in {:?}", entry.text));
        }
        if values.is_empty() {
            return Err(format!("{name} has no values"));
        }
        if texts.len().saturating_mul(values.len()) > MAX_EXPANDED {
            return Err(format!("more than {MAX_EXPANDED} kinds of attention"));
        }
        let with_values = |text: &String| values.iter().map(|v| text.replace(&place, v)).collect::<Vec<_>>();
        texts = texts.iter().flat_map(with_values).collect();
    }
    let left = entry.text.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name));
    if let Some(name) = left.into_iter().find(|name| !names.iter().any(|known| known == name)) {
        return Err(format!("{{{name}}} has no list: {name} = [...] is missing"));
    }
    texts.iter().map(|text| text.parse().map_err(|e| format!("{e}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str, lists: &[(&str, &[&str])]) -> AttnEntry {
        let list = |(name, values): &(&str, &[&str])| {
            ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect())
        };
        AttnEntry { text: text.into(), lists: lists.iter().map(list).collect() }
    }

    #[test]
    fn lists_are_multiplied_out() {
        let texts = |entry| expand(&entry).unwrap().iter().map(Attn::to_string).collect::<Vec<_>>();
        assert_eq!(texts(entry("dense", &[])), ["dense"]);
        let all = texts(entry(
            "streaming,global={g},local={l}",
            &[("g", &["64", "128"]), ("l", &["256", "512", "1k"])],
        ));
        assert_eq!(all.len(), 6);
        assert_eq!(all[1], "streaming,global=64,local=512");
        assert_eq!(all[3], "streaming,global=128,local=256");
        assert_eq!(
            texts(entry("seq-topk,block=2048,top_k={top_k}", &[("top_k", &["64", "128"])])),
            ["seq-topk,top_k=64", "seq-topk,top_k=128"]
        );
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (entry, says) in [
            (entry("dense", &[("x", &["1"])]), "x has no place: {x} is not in \"dense\""),
            (entry("streaming,local={l}", &[]), "{l} has no list: l = [...] is missing"),
            (entry("streaming,local={l}", &[("l", &[])]), "l has no values"),
            (entry("streaming,local={l}", &[("l", &["-1"])]), "local must be a whole number"),
            (entry("streeming", &[]), "there is no"),
            (entry("{a}{b}", &[("a", &["x"; 40]), ("b", &["y"; 40])]), "more than 1000"),
        ] {
            let reason = expand(&entry).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
    }
}
