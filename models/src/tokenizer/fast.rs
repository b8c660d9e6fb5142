//! The form of a tokenizer that loads in milliseconds.
//!
//! ```text
//! magic        8 bytes  "chaskitk"
//! version      u32
//! checksum     u64      xxh3 of everything that follows
//! spec_len     u32      bytes
//! n_ids        u32
//! bytes_len    u32      bytes
//! n_merges     u32
//! spec         spec_len bytes of JSON
//! lens         n_ids x u16, bytes of each token
//! flags        n_ids x u8
//! bytes        bytes_len bytes, the tokens one after the other
//! merges       n_merges x 3 x u32: left, right, joined; by rank
//! ```
//!
//! All numbers are little-endian. The hash tables are built at load: that takes less time than to
//! check them would.

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Tokenizer,
    error::TokenizerError,
    merges::{MAX_MERGES, Merges},
    spec::{Alphabet, Normalizer, Pattern, PreTokenizer, Spec},
    vocab::{FINDABLE, MAX_IDS, PRESENT, Vocab, WHOLE},
};

/// Version of the fast form that this program reads and writes. It grows with every change to the
/// bytes or to what they mean.
pub const FAST_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"chaskitk";
const MERGE_BYTES: usize = 12;

impl Tokenizer {
    /// The fast form, for [`from_fast`](Self::from_fast).
    pub fn to_fast(&self) -> Vec<u8> {
        // Plain data without maps: there is nothing that could fail.
        let spec = serde_json::to_vec(&self.spec).unwrap_or_default();
        let (n_ids, bytes) = (self.vocab.n_ids(), self.vocab.all_bytes());
        let merges = self.merges.rules();
        let mut body = Vec::with_capacity(
            16 + spec.len() + n_ids * 3 + bytes.len() + merges.len() * MERGE_BYTES,
        );
        for len in [spec.len(), n_ids, bytes.len(), merges.len()] {
            body.extend_from_slice(&(len as u32).to_le_bytes());
        }
        body.extend_from_slice(&spec);
        for id in 0..n_ids {
            body.extend_from_slice(&(self.vocab.len_of(id) as u16).to_le_bytes());
        }
        body.extend_from_slice(self.vocab.flags());
        body.extend_from_slice(bytes);
        for id in merges.iter().flatten() {
            body.extend_from_slice(&id.to_le_bytes());
        }
        let mut fast = MAGIC.to_vec();
        fast.extend_from_slice(&FAST_VERSION.to_le_bytes());
        fast.extend_from_slice(&xxh3_64(&body).to_le_bytes());
        fast.extend_from_slice(&body);
        fast
    }

