//! Ending an answer at given texts.

/// Finds stop texts in a stream and holds back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// Ends at any of `stops`; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece of text. Gives what can be shown, and whether a stop text was reached;
    /// it and what follows are dropped.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found = self
            .stops
            .iter()
            .filter_map(|s| self.held.find(s.as_str()))
            .min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        // The longest end of the text that a stop text begins with stays.
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let keep_from = self
            .held
            .char_indices()
            .map(|(i, _)| i)
            .filter(|&i| self.held.len() - i < longest)
            .find(|&i| self.stops.iter().any(|s| s.starts_with(&self.held[i..])))
            .unwrap_or(self.held.len());
        let kept = self.held.split_off(keep_from);
        (std::mem::replace(&mut self.held, kept), false)
    }

    /// What was held back, at the end of the stream.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stop_texts_are_found_across_pieces_and_never_shown() {
        let mut m = StopMatcher::new(&["END".to_owned(), "\u{e9}!".to_owned(), String::new()]);
        assert_eq!(m.push("abcE"), ("abc".to_owned(), false));
        assert_eq!(m.push("N"), (String::new(), false));
        assert_eq!(m.push("EN"), ("EN".to_owned(), false));
        assert_eq!(m.push("D tail"), (String::new(), true));
        assert_eq!(m.push("caf\u{e9}"), ("caf".to_owned(), false));
        assert_eq!(m.finish(), "\u{e9}");
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(
            text in "[ab\u{e9}]{0,30}",
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..3),
            cuts in prop::collection::vec(0_usize..31, 0..6),
        ) {
            let want = match stops.iter().filter_map(|s| text.find(s.as_str())).min() {
                Some(at) => text[..at].to_owned(),
                None => text.clone(),
            };
            let mut cuts: Vec<usize> = cuts
                .into_iter()
                .filter(|&c| c <= text.len() && text.is_char_boundary(c))
                .chain([0, text.len()])
                .collect();
            cuts.sort_unstable();
            let mut m = StopMatcher::new(&stops);
            let (mut got, mut stopped) = (String::new(), false);
            for w in cuts.windows(2) {
                let (shown, stop) = m.push(&text[w[0]..w[1]]);
                got += &shown;
                if stop {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                got += &m.finish();
            }
            // A later piece can reveal an earlier stop only at the earliest place: equal to the whole
            // unless a shorter stop ended the stream before a longer one that begins earlier was complete.
            prop_assert!(got == want || (stopped && got.starts_with(&want)));
        }
    }
}
