//! How a conversion tells where it is, and how it is stopped.

use std::ops::ControlFlow;

use chaski_quant::container::AtomicFile;

use crate::note::Note;

/// What a conversion tells, in this order: notes, `Balance` and `Calibrate` many times where that was asked for,
/// `Start`, `Advance` many times, `Finish` at least once, `Written`. [`measure`](crate::measure), which may come
/// before, tells `Measure` only.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A decision that the user should know about.
    Note(&'a Note),
    /// A part of what [`measure`](crate::measure) does is done.
    Measure {
        /// Work done, in multiplications: reading and quantising weights, which takes some of the time, too, is
        /// not among it. Only its share of `of` is of meaning.
        done: u64,
        /// Work to do.
        of: u64,
        /// Bytes of memory that it takes at most.
        memory: u64,
    },
    /// A layer of the source was run on some of the calibration text, to balance its channels.
    Balance {
        /// Layers done.
        done: usize,
        /// Layers to do.
        of: usize,
        /// Bytes of memory that it takes at most.
        memory: u64,
    },
    /// A layer of the source was run on the calibration text, and what was seen was used.
    Calibrate {
        /// Steps done: a layer each, and the output matrix.
        done: usize,
        /// Steps to do.
        of: usize,
        /// Bytes of memory that calibration takes at most.
        memory: u64,
    },
    /// The tensors begin.
    Start {
        /// Bytes of the source's tensors.
        source_bytes: u64,
        /// Number of tensors.
        tensors: usize,
    },
    /// Part of the tensors is done.
    Advance {
        /// Bytes of the source that are done so far.
        source_bytes: u64,
        /// The file's name of the tensor that was last worked on.
        tensor: &'a str,
    },
    /// The tensors are done; digests, metadata and the disk are waited for.
    Finish,
    /// Everything is written and the file is about to get its name: the moment to look at it, and
    /// to put into its metadata what only the whole file tells.
    Written(&'a AtomicFile),
}

/// Hears of a conversion's progress, and may stop it.
///
/// Called from the thread that called [`convert`](crate::convert). [`ControlFlow::Break`] ends the
/// conversion soon: it returns [`ConvertError::Cancelled`](crate::ConvertError::Cancelled) and
/// leaves no file behind.
pub trait Progress {
    /// Something happened.
    fn event(&self, event: Event<'_>) -> ControlFlow<()>;
}

/// Hears nothing and never stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<F: Fn(Event<'_>) -> ControlFlow<()>> Progress for F {
    fn event(&self, event: Event<'_>) -> ControlFlow<()> {
        self(event)
    }
}
