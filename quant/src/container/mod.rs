//! The file: its writer, its reader and its checks.
//!
//! ```no_run
//! use chaski_quant::container::{AtomicFile, Container, ContainerWriter, DataPlan, TensorDecl, TensorKind};
//! use std::io::BufWriter;
//!
//! let norm = TensorDecl {
//!     name: "output_norm".to_owned(),
//!     kind: TensorKind::Vector { len: 4 },
//!     section_start: true,
//!     interleaved: false,
//! };
//! let file = AtomicFile::create("model.chaski", false)?;
//! let mut writer = ContainerWriter::new(BufWriter::new(file), DataPlan::new(vec![norm])?)?;
//! writer.write(0, &[0; 16])?;
//! let out = writer.finish(r#"{"version": 1}"#, &[])?;
//! out.into_inner().map_err(|e| e.into_error())?.commit()?;
//!
//! let container = Container::open("model.chaski")?;
//! container.verify(|_, _| {})?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Opening maps the file and trusts none of it: every number is checked once, against what must
//! stand there, before anything uses it; whatever the file says, nothing is allocated that is
//! longer than the file. What comes out ([`TensorEntry`], [`TensorView`]) cannot be out of bounds.
//!
//! # Files that change while they are open
//!
//! A mapped file is the file itself, not a copy. If another process *writes* into the tensors of an
//! open model, the model computes with the new bytes; if another process *truncates* the file, the
//! system answers the next access beyond the new end with a signal (`SIGBUS` on Unix, an exception
//! on Windows), which ends the program. No check at opening time can prevent that. So nothing in
//! chaski does it: a file is replaced by renaming a new one over it ([`AtomicFile`]), and whoever
//! has the old one open keeps the old one; [`rewrite_metadata`] exchanges, in place, only bytes that
//! an open [`Container`] never looks at again. Whoever replaces model files by other means should
//! rename as well (`mv` within one file system, `install`, `rsync` without `--inplace`), not copy
//! over the file (`cp`, `curl -o`). On a network file system or a stick that is pulled out, an
//! access can fail in the same way.
//!
#![doc = include_str!("../../docs/format.md")]

mod atomic;
mod directory;
mod error;
mod header;
mod index;
mod json;
mod mapped;
mod plan;
mod reader;
mod renew;
mod verify;
mod writer;

pub use atomic::AtomicFile;
pub use directory::TensorEntry;
pub use error::{ContainerError, InterleaveProblem, NameProblem, Place, Want};
pub use header::{
    DATA_ALIGN, FORMAT_VERSION, HEADER_BYTES, MAGIC, MAX_SECTIONS, SECTION_ALIGN, SectionEntry,
    SectionKind,
};
pub use json::MAX_METADATA_BYTES;
pub use plan::{DataPlan, MAX_NAME_BYTES, MAX_TENSORS, TensorDecl, TensorKind};
pub use reader::{Container, TensorView};
pub use renew::rewrite_metadata;
pub use writer::{ContainerWriter, Section};

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Container>();
};
