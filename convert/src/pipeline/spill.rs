//! Tiles that were made out of the file's order, kept until their turn comes.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::Mutex,
};

use chaski_quant::{container::DataPlan, quantize::TileStats};

use super::schedule::{Chunk, Segment, Shape, Work};
use crate::error::ConvertError;

/// A nameless file that is laid out as the data of the container is.
#[derive(Debug)]
pub(crate) struct Spill {
    file: Mutex<File>,
    data: DataPlan,
    /// Of each tensor; `None`: it is not here.
    stats: Vec<Option<TileStats>>,
}

impl Spill {
    /// An empty one in `folder`.
    pub(crate) fn new(folder: &Path, data: &DataPlan) -> Result<Self, ConvertError> {
        Ok(Self {
            file: Mutex::new(tempfile::tempfile_in(folder).map_err(ConvertError::Spill)?),
            data: data.clone(),
            stats: vec![None; data.decls().len()],
        })
    }

    /// The statistics of tensor `tensor`, if its tiles are here.
    pub(crate) fn stats(&self, tensor: usize) -> Option<TileStats> {
        self.stats[tensor]
    }

    /// Says that all of a tensor's tiles are here.
    pub(crate) fn complete(&mut self, tensor: usize, stats: TileStats) {
        self.stats[tensor] = Some(stats);
    }

    /// Whether the tiles of a chunk are here. A chunk that has tensors of both kinds never is asked
    /// about: see [`Self::split`].
    pub(crate) fn has(&self, segment: &Segment) -> bool {
        self.stats[segment.tensor].is_some()
    }

    /// The runs of bytes that the segments of a chunk are: position in the data, length.
    fn runs(&self, work: &[Work], chunk: &Chunk) -> Vec<(u64, usize)> {
        let mut runs = Vec::new();
        let mut segments = chunk.iter();
        while let Some(segment) = segments.next() {
            let (unit, tiles) = match work[segment.tensor].shape {
                Shape::Vector { len } => (4 * len, 0..1),
                Shape::Matrix { layout, .. } if segment.paired => {
                    // The other half of the pair: its tiles alternate with these.
                    segments.next();
                    (2 * layout.tile_bytes(), segment.tiles.clone())
                }
                Shape::Matrix { layout, .. } => (layout.tile_bytes(), segment.tiles.clone()),
            };
            let at = self.data.offset(segment.tensor) + (tiles.start * unit) as u64;
            runs.push((at, tiles.len() * unit));
        }
        runs
    }

    fn each(
        &self,
        work: &[Work],
        chunk: &Chunk,
        mut each: impl FnMut(&mut File, usize, usize) -> io::Result<()>,
    ) -> Result<(), ConvertError> {
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        let mut at = 0;
        for (position, len) in self.runs(work, chunk) {
            file.seek(SeekFrom::Start(position))
                .and_then(|_| each(&mut file, at, len))
                .map_err(ConvertError::Spill)?;
            at += len;
        }
        Ok(())
    }

    /// Keeps the tiles of a chunk, `bytes` as they will stand in the file.
    pub(crate) fn put(
        &self,
        work: &[Work],
        chunk: &Chunk,
        bytes: &[u8],
    ) -> Result<(), ConvertError> {
        self.each(work, chunk, |file, at, len| {
            file.write_all(&bytes[at..at + len])
        })
    }

    /// The tiles of a chunk; `bytes` is as long as they are.
    pub(crate) fn get(
        &self,
        work: &[Work],
        chunk: &Chunk,
        bytes: &mut [u8],
    ) -> Result<(), ConvertError> {
        self.each(work, chunk, |file, at, len| {
            file.read_exact(&mut bytes[at..at + len])
        })
    }

    /// Cuts chunks so that each is here as a whole or not at all.
    pub(crate) fn split(&self, chunks: &[Chunk]) -> Vec<Chunk> {
        let mut split = Vec::new();
        for chunk in chunks {
            let mut now: Chunk = Vec::new();
            for segment in chunk {
                // The second of a pair goes where the first is.
                let pair = now.last().is_some_and(|s| s.paired);
                let other = now.last().is_some_and(|s| self.has(s) != self.has(segment));
                if other && !pair {
                    split.push(std::mem::take(&mut now));
                }
                now.push(segment.clone());
            }
            split.push(now);
        }
        split.retain(|c| !c.is_empty());
        split
    }
}
