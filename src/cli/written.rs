//! What users wrote, told from what a chat template wrote.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    ops::Range,
};

use anyhow::bail;
use chaski_models::{
    TokenId,
    tokenizer::{Specials, Tokenizer},
};

/// Digits of a message's number in the mark that stands for it.
const DIGITS: usize = 10;

/// The ranges of `text`, which `render` makes of `contents`, that are messages; `template` is the
/// template's source.
///
/// Searching for a message in the text would find it where the template wrote the same. So the
/// template renders the conversation once more with marks, which nobody could have written before,
/// in the place of the messages: every mark is a message, and all else is the template's. With the
/// messages put back it has to be `text` again.
///
/// If it is not, the template does more with some message than to write it (it cuts off what the
/// model thought, say). Then only the messages that spell a special token are marked, and the tokens
/// of the text have to be the special ones that the template writes around marks: otherwise what was
/// written makes one, and the two cannot be told apart, which is an error.
pub(crate) fn ranges(
    text: &str,
    contents: &[&str],
    template: &str,
    tokenizer: &Tokenizer,
    render: impl Fn(&[String]) -> anyhow::Result<String>,
) -> anyhow::Result<Vec<Range<usize>>> {
    let key = loop {
        let key = format!("q{:016x}n", RandomState::new().build_hasher().finish());
        if ![text, template].iter().any(|t| t.contains(&key))
            && !contents.iter().any(|t| t.contains(&key))
        {
            break key;
        }
    };
    let all = render(&marked(contents, &key, |_| true))?;
    if let Some(ranges) = unmark(text, contents, &all, &key) {
        return Ok(ranges);
    }
    let specials = |ids: Vec<TokenId>| {
        let ids = ids.into_iter().filter(|&id| tokenizer.is_special(id));
        ids.filter(|&id| Some(id) != tokenizer.unk()).collect()
    };
    let spells = |content: &str| {
        let ids = tokenizer.encode(content, Specials::Parse);
        ids.is_ok_and(|ids| ids.iter().any(|&id| tokenizer.is_special(id)))
    };
    let some = render(&marked(contents, &key, spells))?;
    if let Some(ranges) = unmark(text, contents, &some, &key) {
        let got: Vec<TokenId> = specials(tokenizer.encode_rendered(text, &ranges)?.ids);
        if got == specials(tokenizer.encode(&all, Specials::Parse)?) {
            return Ok(ranges);
        }
    }
    bail!(
        "the chat template changes a message that spells a special token, so the two cannot be \
         told apart: rephrase the message"
    );
}

/// The messages, a mark in the place of each that is `chosen`.
fn marked(contents: &[&str], key: &str, chosen: impl Fn(&str) -> bool) -> Vec<String> {
    let mark = |(i, &content): (usize, &&str)| {
        let written = content.trim();
        if written.is_empty() || !chosen(content) {
            return content.to_owned();
        }
        // Templates trim, or do not: what is around a message stays around the mark.
        let start = content.len() - content.trim_start().len();
        let (before, after) = (&content[..start], &content[start + written.len()..]);
        format!("{before}{key}{i:0DIGITS$}{after}")
    };
    contents.iter().enumerate().map(mark).collect()
}

