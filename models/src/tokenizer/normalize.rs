//! What happens to a text before it is split.

use std::borrow::Cow;

use fancy_regex::Regex;
use unicode_normalization_alignments::UnicodeNormalization;

use super::{
    error::TokenizerError,
    spec::{Normalizer, Pattern},
};

/// A normalizer has at most so many steps; those in use have two or three.
const MAX_STEPS: usize = 64;

/// The steps of `normalizer`, ready to run.
#[derive(Debug)]
pub(super) struct Normalizers(Vec<Step>);

#[derive(Debug)]
enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Prepend(String),
    Replace(Finder, String),
}

impl Normalizers {
    pub(super) fn new(steps: &[Normalizer]) -> Result<Self, TokenizerError> {
        if steps.len() > MAX_STEPS {
            return Err(TokenizerError::Unsupported {
                path: "normalizer".to_owned(),
                found: format!("a sequence of more than {MAX_STEPS} steps"),
            });
        }
        let compile = |step: &Normalizer| {
            Ok(match step {
                Normalizer::Nfc => Step::Nfc,
                Normalizer::Nfd => Step::Nfd,
                Normalizer::Nfkc => Step::Nfkc,
                Normalizer::Nfkd => Step::Nfkd,
                Normalizer::Prepend(text) => Step::Prepend(text.clone()),
                Normalizer::Replace { pattern, content } => {
                    Step::Replace(Finder::new(pattern, "normalizer")?, content.clone())
                }
            })
        };
        Ok(Self(steps.iter().map(compile).collect::<Result<_, _>>()?))
    }

    /// `text`, normalised; an error if a step lets it grow beyond `max` bytes.
    pub(super) fn apply<'t>(
        &self,
        text: &'t str,
        max: usize,
    ) -> Result<Cow<'t, str>, TokenizerError> {
        let len = text.len();
        let mut text = Cow::Borrowed(text);
        for step in &self.0 {
            if let Some(changed) = step.apply(&text, max)? {
                if changed.len() > max {
                    return Err(TokenizerError::NormalizedTooLong { len, max });
                }
                text = Cow::Owned(changed);
            }
        }
        Ok(text)
    }
}

impl Step {
    /// The changed text, or none if nothing changes. What is beyond `max` bytes may be missing.
    fn apply(&self, text: &str, max: usize) -> Result<Option<String>, TokenizerError> {
        // Nothing below U+0300 composes or is reordered with what is below it, and nothing below
        // U+00A0 decomposes.
        let all_below = |limit: char| text.chars().all(|c| c < limit);
        let collect = |chars: &mut dyn Iterator<Item = (char, isize)>| {
            let mut changed = String::new();
            for (c, _) in chars {
                changed.push(c);
                if changed.len() > max {
                    break;
                }
            }
            Some(changed)
        };
        Ok(match self {
            Self::Nfc if all_below('\u{300}') => None,
            Self::Nfd | Self::Nfkc | Self::Nfkd if all_below('\u{a0}') => None,
            Self::Nfc => collect(&mut text.nfc()),
            Self::Nfd => collect(&mut text.nfd()),
            Self::Nfkc => collect(&mut text.nfkc()),
            Self::Nfkd => collect(&mut text.nfkd()),
            Self::Prepend(_) if text.is_empty() => None,
            Self::Prepend(prefix) => Some(format!("{prefix}{text}")),
            Self::Replace(finder, content) => {
                let mut changed = String::new();
                let mut done = 0;
                let mut any = false;
                finder.for_each(text, |start, end| {
                    any = true;
                    if changed.len() <= max {
                        changed.push_str(&text[done..start]);
                        changed.push_str(content);
                    }
                    done = end;
                })?;
                changed.push_str(&text[done..]);
                any.then_some(changed)
            }
        })
    }
}

/// A pattern, ready to be searched for.
#[derive(Debug)]
pub(super) enum Finder {
    Text(String),
    Regex(Regex),
}

impl Finder {
    pub(super) fn new(pattern: &Pattern, path: &str) -> Result<Self, TokenizerError> {
        match pattern {
            Pattern::Text(text) => Ok(Self::Text(text.clone())),
            Pattern::Regex(regex) => {
                Regex::new(regex)
                    .map(Self::Regex)
                    .map_err(|cause| TokenizerError::Pattern {
                        path: path.to_owned(),
                        cause: Box::new(cause),
                    })
            }
        }
    }

