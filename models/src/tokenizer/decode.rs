//! The text of the tokens of a SentencePiece vocabulary.

use super::{spec::Decoder, vocab::Vocab};

/// Each token's bytes, one after the other.
#[derive(Debug)]
pub(super) struct Decoded {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Decoded {
    pub(super) fn new(decoder: &Decoder, vocab: &Vocab) -> Self {
        let mut decoded = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(vocab.n_ids()),
        };
        for id in 0..vocab.n_ids() as u32 {
            let token = String::from_utf8_lossy(vocab.get(id).unwrap_or_default());
            let mut text = token.into_owned();
            for (pattern, content) in &decoder.replace {
                text = text.replace(pattern.as_str(), content);
            }
            match byte_token(&text).filter(|_| decoder.byte_fallback) {
                Some(byte) => decoded.bytes.push(byte),
                None => decoded.bytes.extend_from_slice(text.as_bytes()),
            }
            decoded
                .ends
                .push(u32::try_from(decoded.bytes.len()).unwrap_or(u32::MAX));
        }
        decoded
    }

    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 {
            0
        } else {
            self.ends[id - 1] as usize
        };
        self.bytes.get(start..end)
    }
}

/// The byte that a token `<0xXX>` stands for.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::vocab::PRESENT;

    #[test]
    fn spaces_and_bytes_are_what_the_decoder_says() {
        let tokens = ["▁a", "<0x0A>", "<0xfF>", "<0x0>", "<0x+A>", "▁▁"];
        let lens: Vec<u16> = tokens.iter().map(|token| token.len() as u16).collect();
        let vocab = Vocab::new(
            tokens.concat().into_bytes(),
            &lens,
            vec![PRESENT; tokens.len()],
        );
        let replace = vec![("▁".to_owned(), " ".to_owned())];
        let decoder = Decoder {
            replace,
            byte_fallback: true,
            strip: None,
        };
        let decoded = Decoded::new(&decoder, &vocab);
        let want: [&[u8]; 6] = [b" a", b"\n", b"\xff", b"<0x0>", b"<0x+A>", b"  "];
        for (id, want) in (0..).zip(want) {
            assert_eq!(decoded.get(id), Some(want), "{id}");
        }
        assert_eq!(decoded.get(6), None);
    }
}
