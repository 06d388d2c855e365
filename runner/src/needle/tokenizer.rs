//! The tokenizer of the constructed model, as a `tokenizer.json` that every loader of Hugging Face checkpoints reads.
//!
//! It is a BPE model without merges and with `ignore_merges`: a regular expression cuts the text into pieces, a piece
//! that is in the vocabulary is one token, and any other falls apart into its bytes. No training is needed, and every
//! UTF-8 text survives encoding and decoding.
//!
//! A group of digits carries its leading space (` 123`), so that already the *first* token of an answer is the value
//! itself: a prefill that lost the needle cannot be repaired by a dense decode.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior, Tokenizer,
};

use super::vocabulary::{BEGIN, BEGIN_TEXT, END, END_TEXT, VOCABULARY};

/// What a piece of text is: letters, or one to three digits, or other visible characters, each with the space before
/// them; or any other white space, one character at a time.
const PIECE: &str = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s";

static SPLIT: LazyLock<Split> = LazyLock::new(|| {
    let piece = SplitPattern::Regex(PIECE.to_owned());
    Split::new(piece, SplitDelimiterBehavior::Isolated, false)
        .expect("the pattern is a valid regular expression")
});

/// The pieces of a text: what is a token wherever the vocabulary has it.
pub(super) fn pre_tokens(text: &str) -> Vec<String> {
    let mut pieces = PreTokenizedString::from(text);
    SPLIT.pre_tokenize(&mut pieces).expect("splitting by a regular expression does not fail");
    let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits.into_iter().map(|(piece, ..)| piece.to_owned()).collect()
}

/// The tokenizer, ready to use: what `tokenizer.json` of a written model gives.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(tokenizer_json()).expect("the tokenizer we write is one we can read")
}

/// The contents of `tokenizer.json`.
pub(super) fn tokenizer_json() -> String {
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let begin = json!({ "SpecialToken": { "id": BEGIN_TEXT, "type_id": 0 } });
    let text = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    let byte_level = |use_regex: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex,
        })
    };
    let vocab: Map<String, Value> = (0u32..)
        .zip(VOCABULARY.tokens())
        .map(|(id, token)| (token.iter().map(|&byte| byte_level_letter(byte)).collect(), id.into()))
        .collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(BEGIN, BEGIN_TEXT), special(END, END_TEXT)],
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": PIECE }, "behavior": "Isolated", "invert": false },
                byte_level(false),
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text("A", 0)],
            "pair": [begin, text("A", 0), text("B", 1)],
            "special_tokens": { BEGIN_TEXT: { "id": BEGIN_TEXT, "ids": [BEGIN], "tokens": [BEGIN_TEXT] } },
        },
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": [],
        },
    });
    serde_json::to_string_pretty(&json).expect("JSON values can be written") + "\n"
}

/// The contents of `tokenizer_config.json`.
pub(super) fn tokenizer_config_json(max_len: usize) -> String {
    let json = json!({
        "add_bos_token": true,
        "add_prefix_space": false,
        "bos_token": BEGIN_TEXT,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_TEXT,
        "model_max_length": max_len,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    serde_json::to_string_pretty(&json).expect("JSON values can be written") + "\n"
}

/// The letter that stands for a byte in byte-level BPE (Radford et al. 2019, `bytes_to_unicode` of GPT-2): printable
/// Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and on, in ascending order.
fn byte_level_letter(byte: u8) -> char {
    let is_printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_printable(byte) {
        return byte as char;
    }
    let rank = (0..byte).filter(|b| !is_printable(*b)).count() as u32;
    char::from_u32(0x100 + rank).expect("U+0100 to U+0143 are characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(tokenizer);

    fn encode(text: &str) -> Vec<u32> {
        TOKENIZER.encode(text, false).unwrap().get_ids().to_vec()
    }

    fn ids(tokens: &[&str]) -> Vec<u32> {
        tokens.iter().map(|token| VOCABULARY.id(token).unwrap_or_else(|| panic!("{token:?}"))).collect()
    }

    #[test]
    fn a_needle_is_made_of_whole_tokens() {
        let text = "\nRecord: the secret number kept for brave-otter is: 1234567.";
        let tokens = [
            "\n", "Record", ":", " the", " secret", " number", " kept", " for", " brave", "-", "otter",
            " is", ":", " 123", "456", "7", ".",
        ];
        assert_eq!(encode(text), ids(&tokens));
    }

    #[test]
    fn digits_come_in_threes() {
        assert_eq!(encode("12 345 0067 8"), ids(&["12", " 345", " 006", "7", " 8"]));
    }

    #[test]
    fn unknown_words_fall_apart_into_bytes() {
        assert_eq!(encode(" zyx"), [b' ', b'z', b'y', b'x'].map(u32::from));
        assert_eq!(encode("\t\r\n"), [9, 13, 10]);
        assert_eq!(encode("\u{e9}"), [0xc3, 0xa9]);
    }

    #[test]
    fn texts_begin_with_the_begin_token() {
        let with_special = TOKENIZER.encode(" the", true).unwrap();
        assert_eq!(with_special.get_ids(), [BEGIN, VOCABULARY.id(" the").unwrap()]);
        assert_eq!(encode("<|begin|>.<|end|>"), [BEGIN, u32::from(b'.'), END]);
    }

    #[test]
    fn byte_level_letters_are_those_of_gpt2() {
        assert_eq!(
            [b' ', b'\n', b'a', 0x7f, 0xa0, 0xad].map(byte_level_letter),
            ['Ġ', 'Ċ', 'a', 'ġ', 'ł', 'Ń']
        );
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in "\\PC*|(?s).*|[ -~\n]{0,80}") {
            let decoded = TOKENIZER.decode(&encode(&text), false).unwrap();
            prop_assert_eq!(decoded, text);
        }

        #[test]
        fn every_token_is_a_byte_or_a_piece_of_the_text(text in "[a-z0-9 .:\"{}-]{0,60}") {
            let tokens: Vec<_> = VOCABULARY.tokens().collect();
            let from_pieces: Vec<u32> = pre_tokens(&text)
                .iter()
                .flat_map(|piece| match VOCABULARY.id(piece) {
                    Some(id) => vec![id],
                    None => piece.bytes().map(u32::from).collect(),
                })
                .collect();
            prop_assert!(from_pieces.iter().all(|id| (*id as usize) < tokens.len()));
            prop_assert_eq!(encode(&text), from_pieces);
        }
    }
}
