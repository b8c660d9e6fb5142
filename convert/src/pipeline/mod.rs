//! The conversion itself: plan, tokenizer, tensors, metadata, rename.

use std::{
    io::{BufWriter, Seek, SeekFrom, Write},
    num::NonZeroUsize,
    ops::ControlFlow,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use chaski_models::metadata::ModelMetadata;
use chaski_quant::{
    container::{AtomicFile, ContainerError, ContainerWriter, Section},
    quantize::TileStats,
};

use spill::Spill;

use crate::{
    balance::{self, Balance},
    calibrate::Calibrate,
    error::ConvertError,
    note::Note,
    options::ConvertOptions,
    plan::{ConvertPlan, plan},
    progress::{Event, Progress},
    report::{Report, report, role_errors},
    runner::ModelRunner,
    source::{Source, is_part_of},
};

mod digest;
pub(crate) mod schedule;
pub(crate) mod space;
pub(crate) mod spill;
mod stages;
pub(crate) mod texts;
pub(crate) mod tiles;

pub use texts::TOKENIZER_CONFIG;

/// The most bytes of a chunk, raw or quantised: with [`stages::BUFFERS`] of each, 192 MiB.
const MAX_CHUNK: usize = 32 << 20;
/// A chunk's bytes for each thread: enough that the threads seldom wait for each other's last tile.
const CHUNK_PER_THREAD: usize = 4 << 20;
/// The most bytes that the threads hold beside the chunks.
const MAX_SCRATCH: usize = 128 << 20;
/// Room for metadata and directory in the check of the disk, which comes before they are known.
const METADATA_ROOM: u64 = 1 << 20;

/// Converts `source` to the file `out`.
///
/// The file appears under its name when it is whole, and not before. Its bytes depend on the
/// source's files, the recipe and the other recorded options, not on the machine, its threads or
/// where the files lie. Memory is bounded whatever the model's size: below 512 MiB.
///
/// # Errors
///
/// See [`ConvertError`]; no file is left behind.
pub fn convert(
    source: &dyn Source,
    out: &Path,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Report, ConvertError> {
    run(source, out, options, None, progress)
}

/// As [`convert`], with a machine that runs the source where the options ask for what only a run
/// tells: calibration.
///
/// # Errors
///
/// See [`ConvertError`]; no file is left behind.
pub fn convert_with(
    source: &dyn Source,
    out: &Path,
    options: &ConvertOptions,
    runner: &mut dyn ModelRunner,
    progress: &dyn Progress,
) -> Result<Report, ConvertError> {
    run(source, out, options, Some(runner), progress)
}

fn run(
    source: &dyn Source,
    out: &Path,
    options: &ConvertOptions,
    mut runner: Option<&mut dyn ModelRunner>,
    progress: &dyn Progress,
) -> Result<Report, ConvertError> {
    let start = Instant::now();
    // First of all what fails at once: a file of the source, where `force` is no way out, an existing file, a
    // folder that cannot be written.
    if is_part_of(source, out) {
        let path = out.to_owned();
        return Err(ConvertError::Own { path });
    }
    let file = AtomicFile::create(out, options.force)?;
    let plan = plan(source, options)?;
    let tokenizer = texts::TokenizerForms::read(source)?;
    let mut notes = plan.notes.clone();
    notes.extend(
        tokenizer
            .as_ref()
            .and_then(|t| t.note(plan.config.vocab_size)),
    );
    let mut metadata = texts::metadata(source, &plan, options, tokenizer.as_ref(), &notes)?;
    // What depends on the machine is told, and not recorded.
    let (threads, note) = threads(&plan, options.threads);
    notes.extend(note);

    let sections = tokenizer.as_ref().map(texts::TokenizerForms::sections);
    let sections = sections.as_ref().map_or(&[][..], |s| &s[..]);
    let lens: Vec<_> = sections.iter().map(|s| s.bytes.len() as u64).collect();
    let mut needed = plan.inner.data.file_len(&lens, METADATA_ROOM);
    if options.calibration.is_some() {
        // Tiles wait beside the file until their turn comes.
        needed += plan.inner.data.file_len(&[], 0);
    }
    space::check(out, needed)?;
    for note in &notes {
        go_on(progress.event(Event::Note(note)))?;
    }
    let limits = Limits::new(threads);
    let balanced = match (&options.calibration, &mut runner) {
        (Some(calibration), Some(runner)) => {
            let balance = Balance {
                source,
                plan: &plan,
                limits,
                progress,
            };
            balance.run(calibration, &mut **runner)?
        }
        _ => None,
    };
    if balanced.is_some() {
        let options = &mut metadata.provenance.options;
        options.insert(balance::OPTION.to_owned(), balance::VERSION.to_string());
    }
    let named = |e: ConvertError| match &balanced {
        Some(balanced) => balanced.name_overflow(space::name_full_disk(e, out, needed)),
        None => space::name_full_disk(e, out, needed),
    };
    let source = balanced.as_ref().map_or(source, |b| b as &dyn Source);
    let spill = match (&options.calibration, runner) {
        (None, _) => None,
        (Some(_), None) => return Err(ConvertError::NoRunner),
        (Some(calibration), Some(runner)) => {
            let folder = out.parent().filter(|p| !p.as_os_str().is_empty());
            let folder = folder.unwrap_or_else(|| Path::new("."));
            let calibrate = Calibrate {
                source,
                plan: &plan,
                limits,
                progress,
            };
            let spill = calibrate.run(calibration, runner, folder);
            Some(spill.map_err(named)?)
        }
    };
    let start_event = Event::Start {
        source_bytes: plan.source_bytes,
        tensors: plan.tensors.len(),
    };
    go_on(progress.event(start_event))?;
    let out_buffer = BufWriter::with_capacity(1 << 20, file);
    let result = write(
        source,
        &plan,
        limits,
        out_buffer,
        metadata,
        sections,
        progress,
        spill.as_ref(),
    )
    .and_then(|(buffer, stats)| {
        let mut file = buffer
            .into_inner()
            .map_err(|e| ContainerError::Write(e.into_error()))?;
        go_on(progress.event(Event::Written(&file)))?;
        let len = file.seek(SeekFrom::End(0)).map_err(ContainerError::Write)?;
        file.commit()?;
        Ok((stats, len))
    });
    let (stats, file_bytes) = result.map_err(named)?;
    Ok(report(
        &plan,
        &stats,
        notes,
        file_bytes,
        threads,
        start.elapsed().as_secs_f64(),
    ))
}

/// Threads to use, and what to tell if they are fewer than asked for.
fn threads(plan: &ConvertPlan, asked: Option<NonZeroUsize>) -> (usize, Option<Note>) {
    let available = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let asked = asked.map_or_else(available, NonZeroUsize::get);
    let scratch = plan
        .inner
        .work
        .iter()
        .map(schedule::Work::scratch_bytes)
        .max()
        .unwrap_or(0);
    let used = asked.min(MAX_SCRATCH / scratch.max(1)).max(1);
    (
        used,
        (used < asked).then_some(Note::FewerThreads { asked, used }),
    )
}

/// What a conversion may take of the machine. The bytes of the file do not depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Threads that quantise.
    pub(crate) threads: usize,
    /// Bytes of a chunk, raw or quantised.
    pub(crate) chunk: usize,
}

impl Limits {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            threads,
            chunk: (threads * CHUNK_PER_THREAD).min(MAX_CHUNK),
        }
    }

    /// The threads.
    pub(crate) fn pool(&self) -> Result<rayon::ThreadPool, ConvertError> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(|i| format!("chaski-convert-{i}"))
            .build()
            .map_err(ConvertError::Threads)
    }
}

