//! The check that the metadata is a sound JSON object.
//!
//! What the keys mean is read in the crate that knows models. Here the text is only walked: a tree
//! of values takes many times the memory of its text, and a hostile file must not buy that.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    error::{ContainerError, Place, Want},
    header::SectionKind,
};

/// The longest metadata. Metadata of real models have tens of kilobytes.
pub const MAX_METADATA_BYTES: u64 = 16 << 20;

/// The metadata in `bytes`: UTF-8, a JSON object, no deeper than serde_json's recursion limit of
/// 128, numbers within the range of an `f64`, no key twice in one object.
///
/// * `index`: the number of the section, for the error.
pub(super) fn check_metadata(bytes: &[u8], index: usize) -> Result<&str, ContainerError> {
    if bytes.len() as u64 > MAX_METADATA_BYTES {
        return Err(ContainerError::Field {
            place: Place::Section {
                index,
                kind: SectionKind::Metadata,
            },
            field: "length",
            found: bytes.len() as u64,
            want: Want::Within(2, MAX_METADATA_BYTES),
        });
    }
    let text = std::str::from_utf8(bytes).map_err(ContainerError::MetadataUtf8)?;
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Walk { top: true })
        .and_then(|()| json.end())
        .map_err(ContainerError::MetadataJson)?;
    Ok(text)
}

/// Walks a value and keeps nothing of it but the hashes of the keys of the objects around it.
struct Walk {
    top: bool,
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.top {
            "a JSON object"
        } else {
            "a JSON value"
        })
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Self { top: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if !seen.insert(xxh3_64(key.as_bytes())) {
                let short: String = key.chars().take(64).collect();
                return Err(A::Error::custom(format_args!(
                    "the key `{}` is there twice",
                    short.escape_debug()
                )));
            }
            map.next_value_seed(Self { top: false })?;
        }
        Ok(())
    }
}

/// A key, borrowed where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(v.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: impl AsRef<[u8]>) -> String {
        let error = check_metadata(text.as_ref(), 2).unwrap_err();
        match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn sound_objects_pass() {
        for text in [
            "{}",
            " {\"a\": [1, -2, 0.5, null, true, \"\\u00e9\\n\"], \"b\": {\"a\": 1}}\n",
        ] {
            assert_eq!(check_metadata(text.as_bytes(), 2).unwrap(), text);
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(126), "]".repeat(126));
        check_metadata(deep.as_bytes(), 2).unwrap();
    }

    #[test]
    fn hostile_text_is_an_error_that_says_why() {
        let bomb = format!("{{\"a\":{}", "[".repeat(1 << 20));
        let objects = "{\"a\":".repeat(1 << 18);
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_METADATA_BYTES as usize));
        let deeper = format!("{{\"a\":{}{}}}", "[".repeat(127), "]".repeat(127));
        let cases: [(&str, &str); 16] = [
            (&deeper, "recursion limit"),
            ("", "EOF"),
            ("[]", "expected a JSON object"),
            ("3", "expected a JSON object"),
            ("{\"a\":1", "EOF"),
            ("{\"a\":1}x", "trailing characters"),
            ("{\"a\":1}{}", "trailing characters"),
            (&bomb, "recursion limit"),
            (&objects, "recursion limit"),
            ("{\"a\":1,\"b\":2,\"a\":3}", "`a` is there twice"),
            ("{\"a\":1,\"\\u0061\":3}", "`a` is there twice"),
            ("{\"x\":{\"q\":1,\"q\":1}}", "`q` is there twice"),
            ("{\"a\":1e999}", "number out of range"),
            ("{\"a\":NaN}", "expected value"),
            ("{\"a\":\"\\ud800\"}", "hex escape"),
            (&long, "length is 16777224, expected 2..=16777216"),
        ];
        for (text, want) in cases {
            let got = problem(text);
            assert!(got.contains(want), "{text:.40}: {got}");
            assert!(
                got.starts_with("metadata section") || got.starts_with("section 2"),
                "{got}"
            );
        }
        assert!(problem(b"{\"a\":\"\xff\"}").contains("not UTF-8: invalid utf-8"));
        assert!(problem(b"{\"a\":\x00}").contains("expected value"));
    }
}
