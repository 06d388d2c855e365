//! Every pattern and every context method with settings that suit a text of a given length.

use lacuna_runner::attn::{Attn, METHODS, PATTERNS};

/// One setting for each pattern of the registry, in its order, for a context of `tokens` whose `last` ones ask for `facts`
/// facts.
///
/// Windows are a sixteenth of the text, sinks a sixty-fourth; blocks are 128 tokens, and 64 in texts too short for
/// that. The searches look at all rows that ask, and keep enough for every fact.
pub fn scaled(tokens: usize, last: usize, facts: usize) -> Vec<Attn> {
    let last = last.max(1);
    let block = (tokens / 64).next_power_of_two().clamp(64, 128);
    let probe_block = last.next_power_of_two().clamp(block, 256);
    let window = (tokens / 16).max(256);
    let sink = (tokens / 64).max(128);
    let budget = (tokens / 32).max((facts + 4) * probe_block);
    let columns = sink.max(last + 32);
    PATTERNS
        .iter()
        .map(|entry| {
            let keys = match entry.name {
                "flexprefill" => format!("block={probe_block},gamma=0.95,min_budget={budget}"),
                "xattention" => format!("block={block},stride=4,threshold=0.98"),
                "vertical-slash" => format!("vertical={columns},slash={sink},last_q={last}"),
                "a-shape" => format!("block={block},init={sink},local={window}"),
                "tri-shape" => format!("block={block},init={sink},local={window},last={last}"),
                "streaming" => format!("block={block},global={sink},local={}", 2 * window),
                "block-diagonal" => format!("block={block},chunk={}", 2 * window),
                _ => String::new(),
            };
            parse(entry.name, &keys)
        })
        .collect()
}

/// One setting for each context method of the registry, in its order, for a context of `tokens`.
///
/// The text is cut in eight blocks, short ones in blocks of 128 tokens; what keeps some tokens keeps an eighth of a block.
pub fn scaled_methods(tokens: usize) -> Vec<Attn> {
    let block = tokens.div_ceil(8).max(128);
    let kept = block.div_ceil(8);
    METHODS
        .iter()
        .map(|entry| {
            let keys = match entry.name {
                "star" => format!("block={block}"),
                "starx" => format!("block={block},mode=biased_lse,threshold=0.9"),
                "star-topk" => format!("block={block},top_k={block}"),
                "seq-topk" => format!("block={block},top_k={kept}"),
                "compress" => format!("block={block},budget={kept}"),
                "summary" => format!("block={block},method=topk,k={kept}"),
                _ => String::new(),
            };
            parse(entry.name, &keys)
        })
        .collect()
}

fn parse(name: &str, keys: &str) -> Attn {
    let text = if keys.is_empty() { name.to_owned() } else { format!("{name},{keys}") };
    text.parse().unwrap_or_else(|e| unreachable!("{text}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_setting_at_every_length() {
        for tokens in [0, 1, 63, 512, 2048, 5000, 32768, 1 << 20] {
            let names: Vec<_> = scaled(tokens, tokens / 100, 4).iter().map(Attn::name).collect();
            assert_eq!(names, PATTERNS.iter().map(|m| m.name).collect::<Vec<_>>());
            let names: Vec<_> = scaled_methods(tokens).iter().map(Attn::name).collect();
            assert_eq!(names, METHODS.iter().map(|m| m.name).collect::<Vec<_>>());
        }
    }
}
