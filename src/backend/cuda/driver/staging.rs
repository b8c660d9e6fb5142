//! Copies between the host and the device, by way of memory that the device reads and writes by itself.
//!
//! Two pieces take turns: while the device copies from one, the threads of the host fill the other.

use cudarc::driver::result::{self, DriverError};
use rayon::prelude::*;

use super::owned::{Event, Pinned, Stream};

/// Bytes of a piece.
const PIECE: usize = 16 << 20;
/// What a thread of the host copies at a time; a single one does not fill the link to the device.
const SHARE: usize = 1 << 20;

/// The two pieces.
pub(super) struct Staging {
    pieces: [(Pinned, Event); 2],
    next: usize,
}

impl Staging {
    /// In a context that is the thread's.
    pub(super) fn new(stream: &Stream) -> Result<Self, DriverError> {
        let context = stream.context();
        let piece = || Ok((Pinned::new(context, PIECE)?, Event::new(context)?));
        Ok(Self {
            pieces: [piece()?, piece()?],
            next: 0,
        })
    }

    /// The next piece; the device is done with it.
    fn piece(&mut self) -> Result<&mut (Pinned, Event), DriverError> {
        self.next ^= 1;
        let piece = &mut self.pieces[self.next];
        piece.1.wait()?;
        Ok(piece)
    }

    /// Copies `bytes` to `address`, where there is room for them; they may change when it returns.
    pub(super) fn upload(
        &mut self,
        stream: &Stream,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        for (i, from) in bytes.chunks(PIECE).enumerate() {
            let (pinned, event) = self.piece()?;
            let to = &mut pinned.bytes()[..from.len()];
            copy(from, to);
            // SAFETY: the caller has `from.len()` bytes there. The device reads the piece until the event, for which
            // whoever takes the piece next waits; the piece is freed by a call that waits for the device.
            unsafe {
                result::memcpy_htod_async(address + (i * PIECE) as u64, to, stream.raw())?;
            }
            event.record(stream)?;
        }
        Ok(())
    }

    /// Copies from `address` behind all that was started, and waits for it.
    pub(super) fn download(
        &mut self,
        stream: &Stream,
        address: u64,
        bytes: &mut [u8],
    ) -> Result<(), DriverError> {
        for (i, to) in bytes.chunks_mut(PIECE).enumerate() {
            let (pinned, event) = self.piece()?;
            let from = &mut pinned.bytes()[..to.len()];
            // SAFETY: the caller has as many bytes there; the device writes the piece until the event, which is waited for
            // before it is read.
            unsafe {
                result::memcpy_dtoh_async(from, address + (i * PIECE) as u64, stream.raw())?;
            }
            event.record(stream)?;
            event.wait()?;
            copy(&pinned.bytes()[..to.len()], to);
        }
        Ok(())
    }
}

/// Copies by several threads, if that is worth it.
fn copy(from: &[u8], to: &mut [u8]) {
    if from.len() < 4 * SHARE {
        to.copy_from_slice(from);
        return;
    }
    to.par_chunks_mut(SHARE)
        .zip(from.par_chunks(SHARE))
        .for_each(|(to, from)| to.copy_from_slice(from));
}