    /// Reads the fast form that [`to_fast`](Self::to_fast) wrote.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::FastVersion`] and [`TokenizerError::NotFastForm`] say that the form has to
    /// be built again from `tokenizer.json`; [`TokenizerError::FastDamaged`] names the field that
    /// cannot be. Nothing is allocated that is larger than a small multiple of `bytes`.
    pub fn from_fast(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let body = bytes
            .strip_prefix(MAGIC)
            .ok_or(TokenizerError::NotFastForm)?;
        let mut reader = Reader { rest: body };
        let found = reader.u32("version")?;
        if found != FAST_VERSION {
            return Err(TokenizerError::FastVersion {
                found,
                expected: FAST_VERSION,
            });
        }
        let checksum = u64::from_le_bytes(reader.array("checksum")?);
        if xxh3_64(reader.rest) != checksum {
            return Err(damaged("checksum"));
        }
        let [spec_len, n_ids, bytes_len, n_merges] = [
            reader.u32("spec_len")?,
            reader.u32("n_ids")?,
            reader.u32("bytes_len")?,
            { reader.u32("n_merges")? },
        ]
        .map(|n| n as usize);
        if n_ids > MAX_IDS {
            return Err(damaged("n_ids"));
        }
        if n_merges > MAX_MERGES {
            return Err(damaged("n_merges"));
        }
        let spec = reader.take(spec_len, "spec")?;
        let lens = reader.take(n_ids * 2, "lens")?;
        let flags = reader.take(n_ids, "flags")?;
        let tokens = reader.take(bytes_len, "bytes")?;
        let merges = reader.take(n_merges * MERGE_BYTES, "merges")?;
        if !reader.rest.is_empty() {
            return Err(damaged("end"));
        }

        let spec: Spec = serde_json::from_slice(spec).map_err(|_| damaged("spec"))?;
        check_spec(&spec, n_ids)?;
        let lens: Vec<u16> = lens
            .as_chunks()
            .0
            .iter()
            .map(|&len| u16::from_le_bytes(len))
            .collect();
        if lens.iter().map(|&len| usize::from(len)).sum::<usize>() != bytes_len {
            return Err(damaged("lens"));
        }
        if flags
            .iter()
            .any(|flags| flags & !(PRESENT | FINDABLE | WHOLE) != 0)
        {
            return Err(damaged("flags"));
        }
        let is_token = |&id: &u32| {
            flags
                .get(id as usize)
                .is_some_and(|flags| flags & PRESENT != 0)
        };
        let merges = merges.as_chunks::<MERGE_BYTES>().0.iter().map(|rule| {
            let ids = rule.as_chunks::<4>().0;
            [0, 1, 2].map(|i| u32::from_le_bytes(ids[i]))
        });
        if !merges.clone().flatten().all(|id| is_token(&id)) {
            return Err(damaged("merges"));
        }
        if !spec.unk.iter().all(is_token) {
            return Err(damaged("spec.unk"));
        }
        let merges = Merges::new(merges);
        Self::new(
            spec,
            Vocab::new(tokens.to_vec(), &lens, flags.to_vec()),
            merges,
        )
    }
}

/// What reading `tokenizer.json` makes sure of and JSON alone does not.
fn check_spec(spec: &Spec, n_ids: usize) -> Result<(), TokenizerError> {
    let is_empty = |pattern: &Pattern| matches!(pattern, Pattern::Text(text) if text.is_empty());
    let empty_replace = spec
        .normalizers
        .iter()
        .any(|step| matches!(step, Normalizer::Replace { pattern, .. } if is_empty(pattern)));
    let empty_split = spec
        .pre_tokenizers
        .iter()
        .any(|step| matches!(step, PreTokenizer::Split { pattern, .. } if is_empty(pattern)));
    let can_decode = spec.decoder.replace.iter().all(|(pattern, content)| {
        // No replacement makes a token longer.
        !pattern.is_empty() && content.len() <= pattern.len()
    });
    if empty_replace || empty_split || !can_decode {
        return Err(damaged("spec.pattern"));
    }
    // A byte-level vocabulary has no use for the decoder of another.
    if spec.alphabet == Alphabet::Bytes && spec.decoder != Default::default() {
        return Err(damaged("spec.decoder"));
    }
    let in_order = spec.added.is_sorted_by(|a, b| a.id < b.id);
    let in_range = spec.added.iter().all(|token| (token.id as usize) < MAX_IDS);
    if !in_order || !in_range || spec.added.iter().any(|token| token.content.is_empty()) {
        return Err(damaged("spec.added"));
    }
    let special = &spec.special;
    let ids = [
        special.before_text,
        special.bos,
        special.eos,
        special.pad,
        special.unk,
    ];
    let is_token = |id: u32| {
        (id as usize) < n_ids
            || spec
                .added
                .binary_search_by_key(&id, |token| token.id)
                .is_ok()
    };
    if !ids.into_iter().flatten().all(is_token) {
        return Err(damaged("spec.special"));
    }
    Ok(())
}

const fn damaged(field: &'static str) -> TokenizerError {
    TokenizerError::FastDamaged { field }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], TokenizerError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(damaged(field))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], TokenizerError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(damaged(field))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, TokenizerError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }
}
