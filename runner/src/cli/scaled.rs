//! Every pattern with settings that suit a text of a given length, so that each leaves out most of it.

use lacuna_runner::attn::{Attn, METHODS};

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
    METHODS
        .iter()
        .map(|method| {
            let keys = match method.name {
                "flexprefill" => format!("block={probe_block},gamma=0.95,min_budget={budget}"),
                "xattention" => format!("block={block},stride=4,threshold=0.98"),
                "vertical-slash" => format!("vertical={columns},slash={sink},last_q={last}"),
                "a-shape" => format!("block={block},init={sink},local={window}"),
                "tri-shape" => format!("block={block},init={sink},local={window},last={last}"),
                "streaming" => format!("block={block},global={sink},local={}", 2 * window),
                "block-diagonal" => format!("block={block},chunk={}", 2 * window),
                _ => String::new(),
            };
            let text =
                if keys.is_empty() { method.name.to_owned() } else { format!("{},{keys}", method.name) };
            text.parse().unwrap_or_else(|e| unreachable!("{text}: {e}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_has_a_setting_at_every_length() {
        for tokens in [0, 1, 63, 512, 2048, 5000, 32768, 1 << 20] {
            let names: Vec<_> = scaled(tokens, tokens / 100, 4).iter().map(Attn::name).collect();
            assert_eq!(names, METHODS.iter().map(|m| m.name).collect::<Vec<_>>());
        }
    }
}