    /// Calls `each` with start and end of every match, in order; matches do not overlap.
    pub(super) fn for_each(
        &self,
        text: &str,
        mut each: impl FnMut(usize, usize),
    ) -> Result<(), TokenizerError> {
        match self {
            Self::Text(pattern) => {
                for (start, found) in text.match_indices(pattern.as_str()) {
                    each(start, start + found.len());
                }
            }
            Self::Regex(regex) => {
                for found in regex.find_iter(text) {
                    let found = found.map_err(|cause| TokenizerError::Match(Box::new(cause)))?;
                    each(found.start(), found.end());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(steps: &[Normalizer], text: &str) -> String {
        Normalizers::new(steps)
            .unwrap()
            .apply(text, 100)
            .unwrap()
            .into_owned()
    }

    #[test]
    fn composing_joins_a_letter_and_its_accent() {
        assert_eq!(normalized(&[Normalizer::Nfc], "e\u{301}a"), "éa");
        assert_eq!(normalized(&[Normalizer::Nfd], "é"), "e\u{301}");
        assert_eq!(normalized(&[Normalizer::Nfkc], "ﬁ\u{a0}"), "fi ");
        assert_eq!(normalized(&[Normalizer::Nfkd], "é²"), "e\u{301}2");
    }

    #[test]
    fn the_texts_that_are_passed_over_would_not_change() {
        for c in '\0'..'\u{300}' {
            let pairs: String = ['a', 'é', 'ĳ', c]
                .iter()
                .flat_map(|&d| [d, c, 'e', c])
                .collect();
            assert_eq!(
                pairs.nfc().map(|(c, _)| c).collect::<String>(),
                pairs,
                "{c:?}"
            );
        }
        for c in '\0'..'\u{a0}' {
            let text = format!("a{c}e");
            assert_eq!(
                text.nfd().map(|(c, _)| c).collect::<String>(),
                text,
                "{c:?}"
            );
            assert_eq!(
                text.nfkd().map(|(c, _)| c).collect::<String>(),
                text,
                "{c:?}"
            );
            assert_eq!(
                text.nfkc().map(|(c, _)| c).collect::<String>(),
                text,
                "{c:?}"
            );
        }
    }

    #[test]
    fn steps_run_in_their_order() {
        let replace = |from: &str, to: &str| Normalizer::Replace {
            pattern: Pattern::Text(from.to_owned()),
            content: to.to_owned(),
        };
        let steps = [Normalizer::Prepend("▁".to_owned()), replace(" ", "▁")];
        assert_eq!(normalized(&steps, " a b"), "▁▁a▁b");
        assert_eq!(normalized(&steps, ""), "");
        let steps = Normalizers::new(&[replace(" ", "▁▁▁▁▁▁▁▁▁▁")]).unwrap();
        let err = steps.apply(&" ".repeat(1000), 2000).unwrap_err();
        assert!(
            matches!(
                err,
                TokenizerError::NormalizedTooLong {
                    len: 1000,
                    max: 2000
                }
            ),
            "{err}"
        );
        let pattern = Pattern::Regex(r"\s+".to_owned());
        let spaces = Normalizer::Replace {
            pattern,
            content: "$0 ".to_owned(),
        };
        assert_eq!(
            normalized(&[spaces], "a\n b"),
            "a$0 b",
            "the content is taken as it is"
        );
    }

    #[test]
    fn no_step_lets_a_text_grow_beyond_the_bound() {
        let double = Normalizer::Replace {
            pattern: Pattern::Text("a".to_owned()),
            content: "aa".to_owned(),
        };
        let prefix = Normalizer::Prepend("a".repeat(60));
        let ligature = [Normalizer::Nfkc];
        for (steps, text) in [
            (&vec![double.clone(); 60][..], "a"),
            (&vec![prefix; 3], "a"),
            (&ligature, &"\u{fdfa}".repeat(4)),
        ] {
            let err = Normalizers::new(steps)
                .unwrap()
                .apply(text, 100)
                .unwrap_err();
            assert!(
                matches!(err, TokenizerError::NormalizedTooLong { max: 100, .. }),
                "{err}"
            );
            assert!(err.to_string().contains("`normalizer`"), "{err}");
        }
        let err = Normalizers::new(&vec![double; 65]).unwrap_err();
        assert!(err.to_string().contains("more than 64 steps"), "{err}");
    }
}
