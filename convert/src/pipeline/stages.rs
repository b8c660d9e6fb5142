//! Three stages that overlap: one thread reads, the pool quantises, one thread writes.
//!
//! ```text
//! reader --raw chunk--> caller + pool --tiles--> writer
//!   ^---- empty buffer ----'   ^--- empty buffer ---'
//! ```
//!
//! A fixed number of buffers goes round, each no larger than the schedule's budget: that, and not
//! the model's size, bounds the memory.

use std::{
    io::{Seek, Write},
    ops::ControlFlow,
    panic,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use chaski_quant::{container::ContainerWriter, quantize::TileStats};

use super::{
    schedule::{Chunk, Shape, Work},
    spill::Spill,
    tiles::{Tiler, segment_bytes},
};
use crate::{
    error::ConvertError,
    plan::ConvertPlan,
    progress::{Event, Progress},
    source::{Source, SourceError},
};

/// Buffers of raw rows, and as many of tiles: one in each of two stages and one between them.
pub(crate) const BUFFERS: usize = 3;

/// Reads, quantises and writes all of `chunks`; the statistics of each tensor.
pub(crate) fn run<W: Write + Seek + Send>(
    source: &dyn Source,
    plan: &ConvertPlan,
    chunks: &[Chunk],
    pool: &rayon::ThreadPool,
    writer: &mut ContainerWriter<W>,
    progress: &dyn Progress,
    spill: Option<&Spill>,
) -> Result<Vec<TileStats>, ConvertError> {
    let work = &plan.inner.work[..];
    let tiler = Tiler::new(source, &plan.tensors, work, pool);
    let stats_of = |i| spill.and_then(|s| s.stats(i)).unwrap_or_default();
    let mut stats: Vec<_> = (0..plan.tensors.len()).map(stats_of).collect();
    let split = spill.map(|s| s.split(chunks));
    let chunks = split.as_deref().unwrap_or(chunks);
    let mut done = 0;
    thread::scope(|scope| {
        let (raw_out, raw_in) = channel();
        let (raw_return, raw_empty) = buffers();
        let reader = scope.spawn(move || read(source, plan, chunks, spill, raw_empty, raw_out));
        let (tiles_out, tiles_in) = channel();
        let (tiles_return, tiles_empty) = buffers();
        let writing = scope.spawn(move || write(work, chunks, writer, tiles_in, tiles_return));

        // A stage that fails drops its ends of the channels, and the others stop for want of
        // buffers or chunks.
        let mut quantise = || -> Result<(), ConvertError> {
            for chunk in chunks {
                let Ok(raw) = raw_in.recv() else {
                    return Ok(());
                };
                let Ok(mut tiles) = tiles_empty.recv() else {
                    return Ok(());
                };
                match made(spill, chunk) {
                    None => tiler.run(chunk, &raw, &mut tiles, &mut stats)?,
                    Some(spill) => {
                        let bytes = chunk.iter().map(|s| segment_bytes(work, s)).sum();
                        tiles.clear();
                        tiles.resize(bytes, 0);
                        spill.get(work, chunk, &mut tiles)?;
                    }
                }
                // The reader may be through with its work, the writer may have failed; both are
                // seen below.
                let _ = raw_return.send(raw);
                let _ = tiles_out.send(tiles);
                done += chunk
                    .iter()
                    .map(|s| (s.rows.len() * work[s.tensor].row_bytes) as u64)
                    .sum::<u64>();
                let tensor = chunk.last().map_or("", |s| &plan.tensors[s.tensor].name);
                let event = Event::Advance {
                    source_bytes: done,
                    tensor,
                };
                if progress.event(event) == ControlFlow::Break(()) {
                    return Err(ConvertError::Cancelled);
                }
            }
            Ok(())
        };
        let quantised = quantise();
        drop((raw_in, raw_return, tiles_out, tiles_empty));
        let read = reader
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause));
        let written = writing
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause));
        quantised?;
        read?;
        written
    })?;
    Ok(stats)
}

/// Where the tiles of a chunk are, if they are made already.
fn made<'s>(spill: Option<&'s Spill>, chunk: &Chunk) -> Option<&'s Spill> {
    spill.filter(|spill| chunk.iter().all(|segment| spill.has(segment)))
}

/// A channel that holds the empty buffers of a stage.
fn buffers() -> (Sender<Vec<u8>>, Receiver<Vec<u8>>) {
    let (send, receive) = channel();
    for _ in 0..BUFFERS {
        // Cannot fail: the receiving end is in this function.
        let _ = send.send(Vec::new());
    }
    (send, receive)
}

fn read(
    source: &dyn Source,
    plan: &ConvertPlan,
    chunks: &[Chunk],
    spill: Option<&Spill>,
    empty: Receiver<Vec<u8>>,
    full: Sender<Vec<u8>>,
) -> Result<(), SourceError> {
    for chunk in chunks {
        let Ok(mut raw) = empty.recv() else {
            return Ok(());
        };
        raw.clear();
        let needed = if made(spill, chunk).is_some() {
            &[][..]
        } else {
            chunk
        };
        for segment in needed {
            let tensor = plan.tensors[segment.tensor].source;
            source.read_raw(tensor, segment.rows.clone(), &mut raw)?;
        }
        if full.send(raw).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn write<W: Write + Seek>(
    work: &[Work],
    chunks: &[Chunk],
    writer: &mut ContainerWriter<W>,
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
) -> Result<(), ConvertError> {
    for chunk in chunks {
        let Ok(tiles) = full.recv() else {
            return Ok(());
        };
        let mut at = 0;
        let mut put = |tensor, bytes| {
            at += bytes;
            writer.write(tensor, &tiles[at - bytes..at])
        };
        let mut segments = chunk.iter();
        while let Some(segment) = segments.next() {
            match work[segment.tensor].shape {
                Shape::Matrix { layout, .. } if segment.paired => {
                    segments.next();
                    for _ in segment.tiles.clone() {
                        put(segment.tensor, layout.tile_bytes())?;
                        put(segment.tensor + 1, layout.tile_bytes())?;
                    }
                }
                _ => put(segment.tensor, segment_bytes(work, segment))?,
            }
        }
        // Nobody waits for the last buffers.
        let _ = empty.send(tiles);
    }
    Ok(())
}
