//! Token ids by their bytes and back.

use xxhash_rust::xxh3::xxh3_64;

/// Ids lie below this: sixteen times the largest vocabulary in use.
pub(super) const MAX_IDS: usize = 1 << 22;
/// A token has at most so many bytes.
pub(super) const MAX_TOKEN_BYTES: usize = u16::MAX as usize;

/// The id is a token of the model.
pub(super) const PRESENT: u8 = 1;
/// Its bytes may be found by [`Vocab::find`]. A byte-level token is not if its characters do not
/// all stand for bytes.
pub(super) const FINDABLE: u8 = 2;
/// The merges, starting from the token's own alphabet, end in this token alone.
pub(super) const WHOLE: u8 = 4;

/// The model's tokens; those that are only added are not in here.
///
/// Looking up is open addressing with linear steps in a table that is at most half full; a slot
/// holds the id plus one.
#[derive(Debug)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// Where the bytes of each id end.
    ends: Vec<u32>,
    flags: Vec<u8>,
    slots: Vec<u32>,
    longest: usize,
}

impl Vocab {
    /// Tokens with `lens[id]` bytes each, one after the other in `bytes`.
    ///
    /// # Panics
    ///
    /// If the lengths do not add up to `bytes`, or there is not one flag for each.
    pub(super) fn new(bytes: Vec<u8>, lens: &[u16], flags: Vec<u8>) -> Self {
        assert_eq!(lens.len(), flags.len(), "one flag for each id");
        let mut ends = Vec::with_capacity(lens.len());
        let (mut end, mut longest) = (0u32, 0);
        for &len in lens {
            end += u32::from(len);
            ends.push(end);
            longest = longest.max(usize::from(len));
        }
        assert_eq!(
            end as usize,
            bytes.len(),
            "the lengths are those of the bytes"
        );
        let slots = vec![0; (lens.len() * 2).next_power_of_two()];
        let mut vocab = Self {
            bytes,
            ends,
            flags,
            slots,
            longest,
        };
        for id in 0..lens.len() {
            if vocab.flags[id] & FINDABLE != 0 {
                let mut slot = vocab.first_slot(vocab.token(id));
                while vocab.slots[slot] != 0 {
                    slot = (slot + 1) & (vocab.slots.len() - 1);
                }
                vocab.slots[slot] = id as u32 + 1;
            }
        }
        vocab
    }

    /// The highest id, plus one.
    pub(super) fn n_ids(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn flags(&self) -> &[u8] {
        &self.flags
    }

    pub(super) fn all_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len_of(&self, id: usize) -> usize {
        self.token(id).len()
    }

    /// Says of token `id` that its own merges end in it alone.
    pub(super) fn set_whole(&mut self, id: u32) {
        self.flags[id as usize] |= WHOLE;
    }

    /// Takes back what [`set_whole`](Self::set_whole) said.
    pub(super) fn clear_whole(&mut self, id: u32) {
        self.flags[id as usize] &= !WHOLE;
    }

    /// The bytes of `id`, if the model has it.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        (self.flags.get(id)? & PRESENT != 0).then(|| self.token(id))
    }

    /// The token with just these bytes.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            return None;
        }
        let mut slot = self.first_slot(bytes);
        loop {
            let id = self.slots[slot].checked_sub(1)?;
            if self.token(id as usize) == bytes {
                return Some(id);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// As [`find`](Self::find), only for tokens that the merges would end in anyway.
    pub(super) fn find_whole(&self, bytes: &[u8]) -> Option<u32> {
        self.find(bytes)
            .filter(|&id| self.flags[id as usize] & WHOLE != 0)
    }

    fn token(&self, id: usize) -> &[u8] {
        let start = if id == 0 {
            0
        } else {
            self.ends[id - 1] as usize
        };
        &self.bytes[start..self.ends[id] as usize]
    }

    fn first_slot(&self, bytes: &[u8]) -> usize {
        xxh3_64(bytes) as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_their_bytes_and_by_their_id() {
        let both = PRESENT | FINDABLE;
        let flags = vec![both, 0, PRESENT, both, both | WHOLE];
        let vocab = Vocab::new(b"aabba".to_vec(), &[1, 0, 2, 0, 2], flags);
        assert_eq!(vocab.n_ids(), 5);
        assert_eq!(vocab.find(b"a"), Some(0));
        assert_eq!(vocab.find(b"ab"), None, "not findable");
        assert_eq!(vocab.get(2), Some(&b"ab"[..]));
        assert_eq!((vocab.find(b""), vocab.get(3)), (Some(3), Some(&b""[..])));
        assert_eq!(
            (vocab.find(b"ba"), vocab.find_whole(b"ba")),
            (Some(4), Some(4))
        );
        assert_eq!(vocab.find_whole(b"a"), None);
        assert_eq!((vocab.get(1), vocab.get(5)), (None, None));
        assert_eq!((vocab.find(b"c"), vocab.find(b"aaa")), (None, None));
    }

    #[test]
    fn an_empty_vocabulary_finds_nothing() {
        let vocab = Vocab::new(Vec::new(), &[], Vec::new());
        assert_eq!((vocab.find(b""), vocab.get(0)), (None, None));
    }
}
