//! Checkpoints to chaski files: safetensors directories and GGUF files in, quantised containers
//! out.
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path};
//!
//! use chaski_convert::{ConvertOptions, Event, Recipe, convert, source};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let source = source::open(Path::new("SmolLM2-135M-Instruct"))?;
//! let options = ConvertOptions::new(Recipe::named("q4")?);
//! let report = convert(&*source, Path::new("smollm2.chaski"), &options, &|event: Event<'_>| {
//!     if let Event::Note(note) = event {
//!         // Told to the user; a real caller shows the progress, too.
//!         let _ = note.to_string();
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! assert!(report.bits_per_weight < 6.0);
//! # Ok(())
//! # }
//! ```
//!
//! * [`source`]: rows of weights, a tokenizer, a config, whatever form they come in.
//! * [`mapping`]: which tensor of the source is which of the model; nothing is left over.
//! * [`dequant`]: GGUF's block types to floats.
//! * [`Recipe`]: which role gets which quant type.
//! * [`plan()`] tells what [`convert`] is going to do, [`Report`] what it did; both serialise to
//!   JSON.
//!
//! Limits: a model is one decoder of the architectures that `chaski-models` knows; weights are
//! bf16, f16, f32 or one of GGUF's block types; memory is below 512 MiB as long as 16 rows of every
//! matrix are below 64 MiB.

mod allocate;
mod balance;
mod calibrate;
pub mod dequant;
mod error;
mod inputs;
pub mod mapping;
mod note;
mod options;
mod pipeline;
mod plan;
mod progress;
mod recipe;
mod report;
mod runner;
mod sensitivity;
pub mod source;
#[cfg(test)]
mod tests;

pub use allocate::{AllocateError, Allocation, FrontPoint, Target, allocate, allocate_with};
pub use balance::OPTION as BALANCE;
pub use calibrate::{Calibration, CalibrationError};
pub use error::ConvertError;
pub use note::Note;
pub use options::ConvertOptions;
pub use pipeline::{TOKENIZER_CONFIG, convert, convert_with};
pub use plan::{ConvertPlan, FileInfo, JSON_SCHEMA, PlannedTensor, RecipeUse, SourceInfo, plan};
pub use progress::{Event, Progress, Silent};
pub use recipe::{Recipe, RecipeError, TypeOverride};
pub use report::{Report, RoleReport, TensorReport, WeightError};
pub use runner::{LOGIT_ROWS, ModelRunner, Products, RunnerError};
pub use sensitivity::{Sensitivities, measure};
