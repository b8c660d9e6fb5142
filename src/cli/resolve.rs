//! From what a user types as MODEL to a `.chaski` file.

use std::{
    fs::{self, File},
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use chaski::{
    catalog::{self, Catalog, Entry, FetchProgress},
    runner::CpuRunner,
};
use chaski_convert::{ConvertOptions, Event, Recipe, Report, source};
use chaski_quant::{
    QuantType,
    container::{Container, MAGIC},
};
use indicatif::ProgressBar;

use super::{cache, interrupt, out, progress};

/// Below this many bits a weight, a source lost more already than a conversion to the same size
/// would show; it is kept at 8 bits unless told otherwise.
const FEW_BITS: f64 = 6.0;

/// What a path is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A `.chaski` file.
    Chaski,
    /// A checkpoint folder or a GGUF file.
    Source,
}

/// What `path` is.
pub(crate) fn kind(path: &Path) -> anyhow::Result<Kind> {
    let named = || format!("{} cannot be read", path.display());
    let meta = fs::metadata(path).with_context(named)?;
    if meta.is_dir() {
        return Ok(Kind::Source);
    }
    // To open a pipe would wait for its other end.
    if !meta.is_file() {
        bail!("{}: it is no regular file", path.display());
    }
    let mut start = Vec::new();
    File::open(path)
        .with_context(named)?
        .take(8)
        .read_to_end(&mut start)
        .with_context(named)?;
    if start == MAGIC {
        return Ok(Kind::Chaski);
    }
    if start.starts_with(b"GGUF") {
        return Ok(Kind::Source);
    }
    if start.iter().all(|&b| b == 0) && !start.is_empty() {
        bail!(
            "{}: it begins with zeros, as a conversion leaves a file that did not finish: convert again",
            path.display()
        );
    }
    bail!(
        "{}: neither a .chaski file nor a GGUF file (it begins with {start:02x?}); a safetensors \
         checkpoint is given as its folder",
        path.display()
    )
}

/// The source that a name of the catalogue or a path stands for: path, name for the record, default
/// type.
pub(crate) fn source(model: &str) -> anyhow::Result<(PathBuf, String, Option<QuantType>)> {
    let path = Path::new(model);
    if path.exists() {
        return Ok((path.to_owned(), cache::stem(path), None));
    }
    let catalog = Catalog::built_in()?;
    // Something that looks like a path is not looked up: the answer would be about names.
    let is_path = model.contains(['/', '\\']) || path.extension().is_some_and(|e| e != "5");
    if is_path && catalog.entry(model).is_err() {
        bail!("{model}: there is no such file or folder");
    }
    let entry = catalog.entry(model)?;
    let cache = cache::dir()?;
    let file = catalog::fetch(model, entry, &cache, &Fetching::new())?;
    if let Some(note) = &entry.note {
        out::detail(format_args!("{model}: {note}"));
    }
    Ok((file, model.to_owned(), Some(entry.quant)))
}

/// The `.chaski` file for MODEL, converted into the cache if need be.
pub(crate) fn resolve(model: &str, quant: Option<QuantType>) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() && kind(path)? == Kind::Chaski {
        if let Some(quant) = quant {
            bail!(
                "--quant {quant}: {model} is a .chaski file, its types are fixed; convert its source"
            );
        }
        return Ok(path.to_owned());
    }
    if let Some(found) = cached_catalogue(model, quant)? {
        return Ok(found);
    }
    let (source, name, default) = source(model)?;
    let quant = match quant.or(default) {
        Some(quant) => quant,
        None => default_type(&source)?,
    };
    // A file or folder of one's own may have the name of a catalogue entry.
    let entry = if path.exists() {
        None
    } else {
        Catalog::built_in()?.entry(model).ok().cloned()
    };
    let target = match &entry {
        Some(entry) => catalogue_path(model, entry, quant)?,
        None => own_path(&name, &source, quant)?,
    };
    if is_usable(&target) {
        return Ok(target);
    }
    out::note(format_args!(
        "converting {name} to {quant}, kept in {}",
        target.display()
    ));
    if let Some(note) = entry.and_then(|entry| entry.note) {
        out::note(format_args!("({note})"));
    }
    let mut options = ConvertOptions::new(Recipe::named(quant.name())?);
    options.source_name = Some(name);
    // Another process may have made the same file meanwhile: the same bytes.
    options.force = true;
    options.allow_missing_tokenizer = true;
    let report = convert(&source, &target, &options)?;
    out::note(format_args!("{}", summary(&report)));
    Ok(target)
}

/// The `.chaski` file for a reference, converted into the cache without loss if need be: to the type
/// of its matrices if that is f16 or bf16 for all of them, else to f32, which holds what GGUF's block
/// types decode to.
pub(crate) fn resolve_unquantized(model: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() && kind(path)? == Kind::Chaski {
        return resolve(model, None);
    }
    let (path, ..) = source(model)?;
    let source = source::open(&path)?;
    let mut matrices = source.tensors().iter().filter(|t| !t.vector);
    let all =
        |qtype: QuantType, t: &source::SourceTensor| t.dtype.eq_ignore_ascii_case(qtype.name());
    let same = [QuantType::F16, QuantType::BF16]
        .into_iter()
        .find(|&qtype| matrices.clone().all(|t| all(qtype, t)));
    let qtype = match matrices.next() {
        Some(_) => same.unwrap_or(QuantType::F32),
        None => QuantType::F32,
    };
    resolve(model, Some(qtype))
}

