//! In place of the driver where the feature `cuda` is not built.

use super::{CudaError, Opened};

/// There is no device.
///
/// # Errors
///
/// Always [`CudaError::NotBuilt`].
pub fn open() -> Result<Opened, CudaError> {
    Err(CudaError::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_feature() {
        let error = open().unwrap_err().to_string();
        assert!(error.contains("feature `cuda`"), "{error}");
    }
}
