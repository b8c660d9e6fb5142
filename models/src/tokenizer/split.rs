//! Splitting a text into the pieces that merges stay inside of.

use std::{borrow::Cow, ops::Range};

use super::{
    error::TokenizerError,
    normalize::Finder,
    spec::{Behavior, PreTokenizer, Prepend},
};

/// The steps of `pre_tokenizer`, ready to run.
#[derive(Debug)]
pub(super) struct PreTokenizers(Vec<Step>);

#[derive(Debug)]
enum Step {
    Split {
        finder: Finder,
        behavior: Behavior,
        invert: bool,
    },
    Digits {
        individual: bool,
    },
    PrefixSpace,
    Metaspace {
        replacement: char,
        prepend: Prepend,
        split: bool,
    },
}

/// A text, changed where a step said so, and its pieces in order; none of them is empty.
#[derive(Debug)]
pub(super) struct Pieces<'t> {
    pub(super) text: Cow<'t, str>,
    pub(super) ranges: Vec<Range<usize>>,
}

impl PreTokenizers {
    pub(super) fn new(steps: &[PreTokenizer]) -> Result<Self, TokenizerError> {
        let compile = |step: &PreTokenizer| {
            Ok(match *step {
                PreTokenizer::Split {
                    ref pattern,
                    behavior,
                    invert,
                } => {
                    let finder = Finder::new(pattern, "pre_tokenizer")?;
                    Step::Split {
                        finder,
                        behavior,
                        invert,
                    }
                }
                PreTokenizer::Digits { individual } => Step::Digits { individual },
                PreTokenizer::PrefixSpace => Step::PrefixSpace,
                PreTokenizer::Metaspace {
                    replacement,
                    prepend,
                    split,
                } => Step::Metaspace {
                    replacement,
                    prepend,
                    split,
                },
            })
        };
        Ok(Self(steps.iter().map(compile).collect::<Result<_, _>>()?))
    }

    /// The pieces of `text`. `is_first`: whether the user's text begins with it.
    pub(super) fn apply<'t>(
        &self,
        text: &'t str,
        is_first: bool,
    ) -> Result<Pieces<'t>, TokenizerError> {
        let whole = 0..text.len();
        let mut pieces = Pieces {
            text: Cow::Borrowed(text),
            ranges: Vec::new(),
        };
        if !text.is_empty() {
            pieces.ranges.push(whole);
        }
        for step in &self.0 {
            match step {
                Step::Split {
                    finder,
                    behavior,
                    invert,
                } => {
                    pieces.split(*behavior, *invert, |text, each| finder.for_each(text, each))?;
                }
                Step::Digits { individual } => {
                    let behavior = if *individual {
                        Behavior::Isolated
                    } else {
                        Behavior::Contiguous
                    };
                    pieces.split(behavior, false, |text, each| {
                        for (start, c) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
                            each(start, start + c.len_utf8());
                        }
                        Ok(())
                    })?;
                }
                Step::PrefixSpace => pieces.change(|piece, _, out| {
                    if !piece.starts_with(' ') {
                        out.push(' ');
                    }
                    out.push_str(piece);
                }),
                Step::Metaspace {
                    replacement,
                    prepend,
                    split,
                } => {
                    pieces.change(|piece, start, out| {
                        let wanted = match prepend {
                            Prepend::Always => true,
                            Prepend::First => is_first && start == 0,
                            Prepend::Never => false,
                        };
                        if wanted && !piece.starts_with([' ', *replacement]) {
                            out.push(*replacement);
                        }
                        let as_is = |c| if c == ' ' { *replacement } else { c };
                        out.extend(piece.chars().map(as_is));
                    });
                    if *split {
                        pieces.split(Behavior::MergedWithNext, false, |text, each| {
                            for (start, found) in text.match_indices(*replacement) {
                                each(start, start + found.len());
                            }
                            Ok(())
                        })?;
                    }
                }
            }
        }
        Ok(pieces)
    }
}

impl Pieces<'_> {
    /// Rewrites each piece by `rewrite(piece, its start, into)`.
    fn change(&mut self, rewrite: impl Fn(&str, usize, &mut String)) {
        let mut text = String::with_capacity(self.text.len() + self.ranges.len());
        for range in &mut self.ranges {
            let start = text.len();
            rewrite(&self.text[range.clone()], range.start, &mut text);
            *range = start..text.len();
        }
        self.text = Cow::Owned(text);
    }

    /// Splits each piece at the matches that `find(piece, each)` reports.
    fn split(
        &mut self,
        behavior: Behavior,
        invert: bool,
        find: impl Fn(&str, &mut dyn FnMut(usize, usize)) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        let mut ranges = Vec::with_capacity(self.ranges.len() + self.text.len() / 4);
        let mut spans = Vec::new();
        for piece in &self.ranges {
            let text = &self.text[piece.clone()];
            spans.clear();
            let mut done = 0;
            find(text, &mut |start, end| {
                if done != start {
                    spans.push((done..start, invert));
                }
                spans.push((start..end, !invert));
                done = end;
            })?;
            if done != text.len() {
                spans.push((done..text.len(), invert));
            }
            let first = ranges.len();
            join_spans(&spans, behavior, &mut ranges);
            for range in &mut ranges[first..] {
                *range = range.start + piece.start..range.end + piece.start;
            }
        }
        ranges.retain(|range| !range.is_empty());
        self.ranges = ranges;
        Ok(())
    }
}

