//! `normalizer`, `pre_tokenizer`, `decoder`.

use serde_json::Value;

use super::fields::{Fields, invalid, unsupported};
use crate::tokenizer::{
    TokenizerError,
    spec::{Alphabet, Behavior, Decoder, Normalizer, Pattern, PreTokenizer, Prepend},
};

/// The expression of `ByteLevel` with `use_regex`: GPT-2's.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// A text that a normalizer puts in has at most so many bytes: one that is far longer than any in
/// use would multiply every text.
const MAX_INSERTED_BYTES: usize = 64;
/// Sequences in sequences go at most so deep.
const MAX_DEPTH: usize = 4;

type Result<T> = std::result::Result<T, TokenizerError>;

/// `value` and, if it is a sequence, what it is made of, each with its path.
fn flatten<'a>(
    value: Option<&'a Value>,
    path: &str,
    list: &'static str,
) -> Result<Vec<(String, &'a Value)>> {
    fn walk<'a>(
        value: &'a Value,
        path: String,
        list: &'static str,
        depth: usize,
        out: &mut Vec<(String, &'a Value)>,
    ) -> Result<()> {
        let mut fields = Fields::new(value, &path)?;
        if fields.text("type")? != "Sequence" {
            out.push((path, value));
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(unsupported(path, value));
        }
        for (i, step) in fields.list(list)?.iter().enumerate() {
            walk(step, format!("{path}.{list}[{i}]"), list, depth + 1, out)?;
        }
        fields.done()
    }
    let mut steps = Vec::new();
    if let Some(value) = value {
        walk(value, path.to_owned(), list, 0, &mut steps)?;
    }
    Ok(steps)
}

/// `pattern`: `{"String": ...}` or `{"Regex": ...}`.
fn pattern(fields: &mut Fields<'_>) -> Result<Pattern> {
    let path = fields.path("pattern");
    let value = fields.need("pattern")?;
    let mut kinds = Fields::new(value, &path)?;
    let pattern = if kinds.take("String").is_some() {
        Pattern::Text(kinds.text("String")?.to_owned())
    } else {
        Pattern::Regex(kinds.text("Regex")?.to_owned())
    };
    kinds.done()?;
    match &pattern {
        Pattern::Text(text) if text.is_empty() => Err(invalid(&path, "not empty", value)),
        Pattern::Regex(regex) => {
            // Compiled here once so that the error names the place.
            fancy_regex::Regex::new(regex).map_err(|cause| TokenizerError::Pattern {
                path,
                cause: Box::new(cause),
            })?;
            Ok(pattern)
        }
        Pattern::Text(_) => Ok(pattern),
    }
}

pub(super) fn normalizers(value: Option<&Value>) -> Result<Vec<Normalizer>> {
    let read = |(path, value): (String, &Value)| {
        let mut fields = Fields::new(value, &path)?;
        let inserted = |fields: &mut Fields<'_>, key| {
            let text = fields.text(key)?;
            if text.len() > MAX_INSERTED_BYTES {
                let found = format!("{} bytes long", text.len());
                return Err(TokenizerError::Unsupported {
                    path: fields.path(key),
                    found,
                });
            }
            Ok(text.to_owned())
        };
        let step = match fields.text("type")? {
            "NFC" => Normalizer::Nfc,
            "NFD" => Normalizer::Nfd,
            "NFKC" => Normalizer::Nfkc,
            "NFKD" => Normalizer::Nfkd,
            "Prepend" => Normalizer::Prepend(inserted(&mut fields, "prepend")?),
            "Replace" => Normalizer::Replace {
                pattern: pattern(&mut fields)?,
                content: inserted(&mut fields, "content")?,
            },
            _ => return Err(unsupported(path, value)),
        };
        fields.done()?;
        Ok(step)
    };
    flatten(value, "normalizer", "normalizers")?
        .into_iter()
        .map(read)
        .collect()
}

/// The splitting steps, and what the merges start from. `ByteLevel` has to come last: a step after
/// it would see stand-ins for bytes instead of the text.
pub(super) fn pre_tokenizers(value: Option<&Value>) -> Result<(Vec<PreTokenizer>, Alphabet)> {
    let steps = flatten(value, "pre_tokenizer", "pretokenizers")?;
    let n_steps = steps.len();
    let mut read = Vec::new();
    let mut alphabet = Alphabet::Chars;
    for (i, (path, value)) in steps.into_iter().enumerate() {
        let mut fields = Fields::new(value, &path)?;
        match fields.text("type")? {
            "Split" => {
                let pattern = pattern(&mut fields)?;
                let behavior = match fields.text("behavior")? {
                    "Removed" => Behavior::Removed,
                    "Isolated" => Behavior::Isolated,
                    "MergedWithPrevious" => Behavior::MergedWithPrevious,
                    "MergedWithNext" => Behavior::MergedWithNext,
                    "Contiguous" => Behavior::Contiguous,
                    other => return Err(unsupported(fields.path("behavior"), &other.into())),
                };
                let invert = fields.bool("invert")?;
                read.push(PreTokenizer::Split {
                    pattern,
                    behavior,
                    invert,
                });
            }
            "Digits" => {
                read.push(PreTokenizer::Digits {
                    individual: fields.bool("individual_digits")?,
                });
            }
            "ByteLevel" if i + 1 == n_steps => {
                if fields.bool("add_prefix_space")? {
                    read.push(PreTokenizer::PrefixSpace);
                }
                if fields.bool_or("use_regex", true)? {
                    read.push(PreTokenizer::Split {
                        pattern: Pattern::Regex(GPT2.to_owned()),
                        behavior: Behavior::Isolated,
                        invert: false,
                    });
                }
                fields.bool("trim_offsets")?; // about offsets, which nobody asks for
                alphabet = Alphabet::Bytes;
            }
            "Metaspace" => read.push(metaspace(&mut fields)?),
            _ => return Err(unsupported(path, value)),
        }
        fields.done()?;
    }
    Ok((read, alphabet))
}