/// Writes the whole container to `out`; tiles that `spill` has are not made again.
#[expect(
    clippy::too_many_arguments,
    reason = "what is converted, how, where to and who is told"
)]
pub(crate) fn write<W: Write + Seek + Send>(
    source: &dyn Source,
    plan: &ConvertPlan,
    limits: Limits,
    out: W,
    mut metadata: ModelMetadata,
    sections: &[Section<'_>],
    progress: &dyn Progress,
    spill: Option<&Spill>,
) -> Result<(W, Vec<TileStats>), ConvertError> {
    let chunks = schedule::schedule(&plan.inner.work, limits.chunk);
    let pool = limits.pool()?;
    let mut writer = ContainerWriter::new(out, plan.inner.data.clone())?;
    let stop = AtomicBool::new(false);
    let (stats, digests) = thread::scope(|scope| {
        let (send, digests) = channel();
        let stop = &stop;
        scope.spawn(move || {
            // Nobody listens where the conversion failed.
            let _ = send.send(digest::sha256(source.files(), stop));
        });
        let result = stages::run(source, plan, &chunks, &pool, &mut writer, progress, spill);
        let result = result.and_then(|stats| {
            loop {
                go_on(progress.event(Event::Finish))?;
                match digests.recv_timeout(Duration::from_millis(100)) {
                    Ok(digests) => return Ok((stats, digests?)),
                    Err(RecvTimeoutError::Timeout) => {}
                    // Only where the thread panicked, which the scope passes on.
                    Err(RecvTimeoutError::Disconnected) => return Ok((stats, None)),
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    for (file, digest) in metadata
        .provenance
        .files
        .iter_mut()
        .zip(digests.unwrap_or_default())
    {
        file.sha256 = digest;
    }
    metadata.report = role_errors(&plan.tensors, &stats);
    let out = writer.finish(&metadata.to_json()?, sections)?;
    Ok((out, stats))
}

pub(crate) fn go_on(flow: ControlFlow<()>) -> Result<(), ConvertError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ConvertError::Cancelled),
    }
}
