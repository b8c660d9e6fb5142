//! The printable characters that stand for bytes in a byte-level vocabulary.
//!
//! A byte that is a printable Latin-1 character other than the space and the soft hyphen stands
//! for itself; the others are, in their order, U+0100 and on: a space is `Ġ`, a line feed `Ċ`.

/// Characters that stand for a byte lie below this.
const END: usize = 0x100 + 68;

/// Byte that character `i` stands for, or -1.
const BYTE_OF: [i16; END] = {
    let mut table = [-1; END];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        if stands_for_itself(byte) {
            table[byte] = byte as i16;
        } else {
            table[next] = byte as i16;
            next += 1;
        }
        byte += 1;
    }
    table
};

const fn stands_for_itself(byte: usize) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The byte that `c` stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    BYTE_OF
        .get(c as usize)
        .and_then(|&byte| u8::try_from(byte).ok())
}

/// The bytes that `token` stands for, if all its characters stand for bytes.
pub(super) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut chars: Vec<Vec<char>> = vec![Vec::new(); 256];
        for c in '\0'..'\u{1000}' {
            if let Some(byte) = byte_of(c) {
                chars[usize::from(byte)].push(c);
            }
        }
        assert!(chars.iter().all(|of_byte| of_byte.len() == 1));
        let known = [
            (0, 'Ā'),
            (b' ', 'Ġ'),
            (b'\n', 'Ċ'),
            (b'a', 'a'),
            (0xad, 'Ń'),
            (0xff, 'ÿ'),
        ];
        for (byte, c) in known {
            assert_eq!(chars[usize::from(byte)], [c]);
        }
    }

    #[test]
    fn a_token_with_another_character_stands_for_no_bytes() {
        assert_eq!(bytes_of("Ġé").unwrap(), [b' ', 0xe9]);
        assert_eq!(bytes_of("a b"), None);
        assert_eq!(bytes_of("▁a"), None);
    }
}
