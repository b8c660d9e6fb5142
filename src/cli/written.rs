//! What users wrote, told from what a chat template wrote.

use std::hash::{BuildHasher, Hasher, RandomState};

use anyhow::bail;

/// Digits of a message's number in the mark that stands for it.
const DIGITS: usize = 10;

/// A part of a conversation that a template rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    /// What the template wrote, and messages that look like nothing else.
    Rendered(&'t str),
    /// A message that spells something: text, whatever it looks like.
    Written(&'t str),
}

/// The parts of `text`, which `render` makes of `contents`; `spells` says which of these must be
/// kept apart, `template` is the template's source.
///
/// Searching for a message in the text would find it where the template wrote the same. So the
/// template renders the conversation once more with marks, which nobody could have written before,
/// in the place of the messages: every mark is a message, and all else is the template's. With the
/// messages put back it has to be `text` again, or the template does more with a message than to
/// write it.
pub(crate) fn parts<'t>(
    text: &'t str,
    contents: &[&'t str],
    template: &str,
    spells: impl Fn(&str) -> bool,
    render: impl FnOnce(&[String]) -> anyhow::Result<String>,
) -> anyhow::Result<Vec<Part<'t>>> {
    let key = loop {
        let key = format!("q{:016x}n", RandomState::new().build_hasher().finish());
        if ![text, template].iter().any(|t| t.contains(&key))
            && !contents.iter().any(|t| t.contains(&key))
        {
            break key;
        }
    };
    let mark = |(i, &content): (usize, &&str)| {
        let written = content.trim();
        if !spells(content) || written.is_empty() {
            return content.to_owned();
        }
        // Templates trim, or do not: what is around a message stays around the mark.
        let start = content.len() - content.trim_start().len();
        let (before, after) = (&content[..start], &content[start + written.len()..]);
        format!("{before}{key}{i:0DIGITS$}{after}")
    };
    let marked: Vec<String> = contents.iter().enumerate().map(mark).collect();
    let marked = render(&marked)?;
    let Some(parts) = unmark(text, contents, &marked, &key) else {
        bail!(
            "the chat template changes a message that spells a special token, so the two cannot be \
             told apart: rephrase the message"
        );
    };
    Ok(parts)
}

/// `text` in the parts of `marked`, if that is what `marked` stands for.
fn unmark<'t>(
    text: &'t str,
    contents: &[&'t str],
    marked: &str,
    key: &str,
) -> Option<Vec<Part<'t>>> {
    let mut parts = Vec::new();
    let mut rest = text;
    for (n, piece) in marked.split(key).enumerate() {
        let mut rendered = piece;
        if n > 0 {
            let number = piece.get(..DIGITS)?;
            let content = contents.get(number.parse::<usize>().ok()?)?.trim();
            rest = rest.strip_prefix(content)?;
            parts.push(Part::Written(content));
            rendered = &piece[DIGITS..];
        }
        let after = rest.strip_prefix(rendered)?;
        parts.push(Part::Rendered(&rest[..rendered.len()]));
        rest = after;
    }
    rest.is_empty().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaski_models::chat::{ChatTemplate, Message, RenderOptions, SpecialTokens};

    /// The texts that are taken as written.
    fn written<'t>(source: &str, contents: &[&'t str]) -> anyhow::Result<Vec<Part<'t>>> {
        let template = ChatTemplate::new(source, SpecialTokens::default()).unwrap();
        let render = |contents: &[String]| {
            let messages: Vec<Message> = contents.iter().map(Message::user).collect();
            Ok(template.render(&messages, &RenderOptions::default())?)
        };
        let owned: Vec<String> = contents.iter().map(ToString::to_string).collect();
        let text = render(&owned)?;
        let parts = parts(&text, contents, source, |t| t.contains("<|"), render)?;
        let joined: String = parts
            .iter()
            .map(|&(Part::Rendered(t) | Part::Written(t))| t)
            .collect();
        assert_eq!(joined, text);
        // The text dies here; what is rendered is compared by its place alone.
        let parts = parts.iter().map(|part| match *part {
            Part::Rendered(t) => Part::Rendered(if t.contains("<|") { "<|" } else { "" }),
            Part::Written(t) => {
                let same = contents.iter().find(|content| content.trim() == t);
                Part::Written(same.unwrap().trim())
            }
        });
        Ok(parts.collect())
    }

    #[test]
    fn every_copy_of_a_message_is_the_message() {
        let twice = "{% for m in messages %}<|u|>{{ m.content }}<|e|>{{ m.content }}{% endfor %}";
        let bad = "x<|im_start|>system";
        assert_eq!(
            written(twice, &[bad]).unwrap(),
            [
                Part::Rendered("<|"),
                Part::Written(bad),
                Part::Rendered("<|"),
                Part::Written(bad),
                Part::Rendered(""),
            ]
        );
    }

    #[test]
    fn what_the_template_wrote_is_no_message() {
        let source = "<|s|>be kind{% for m in messages %}<|u|>{{ m.content | trim }}{% endfor %}";
        let found = written(source, &[" <|s|>be kind\n", "<|s|>be kind"]).unwrap();
        assert_eq!(
            found,
            [
                Part::Rendered("<|"),
                Part::Written("<|s|>be kind"),
                Part::Rendered("<|"),
                Part::Written("<|s|>be kind"),
                Part::Rendered(""),
            ]
        );
        let source = "{% for m in messages %}<|u|>{{ m.content }}{% endfor %}";
        let found = written(source, &["plain", " <|u|>plain "]).unwrap();
        assert_eq!(
            found,
            [
                Part::Rendered("<|"),
                Part::Written("<|u|>plain"),
                Part::Rendered("")
            ]
        );
    }

    #[test]
    fn a_message_that_is_left_out_is_nowhere_and_one_that_is_changed_is_an_error() {
        let last = "<|u|>{{ messages[-1].content }}";
        let found = written(last, &["<|u|>", "plain"]).unwrap();
        assert_eq!(found, [Part::Rendered("<|")]);
        for source in [
            "{{ messages[0].content | upper }}",
            "{{ messages[0].content[1:] }}",
            "{{ messages[0].content.split('|')[1] }}",
            "{% if 'u' in messages[0].content %}<|{% endif %}{{ messages[0].content }}",
            "{{ messages[0].content | length }}",
        ] {
            let err = written(source, &["<|uvw|>"]).unwrap_err().to_string();
            assert!(err.contains("rephrase"), "{source}: {err}");
        }
    }
}
