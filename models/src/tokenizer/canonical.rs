//! The original `tokenizer.json`, compressed, as a container stores it.
//!
//! ```text
//! length of the original   u64, little-endian
//! the original             a zlib stream (RFC 1950) up to the end
//! ```
//!
//! It is read only where the fast form does not fit, so its size counts and not its speed: deflate
//! makes a third of Llama 3's 6.6 MB, and `miniz_oxide` is the pure Rust one that `std` itself unwinds
//! with.

use miniz_oxide::{
    deflate::compress_to_vec_zlib,
    inflate::{
        TINFLStatus,
        core::{DecompressorOxide, decompress, inflate_flags},
    },
};

use super::error::TokenizerError;

/// Levels above cost seconds and gain a percent.
const LEVEL: u8 = 8;
const HEADER_BYTES: usize = 8;
/// Deflate's largest ratio: a length that the compressed bytes cannot have is refused before
/// anything is allocated for it.
const MAX_RATIO: u64 = 1032;

/// Compresses a `tokenizer.json`; [`decompress_canonical`] gives the same bytes back.
pub fn compress_canonical(original: &[u8]) -> Vec<u8> {
    let mut compressed = (original.len() as u64).to_le_bytes().to_vec();
    compressed.extend(compress_to_vec_zlib(original, LEVEL));
    compressed
}

/// The bytes that [`compress_canonical`] was given.
///
/// * `max`: the most bytes that the caller takes.
///
/// # Errors
///
/// [`TokenizerError::CompressedTooLong`] before anything is decompressed, and
/// [`TokenizerError::CompressedDamaged`] for everything that is not the whole output of
/// [`compress_canonical`].
pub fn decompress_canonical(compressed: &[u8], max: usize) -> Result<Vec<u8>, TokenizerError> {
    let damaged = |field| TokenizerError::CompressedDamaged { field };
    let (len, stream) = compressed
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| damaged("length"))?;
    let len = u64::from_le_bytes(*len);
    if len > max as u64 {
        return Err(TokenizerError::CompressedTooLong { len, max });
    }
    if len > (stream.len() as u64).saturating_mul(MAX_RATIO) {
        return Err(damaged("length"));
    }
    let mut original = vec![0; len as usize];
    let flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
        | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | inflate_flags::TINFL_FLAG_COMPUTE_ADLER32;
    let mut state = Box::<DecompressorOxide>::default();
    let (status, read, written) = decompress(&mut state, stream, &mut original, 0, flags);
    if status != TINFLStatus::Done || read != stream.len() || written != original.len() {
        return Err(damaged("stream"));
    }
    Ok(original)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_comes_back() {
        for original in [&b""[..], b"{}", &b"[1, 2, 3]".repeat(5000)] {
            let compressed = compress_canonical(original);
            assert_eq!(
                decompress_canonical(&compressed, original.len()).unwrap(),
                original
            );
        }
        assert!(compress_canonical(&b"[1, 2, 3]".repeat(5000)).len() < 1000);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_decompressed() {
        let compressed = compress_canonical(&[0; 100]);
        let err = decompress_canonical(&compressed, 99).unwrap_err();
        assert!(
            matches!(err, TokenizerError::CompressedTooLong { len: 100, max: 99 }),
            "{err}"
        );
        let mut bomb = compressed;
        bomb[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
        let err = decompress_canonical(&bomb, usize::MAX).unwrap_err();
        assert!(
            matches!(err, TokenizerError::CompressedDamaged { field: "length" }),
            "{err}"
        );
    }

    #[test]
    fn no_truncated_or_changed_byte_goes_unnoticed() {
        let original = b"{\"version\": \"1.0\"}".repeat(9);
        let compressed = compress_canonical(&original);
        for len in 0..compressed.len() {
            assert!(
                decompress_canonical(&compressed[..len], 1000).is_err(),
                "{len}"
            );
        }
        for at in 0..compressed.len() {
            for bit in 0..8 {
                let mut changed = compressed.clone();
                changed[at] ^= 1 << bit;
                // Bits of the stream's header that mean nothing may change.
                if let Ok(decompressed) = decompress_canonical(&changed, 1000) {
                    assert_eq!(decompressed, original, "byte {at}, bit {bit}");
                }
            }
        }
        let longer = [&compressed[..], b"\0"].concat();
        assert!(decompress_canonical(&longer, 1000).is_err());
    }
}