/// The ranges of `text` that are marks in `marked`, if that is what `marked` stands for.
fn unmark(text: &str, contents: &[&str], marked: &str, key: &str) -> Option<Vec<Range<usize>>> {
    let mut ranges = Vec::new();
    let mut done = 0;
    for (n, piece) in marked.split(key).enumerate() {
        let mut rendered = piece;
        if n > 0 {
            let number = piece.get(..DIGITS)?;
            let content = contents.get(number.parse::<usize>().ok()?)?.trim();
            let end = done + text[done..].strip_prefix(content).map(|_| content.len())?;
            ranges.push(done..end);
            done = end;
            rendered = &piece[DIGITS..];
        }
        text[done..].strip_prefix(rendered)?;
        done += rendered.len();
    }
    (done == text.len()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaski_models::{
        chat::{ChatTemplate, Message, RenderOptions, SpecialTokens},
        testing::tiny_tokenizer,
    };

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_hf(tiny_tokenizer(330).to_string().as_bytes(), None).unwrap()
    }

    /// What is taken as written, in brackets in the text.
    fn written(source: &str, contents: &[&str]) -> anyhow::Result<String> {
        let template = ChatTemplate::new(source, SpecialTokens::default()).unwrap();
        let render = |contents: &[String]| {
            let messages: Vec<Message> = contents.iter().map(Message::user).collect();
            Ok(template.render(&messages, &RenderOptions::default())?)
        };
        let owned: Vec<String> = contents.iter().map(ToString::to_string).collect();
        let text = render(&owned)?;
        let mut shown = text.clone();
        for range in ranges(&text, contents, source, &tokenizer(), render)?
            .iter()
            .rev()
        {
            shown.insert(range.end, ']');
            shown.insert(range.start, '[');
        }
        Ok(shown)
    }

    #[test]
    fn every_copy_of_a_message_is_the_message() {
        let twice =
            "{% for m in messages %}<|turn|>{{ m.content }}<|eot|>{{ m.content }}{% endfor %}";
        assert_eq!(
            written(twice, &["x<|turn|>y"]).unwrap(),
            "<|turn|>[x<|turn|>y]<|eot|>[x<|turn|>y]"
        );
    }

    #[test]
    fn what_the_template_wrote_is_no_message() {
        let source =
            "<|turn|>be kind{% for m in messages %}<|turn|>{{ m.content | trim }}{% endfor %}";
        assert_eq!(
            written(source, &[" <|turn|>be kind\n", "<|turn|>be kind"]).unwrap(),
            "<|turn|>be kind<|turn|>[<|turn|>be kind]<|turn|>[<|turn|>be kind]"
        );
        let source = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}";
        assert_eq!(
            written(source, &["plain", " <|turn|>plain "]).unwrap(),
            "<|turn|>[plain]<|turn|> [<|turn|>plain] "
        );
    }

    #[test]
    fn a_message_that_is_left_out_is_nowhere_and_one_that_is_changed_is_an_error() {
        let last = "<|turn|>{{ messages[-1].content }}";
        assert_eq!(
            written(last, &["<|turn|>", "plain"]).unwrap(),
            "<|turn|>[plain]"
        );
        for source in [
            "{{ messages[0].content | upper }}",
            "{{ messages[0].content[1:] }}",
            "{{ messages[0].content.split('|')[1] }}",
            "{% if 'u' in messages[0].content %}<|{% endif %}{{ messages[0].content }}",
            "{{ messages[0].content | length }}",
        ] {
            let err = written(source, &["<|turn|>"]).unwrap_err().to_string();
            assert!(err.contains("rephrase"), "{source}: {err}");
        }
    }

    #[test]
    fn a_message_that_is_changed_and_makes_no_special_token_is_no_error() {
        let last =
            "<|turn|>{{ messages[0].content.split('/')[-1] }}<|eot|>{{ messages[1].content }}";
        for (first, want) in [
            ("a/b", "<|turn|>b<|eot|>[<|turn|>]"),
            ("<|tu/rn|>", "<|turn|>rn|><|eot|>[<|turn|>]"),
        ] {
            assert_eq!(written(last, &[first, "<|turn|>"]).unwrap(), want);
        }
        // What is left of the message and the template make a token.
        let edge = "<|tu{{ messages[0].content.split('/')[-1] }}|>";
        let err = written(edge, &["a/rn"]).unwrap_err().to_string();
        assert!(err.contains("rephrase"), "{err}");
        assert_eq!(written(edge, &["rn"]).unwrap(), "<|tu[rn]|>");
    }
}