/// Turns the spans of a piece, each a match or what lies between matches, into its parts.
fn join_spans(spans: &[(Range<usize>, bool)], behavior: Behavior, out: &mut Vec<Range<usize>>) {
    let first = out.len();
    match behavior {
        Behavior::Isolated => out.extend(spans.iter().map(|(span, _)| span.clone())),
        Behavior::Removed => {
            out.extend(
                spans
                    .iter()
                    .filter(|(_, is_match)| !is_match)
                    .map(|(span, _)| span.clone()),
            );
        }
        // Joined with the part before: a span of the same kind (Contiguous), or a match that does
        // not follow a match (MergedWithPrevious).
        Behavior::Contiguous | Behavior::MergedWithPrevious => {
            let mut previous = false;
            for (span, is_match) in spans {
                let join = match behavior {
                    Behavior::Contiguous => *is_match == previous,
                    _ => *is_match && !previous,
                };
                match out[first..].last_mut() {
                    Some(last) if join => last.end = span.end,
                    _ => out.push(span.clone()),
                }
                previous = *is_match;
            }
        }
        Behavior::MergedWithNext => {
            let mut next = false;
            for (span, is_match) in spans.iter().rev() {
                match out[first..].last_mut() {
                    Some(last) if *is_match && !next => last.start = span.start,
                    _ => out.push(span.clone()),
                }
                next = *is_match;
            }
            out[first..].reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::spec::Pattern;

    fn pieces(step: PreTokenizer, text: &str) -> Vec<String> {
        let steps = PreTokenizers::new(&[step]).unwrap();
        let pieces = steps.apply(text, true).unwrap();
        pieces
            .ranges
            .iter()
            .map(|range| pieces.text[range.clone()].to_owned())
            .collect()
    }

    #[test]
    fn a_split_does_with_its_matches_what_it_is_told() {
        for (behavior, invert, want) in [
            (Behavior::Removed, false, vec!["a", "bc"]),
            (Behavior::Removed, true, vec!["-", "-", "-"]),
            (Behavior::Isolated, false, vec!["-", "a", "-", "-", "bc"]),
            (
                Behavior::MergedWithPrevious,
                false,
                vec!["-", "a-", "-", "bc"],
            ),
            (Behavior::MergedWithNext, false, vec!["-a", "-", "-bc"]),
            (Behavior::Contiguous, false, vec!["-", "a", "--", "bc"]),
        ] {
            for pattern in [
                Pattern::Text("-".to_owned()),
                Pattern::Regex("-".to_owned()),
            ] {
                let step = PreTokenizer::Split {
                    pattern,
                    behavior,
                    invert,
                };
                assert_eq!(pieces(step, "-a--bc"), want, "{behavior:?} {invert}");
            }
        }
    }

    #[test]
    fn digits_stand_alone_or_together() {
        let digits = |individual| PreTokenizer::Digits { individual };
        assert_eq!(pieces(digits(true), "a12½٣"), ["a", "1", "2", "½", "٣"]);
        assert_eq!(pieces(digits(false), "12a34"), ["12", "a", "34"]);
        assert_eq!(pieces(digits(false), ""), [""; 0]);
    }

    #[test]
    fn metaspace_replaces_spaces_and_may_split_there() {
        let step = |prepend, split| PreTokenizer::Metaspace {
            replacement: '▁',
            prepend,
            split,
        };
        assert_eq!(
            pieces(step(Prepend::Always, true), "a  b"),
            ["▁a", "▁", "▁b"]
        );
        assert_eq!(pieces(step(Prepend::First, false), "a b"), ["▁a▁b"]);
        assert_eq!(pieces(step(Prepend::First, false), " a"), ["▁a"]);
        assert_eq!(pieces(step(Prepend::Never, false), "a b"), ["a▁b"]);
        let steps = PreTokenizers::new(&[step(Prepend::First, false)]).unwrap();
        assert_eq!(steps.apply("a", false).unwrap().text, "a");
    }

    #[test]
    fn a_space_goes_before_a_piece_that_has_none() {
        assert_eq!(pieces(PreTokenizer::PrefixSpace, "a"), [" a"]);
        assert_eq!(pieces(PreTokenizer::PrefixSpace, " a"), [" a"]);
    }
}