fn metaspace(fields: &mut Fields<'_>) -> Result<PreTokenizer> {
    let replacement = fields.character("replacement")?;
    fields.take("str_rep"); // the replacement once more
    let mut prepend = match fields.take("prepend_scheme") {
        None => Prepend::Always,
        Some(value) => match value.as_str() {
            Some("always") => Prepend::Always,
            Some("first") => Prepend::First,
            Some("never") => Prepend::Never,
            _ => return Err(unsupported(fields.path("prepend_scheme"), value)),
        },
    };
    let explicit = fields.take("prepend_scheme").is_some();
    // The older way to say never; together with another scheme it is a contradiction.
    if !fields.bool_or("add_prefix_space", true)? {
        if explicit && prepend != Prepend::Never {
            let path = fields.path("add_prefix_space");
            return Err(invalid(
                &path,
                "true, as `prepend_scheme` says",
                &false.into(),
            ));
        }
        prepend = Prepend::Never;
    }
    let split = fields.bool_or("split", true)?;
    Ok(PreTokenizer::Metaspace {
        replacement,
        prepend,
        split,
    })
}

/// `Metaspace` with the scheme `first` asks where a piece stood in the text as given: nothing that
/// may have changed the text can come before it.
pub(super) fn check_first(normalizers: &[Normalizer], steps: &[PreTokenizer]) -> Result<()> {
    let mut changed = !normalizers.is_empty();
    for step in steps {
        match step {
            PreTokenizer::Metaspace {
                prepend: Prepend::First,
                ..
            } if changed => {
                return Err(TokenizerError::Unsupported {
                    path: "pre_tokenizer.prepend_scheme".to_owned(),
                    found: "`first` after a step that changes the text".to_owned(),
                });
            }
            PreTokenizer::Metaspace { .. } | PreTokenizer::PrefixSpace => changed = true,
            PreTokenizer::Split { .. } | PreTokenizer::Digits { .. } => {}
        }
    }
    Ok(())
}

/// Byte-level: `ByteLevel` alone. SentencePiece: `Replace`s, `ByteFallback`, `Fuse`, `Strip`, in
/// this order, each but `Fuse` left out if there is no use for it.
pub(super) fn decoder(value: Option<&Value>, alphabet: Alphabet) -> Result<Decoder> {
    let steps = flatten(value, "decoder", "decoders")?;
    if steps.is_empty() {
        return Err(invalid("decoder", "there", &Value::Null));
    }
    let mut decoder = Decoder::default();
    let mut fused = false;
    let mut byte_level = false;
    for (path, value) in steps {
        let mut fields = Fields::new(value, &path)?;
        let in_order = !byte_level && decoder.strip.is_none();
        match (fields.text("type")?, alphabet) {
            ("ByteLevel", Alphabet::Bytes) if in_order => {
                // How to encode, which does not matter here.
                for key in ["add_prefix_space", "trim_offsets", "use_regex"] {
                    fields.bool_or(key, true)?;
                }
                byte_level = true;
            }
            ("Replace", Alphabet::Chars) if in_order && !fused && !decoder.byte_fallback => {
                let Pattern::Text(from) = pattern(&mut fields)? else {
                    return Err(unsupported(path, value));
                };
                let to = fields.text("content")?.to_owned();
                if to.len() > from.len() {
                    return Err(unsupported(fields.path("content"), &to.into()));
                }
                decoder.replace.push((from, to));
            }
            ("ByteFallback", Alphabet::Chars) if in_order && !fused => decoder.byte_fallback = true,
            ("Fuse", Alphabet::Chars) if in_order => fused = true,
            ("Strip", Alphabet::Chars) if in_order && fused => {
                let content = fields.character("content")?;
                let start = fields.number("start")?;
                if fields.number("stop")? != 0 {
                    return Err(unsupported(fields.path("stop"), &value["stop"]));
                }
                decoder.strip = Some((content, start));
            }
            _ => return Err(unsupported(path, value)),
        }
        fields.done()?;
    }
    Ok(decoder)
}
