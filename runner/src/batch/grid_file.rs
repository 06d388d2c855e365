//! The keys of a grid's file, as they stand in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::expand::AttnEntry;
use crate::attn::parse_length;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub model: Option<PathBuf>,
    pub lengths: Option<Spanned<Vec<Spanned<Length>>>>,
    pub samples: Option<Spanned<u64>>,
    pub seed: Option<u64>,
    pub max_new_tokens: Option<Spanned<Length>>,
    pub stop: Option<Vec<String>>,
    pub needle: Option<RawNeedle>,
    pub files: Option<Spanned<BTreeMap<String, PathBuf>>>,
    pub attn: Spanned<Vec<Spanned<RawAttn>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNeedle {
    pub haystack: Option<Spanned<String>>,
    pub value: Option<Spanned<String>>,
    pub needles: Option<Spanned<u8>>,
    pub depths: Option<Spanned<Vec<f64>>>,
}

/// A number of tokens: `4096` or `"4k"`.
#[derive(Clone, Copy)]
pub(super) struct Length(pub usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lengths;
        impl Visitor<'_> for Lengths {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of tokens, such as 4096 or \"4k\"")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Length, E> {
                self.visit_str(&n.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Length, E> {
                match parse_length(text) {
                    Ok(0) => Err(E::custom("must be at least 1")),
                    Ok(n) => Ok(Length(n)),
                    Err(expected) => Err(E::custom(format_args!("must be {expected}, got {text:?}"))),
                }
            }
        }
        deserializer.deserialize_any(Lengths)
    }
}

/// A text, or a table of a text and its lists.
pub(super) struct RawAttn(pub AttnEntry);

/// A value of a list, as it stands in the text.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Self(text)),
            toml::Value::Integer(n) => Ok(Self(n.to_string())),
            toml::Value::Float(x) => Ok(Self(x.to_string())),
            toml::Value::Boolean(b) => Ok(Self(b.to_string())),
            other => {
                let kind = other.type_str();
                Err(de::Error::custom(format_args!(
                    "a list must hold texts, numbers or booleans, got {kind}"
                )))
            }
        }
    }
}

impl<'de> Deserialize<'de> for RawAttn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawAttn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a text such as \"flexprefill,gamma=0.9\", or a table with attn = \"...\" and its lists",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawAttn, E> {
                Ok(RawAttn(AttnEntry { text: text.into(), lists: Vec::new() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawAttn, A::Error> {
                let (mut text, mut lists) = (None, Vec::new());
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "attn" => text = Some(map.next_value::<String>()?),
                        _ => {
                            let values = map.next_value::<Vec<Scalar>>()?;
                            lists.push((key, values.into_iter().map(|Scalar(text)| text).collect()));
                        }
                    }
                }
                let text = text.ok_or_else(|| de::Error::missing_field("attn"))?;
                Ok(RawAttn(AttnEntry { text, lists }))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}