/// Whether a file of the cache is there and opens; a damaged one is made again.
fn is_usable(cached: &Path) -> bool {
    if !cached.exists() {
        return false;
    }
    match Container::open(cached) {
        Ok(_) => true,
        Err(e) => {
            out::note(format_args!(
                "note: {} is damaged and is made again: {e}",
                cached.display()
            ));
            false
        }
    }
}

/// A catalogue name's file that was made before: found without its source, which may be gone.
fn cached_catalogue(model: &str, quant: Option<QuantType>) -> anyhow::Result<Option<PathBuf>> {
    let catalog = Catalog::built_in()?;
    let Ok(entry) = catalog.entry(model) else {
        return Ok(None);
    };
    if Path::new(model).exists() {
        return Ok(None);
    }
    let quant = quant.unwrap_or(entry.quant);
    let path = catalogue_path(model, entry, quant)?;
    Ok(is_usable(&path).then_some(path))
}

/// Where the file of a catalogue entry is kept: its name has the start of its source's SHA-256.
fn catalogue_path(name: &str, entry: &Entry, quant: QuantType) -> anyhow::Result<PathBuf> {
    let sha256 = entry.sources.first().map_or("", |s| s.sha256());
    models_dir(
        &format!("{name}-{quant}-{}", &sha256[..sha256.len().min(12)]),
        quant,
    )
}

fn models_dir(stem: &str, quant: QuantType) -> anyhow::Result<PathBuf> {
    let dir = cache::dir()?.join("models");
    fs::create_dir_all(&dir)
        .with_context(|| format!("the cache folder {} cannot be made", dir.display()))?;
    let recipe = Recipe::named(quant.name())?.version();
    Ok(dir.join(format!(
        "{stem}-{}-r{recipe}.chaski",
        env!("CARGO_PKG_VERSION")
    )))
}

/// Where the file of a source of one's own is kept.
fn own_path(name: &str, source: &Path, quant: QuantType) -> anyhow::Result<PathBuf> {
    models_dir(
        &format!("{name}-{quant}-{}", cache::source_key(source)?),
        quant,
    )
}

/// The type of a source that nobody named one for.
fn default_type(source: &Path) -> anyhow::Result<QuantType> {
    let source = source::open(source)?;
    let matrices = || source.tensors().iter().filter(|t| !t.vector);
    let weights: f64 = matrices().map(|t| t.rows as f64 * t.cols as f64).sum();
    let bits: f64 = matrices()
        .map(|t| t.bits_per_weight * t.rows as f64 * t.cols as f64)
        .sum();
    if bits / weights.max(1.0) < FEW_BITS {
        out::note(format_args!(
            "the source has {:.1} bits a weight: it is kept at q8, since fewer would lose once more \
             (--quant chooses another type)",
            bits / weights.max(1.0)
        ));
        return Ok(QuantType::Q8);
    }
    Ok(QuantType::Q4)
}

/// Converts with a progress bar; Ctrl-C stops it and leaves no file.
pub(crate) fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
) -> anyhow::Result<Report> {
    interrupt::reset();
    let bar = std::cell::RefCell::new(ProgressBar::hidden());
    let events = |event: Event<'_>| {
        match event {
            Event::Note(note) => bar
                .borrow()
                .suspend(|| out::note(format_args!("note: {note}"))),
            Event::Calibrate { done, of, memory } => {
                if done == 0 {
                    out::note(format_args!(
                        "calibrating: at most {} of memory beside the conversion's own",
                        out::bytes(memory)
                    ));
                    *bar.borrow_mut() = progress::steps_bar(of as u64, "layers");
                }
                bar.borrow().set_position(done as u64);
                if done == of {
                    bar.borrow().finish_and_clear();
                }
            }
            Event::Start { source_bytes, .. } => {
                *bar.borrow_mut() = progress::bytes_bar(source_bytes, "converting");
            }
            Event::Advance { source_bytes, .. } => bar.borrow().set_position(source_bytes),
            _ => {}
        }
        if interrupt::asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let source = source::open(source)?;
    let report = if options.calibration.is_some() {
        let mut runner = CpuRunner::new(options.threads)
            .map_err(|e| anyhow::anyhow!("the machine cannot run the source: {e}"))?;
        chaski_convert::convert_with(&*source, target, options, &mut runner, &events)
    } else {
        chaski_convert::convert(&*source, target, options, &events)
    };
    bar.borrow().finish_and_clear();
    Ok(report?)
}

/// One line about a conversion.
pub(crate) fn summary(report: &Report) -> String {
    format!(
        "{} tensors, {:.2} bits a weight, {} in {:.1} s",
        report.n_tensors,
        report.bits_per_weight,
        out::bytes(report.file_bytes),
        report.seconds
    )
}

struct Fetching {
    bar: std::cell::RefCell<ProgressBar>,
}

impl Fetching {
    fn new() -> Self {
        Self {
            bar: std::cell::RefCell::new(ProgressBar::hidden()),
        }
    }
}

impl FetchProgress for Fetching {
    fn trying(&self, source: &catalog::Source) {
        if matches!(source, catalog::Source::Pypi { .. }) {
            out::note(format_args!(
                "fetching {} ({})",
                source,
                out::bytes(source.bytes())
            ));
            *self.bar.borrow_mut() = progress::spinner(format!("fetching {source}"));
        }
    }

    fn failed(&self, source: &catalog::Source, why: &str) {
        self.bar.borrow().finish_and_clear();
        // A file that nobody put there is no news; any other failure is.
        match source {
            catalog::Source::File { .. } => out::detail(format_args!("{source}: {why}")),
            catalog::Source::Pypi { .. } => out::note(format_args!("{source}: {why}")),
        }
    }

    fn bytes(&self, done: u64, total: u64) {
        if done == total {
            self.bar.borrow().finish_and_clear();
        }
    }
}
