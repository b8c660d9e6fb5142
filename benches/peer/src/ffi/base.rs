//! ggml's block types.

use std::{fmt, path::Path, ptr};

use super::{ggml, text};
use crate::PeerError;

/// `libggml-base.so`.
pub struct Ggml {
    lib: ggml::Ggml,
    version: String,
}

/// What ggml says of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeInfo {
    /// `q4_K`.
    pub name: String,
    /// Weights of a block; 0 of a type that was withdrawn.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

impl Ggml {
    /// Ids of types are below this.
    pub const N_TYPES: u32 = ggml::GGML_TYPE_COUNT;

    /// Loads the library in `dir`.
    ///
    /// # Errors
    ///
    /// If it is not there or is none.
    pub fn open(dir: &Path) -> Result<Self, PeerError> {
        let path = dir.join("libggml-base.so");
        // SAFETY: the user names the folder as that of ggml, whose initialisers may run. The functions have had these
        // types in every release that has all of them.
        let lib = unsafe { ggml::Ggml::new(&path) }
            .map_err(|cause| PeerError::Library { path, cause })?;
        // SAFETY: both take nothing and return fixed texts.
        let version = unsafe {
            let (version, commit) = (text(lib.ggml_version()), text(lib.ggml_commit()));
            format!("{version} ({commit})")
        };
        Ok(Self { lib, version })
    }

    /// Version and commit.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The type of this id, where ggml has or had one.
    pub fn type_info(&self, id: u32) -> Option<TypeInfo> {
        let traits = self.traits(id)?;
        Some(TypeInfo {
            // SAFETY: a fixed text of the library.
            name: unsafe { text(traits.type_name) },
            block_len: usize::try_from(traits.blck_size).ok()?,
            block_bytes: traits.type_size,
        })
    }

    fn traits(&self, id: u32) -> Option<ggml::ggml_type_traits> {
        if id >= Self::N_TYPES {
            return None;
        }
        // SAFETY: returns a fixed text for any number; "NONE" where this library's types end earlier.
        let name = unsafe { text(self.lib.ggml_type_name(id)) };
        if name.is_empty() || name == "NONE" {
            return None;
        }
        // SAFETY: the id is one of the library's, so this points into its table, which is never changed.
        Some(unsafe { *self.lib.ggml_get_type_traits(id) })
    }

    /// Quantises `weights`, rows of `cols`, to type `id`, by ggml's own search without an importance matrix.
    ///
    /// # Errors
    ///
    /// If there is no such type, if rows are not whole blocks of it, or if ggml writes another number of bytes.
    pub fn quantize(&self, id: u32, weights: &[f32], cols: usize) -> Result<Vec<u8>, PeerError> {
        let bytes = self.bytes(id, weights.len(), cols)?;
        let mut out = vec![0_u8; bytes];
        let rows = weights.len() / cols;
        // SAFETY: `weights` has `rows * cols` floats; `out` has as many bytes as the blocks of these rows take. The
        // types that need an importance matrix, which would be read, were refused.
        let written = unsafe {
            self.lib.ggml_quantize_chunk(
                id,
                weights.as_ptr(),
                out.as_mut_ptr().cast(),
                0,
                rows as i64,
                cols as i64,
                ptr::null(),
            )
        };
        if written == bytes {
            Ok(out)
        } else {
            Err(PeerError::Type { id })
        }
    }

    /// Decodes whole blocks of type `id`.
    ///
    /// # Errors
    ///
    /// If there is no such type, it cannot be decoded, or `raw` is not whole blocks of it.
    pub fn dequantize(&self, id: u32, raw: &[u8]) -> Result<Vec<f32>, PeerError> {
        let error = PeerError::Type { id };
        let traits = self.traits(id).ok_or(error)?;
        let (Some(decode), Ok(len), size) = (
            traits.to_float,
            usize::try_from(traits.blck_size),
            traits.type_size,
        ) else {
            return Err(PeerError::Type { id });
        };
        if size == 0 || len == 0 || !raw.len().is_multiple_of(size) {
            return Err(PeerError::Type { id });
        }
        let mut out = vec![f32::NAN; raw.len() / size * len];
        // ggml reads blocks as structs of 16-bit numbers.
        let mut aligned = vec![0_u64; raw.len().div_ceil(8)];
        let at: *mut u8 = aligned.as_mut_ptr().cast();
        // SAFETY: `aligned` has room for `raw`, and its alignment is that of the strictest block. The decoder reads
        // `out.len() / len` blocks and writes as many weights; any bytes are a block.
        unsafe {
            ptr::copy_nonoverlapping(raw.as_ptr(), at, raw.len());
            decode(at.cast(), out.as_mut_ptr(), out.len() as i64);
        }
        Ok(out)
    }

    /// The bytes of `n` weights in rows of `cols`, of a type that quantises without more ado.
    fn bytes(&self, id: u32, n: usize, cols: usize) -> Result<usize, PeerError> {
        // These need an importance matrix.
        let needs_more = matches!(
            id,
            ggml::GGML_TYPE_IQ2_XXS
                | ggml::GGML_TYPE_IQ2_XS
                | ggml::GGML_TYPE_IQ1_S
                | ggml::GGML_TYPE_IQ1_M
        );
        let info = self
            .type_info(id)
            .filter(|t| t.block_len > 0 && !needs_more);
        let info = info.ok_or(PeerError::Type { id })?;
        if cols == 0 || !n.is_multiple_of(cols) || !cols.is_multiple_of(info.block_len) {
            return Err(PeerError::Rows { id, cols, n });
        }
        Ok(n / info.block_len * info.block_bytes)
    }
}

impl fmt::Debug for Ggml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ggml")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
