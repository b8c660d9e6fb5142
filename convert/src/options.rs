//! What a conversion is told.

use std::num::NonZeroUsize;

use crate::{calibrate::Calibration, recipe::Recipe};

/// What a conversion is told. All but `threads` and `force` is recorded in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Which role gets which type.
    pub recipe: Recipe,
    /// The text that the quantiser is to watch the source model read; needs
    /// [`convert_with`](crate::convert_with).
    pub calibration: Option<Calibration>,
    /// Threads that quantise; `None`: as many as the machine gives this process. The bytes do not
    /// depend on it.
    pub threads: Option<NonZeroUsize>,
    /// Convert a source without a tokenizer: the file then runs token ids and no text.
    pub allow_missing_tokenizer: bool,
    /// Replace an existing file.
    pub force: bool,
    /// The source's name for the record: a catalogue entry, say. `None`: only its kind, so that the
    /// bytes do not depend on where it lies.
    pub source_name: Option<String>,
}

impl ConvertOptions {
    /// Nothing but a recipe.
    pub fn new(recipe: Recipe) -> Self {
        Self {
            recipe,
            calibration: None,
            threads: None,
            allow_missing_tokenizer: false,
            force: false,
            source_name: None,
        }
    }
}
