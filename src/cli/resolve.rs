//! From what a user types as MODEL to a `.chaski` file.

use std::{
    fs::{self, File},
    io::Read,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use chaski::{
    catalog::{self, Catalog, Entry, FetchProgress},
    runner::CpuRunner,
    self_test,
};
use chaski_convert::{ConvertOptions, ConvertPlan, Event, Recipe, Report, source};
use chaski_quant::{
    QuantType,
    container::{AtomicFile, Container, ContainerError, MAGIC},
};
use indicatif::ProgressBar;

use super::{cache, interrupt, out, progress};

/// Weights of so many bits or fewer, scales included, are codes of 5 bits or fewer and lost what those
/// lose already; a source in which they are more than half is kept at 8 bits unless told otherwise. Of
/// GGUF's types these are all up to Q5_1; of its mixtures all up to Q5_K_M, whose larger part is Q5_K
/// (5.5), and not Q6_K (6.6).
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
        "{}: neither a .chaski file nor a GGUF file; a safetensors checkpoint is given as its folder",
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
        // `owner/name`, which other programs fetch.
        let parts: Vec<&str> = model.split('/').collect();
        let is_repository = path.extension().is_none()
            && matches!(parts[..], [owner, name] if ![owner, name].iter().any(|p| p.is_empty() || p.starts_with(['.', '~'])));
        if is_repository {
            bail!(
                "{model}: there is no such folder; nothing is fetched from Hugging Face: download \
                 the model's folder, or take a name of `chaski models`"
            );
        }
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

/// What MODEL stands for.
pub(crate) enum Resolved {
    /// A `.chaski` file, the user's or one of the cache.
    File(PathBuf),
    /// A source that no file of the cache was made of yet.
    Source(Unconverted),
}

/// A source, and what is to be made of it.
pub(crate) struct Unconverted {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Its name for the record.
    pub(crate) name: String,
    /// The type to convert to.
    pub(crate) quant: QuantType,
    /// The file to be made.
    target: PathBuf,
    /// Why that type, if the catalogue says so.
    note: Option<String>,
}

impl Unconverted {
    fn options(&self) -> anyhow::Result<ConvertOptions> {
        let mut options = ConvertOptions::new(Recipe::named(self.quant.name())?);
        options.source_name = Some(self.name.clone());
        // Another process may have made the same file meanwhile: the same bytes.
        options.force = true;
        options.allow_missing_tokenizer = true;
        Ok(options)
    }
}

/// What MODEL stands for; nothing is converted.
pub(crate) fn look_up(model: &str, quant: Option<QuantType>) -> anyhow::Result<Resolved> {
    let path = Path::new(model);
    if path.exists() && kind(path)? == Kind::Chaski {
        if let Some(quant) = quant {
            bail!(
                "--quant {quant}: {model} is a .chaski file, its types are fixed; convert its source"
            );
        }
        return Ok(Resolved::File(path.to_owned()));
    }
    if let Some(found) = cached_catalogue(model, quant)? {
        return Ok(Resolved::File(found));
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
    if is_usable(&target)? {
        return Ok(Resolved::File(target));
    }
    Ok(Resolved::Source(Unconverted {
        path: source,
        name,
        quant,
        target,
        note: entry.and_then(|entry| entry.note),
    }))
}

/// The `.chaski` file for MODEL, converted into the cache if need be.
pub(crate) fn resolve(model: &str, quant: Option<QuantType>) -> anyhow::Result<PathBuf> {
    let source = match look_up(model, quant)? {
        Resolved::File(path) => return Ok(path),
        Resolved::Source(source) => source,
    };
    let target = source.target.clone();
    // Held until the file is there: whoever asks for the same one waits and finds it.
    let _lock = catalog::lock(&lock_path(&target), || {
        out::note(format_args!(
            "another chaski is converting {}: waiting for it",
            source.name
        ));
    });
    if is_usable(&target)? {
        return Ok(target);
    }
    out::note(format_args!(
        "converting {} to {}, kept in {}",
        source.name,
        source.quant,
        target.display()
    ));
    if let Some(note) = &source.note {
        out::note(format_args!("({note})"));
    }
    let report = convert(&source.path, &target, &source.options()?)?;
    remember_verified(&target);
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

/// The file that stands for the right to make `target`.
fn lock_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// What a conversion would make of a source.
pub(crate) fn planned(source: &Unconverted) -> anyhow::Result<ConvertPlan> {
    let from = source::open(&source.path)?;
    Ok(chaski_convert::plan(&*from, &source.options()?)?)
}

/// Whether a file of the cache is there and sound; a damaged one is made again.
///
/// Every byte of it is looked at where it is not the file that was looked at before (see
/// [`cache::is_verified`]): an answer would not show that the weights are not those of the source.
fn is_usable(cached: &Path) -> anyhow::Result<bool> {
    if !cached.exists() {
        return Ok(false);
    }
    let checked = Container::open(cached).and_then(|container| {
        if cache::is_verified(cached) {
            return Ok(());
        }
        verify(&container)?;
        remember_verified(cached);
        Ok(())
    });
    interrupt::follow()?;
    if let Err(e) = &checked {
        out::note(format_args!(
            "note: {} is damaged and is made again: {e}",
            cached.display()
        ));
    }
    Ok(checked.is_ok())
}

/// Looks at every byte, with a progress bar.
pub(crate) fn verify(container: &Container) -> Result<(), ContainerError> {
    let bar = progress::bytes_bar(0, "verifying");
    let checked = container.verify(|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    checked
}

/// Without the record the file is only verified again, the next time.
fn remember_verified(cached: &Path) {
    if let Err(e) = cache::set_verified(cached) {
        out::detail(format_args!(
            "that {} was verified cannot be recorded: {e}",
            cached.display()
        ));
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
    Ok(is_usable(&path)?.then_some(path))
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
    let matrices = source.tensors().iter().filter(|t| !t.vector);
    let matrices = matrices.map(|t| (t.bits_per_weight, t.rows as f64 * t.cols as f64));
    if !has_few_bits(matrices) {
        return Ok(QuantType::Q4);
    }
    out::note(format_args!(
        "most weights of the source have {FEW_BITS} bits or fewer, scales included: it is kept at q8, \
         since a smaller type would lose once more (--quant chooses another type)"
    ));
    Ok(QuantType::Q8)
}

/// Whether more than half of the weights of matrices (bits of each weight, number of weights) have
/// few bits.
fn has_few_bits(matrices: impl Iterator<Item = (f64, f64)>) -> bool {
    let (few, all) = matrices.fold((0.0, 0.0), |(few, all), (bits, n)| {
        (few + if bits <= FEW_BITS { n } else { 0.0 }, all + n)
    });
    2.0 * few > all
}

/// Converts with a progress bar; Ctrl-C stops it and leaves no file.
pub(crate) fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
) -> anyhow::Result<Report> {
    let report = convert_if(source, target, options, &|_| Ok(true))?;
    report.context("a conversion that nobody refused was refused")
}

/// As [`convert`], but the file gets its name only if `keeps` says so of it; `None` if not.
pub(crate) fn convert_if(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    keeps: &dyn Fn(&AtomicFile) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<Report>> {
    interrupt::reset();
    let kept = std::cell::RefCell::new(Ok(true));
    let bar = std::cell::RefCell::new(ProgressBar::hidden());
    let tell = |what: &str, done: usize, of: usize, memory: u64| {
        if done == 0 {
            out::note(format_args!(
                "{what}: at most {} of memory beside the conversion's own",
                out::bytes(memory)
            ));
            *bar.borrow_mut() = progress::steps_bar(of as u64, "layers");
        }
        bar.borrow().set_position(done as u64);
        if done == of {
            bar.borrow().finish_and_clear();
        }
    };
    let events = |event: Event<'_>| {
        match event {
            Event::Note(note) => bar
                .borrow()
                .suspend(|| out::note(format_args!("note: {note}"))),
            Event::Balance { done, of, memory } => tell("balancing", done, of, memory),
            Event::Calibrate { done, of, memory } => tell("calibrating", done, of, memory),
            Event::Start { source_bytes, .. } => {
                *bar.borrow_mut() = progress::bytes_bar(source_bytes, "converting");
            }
            Event::Advance { source_bytes, .. } => bar.borrow().set_position(source_bytes),
            Event::Written(file) => {
                bar.borrow().finish_and_clear();
                add_self_test(file);
                *kept.borrow_mut() = keeps(file);
            }
            _ => {}
        }
        if interrupt::asked() || !matches!(*kept.borrow(), Ok(true)) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let source = source::open(source)?;
    let report = if options.calibration.is_some() {
        let mut runner = runner(options.threads)?;
        chaski_convert::convert_with(&*source, target, options, &mut runner, &events)
    } else {
        chaski_convert::convert(&*source, target, options, &events)
    };
    bar.borrow().finish_and_clear();
    match kept.into_inner()? {
        true => Ok(Some(report?)),
        false => Ok(None),
    }
}

/// What runs a source.
pub(crate) fn runner(threads: Option<NonZeroUsize>) -> anyhow::Result<CpuRunner> {
    CpuRunner::new(threads).map_err(|e| anyhow::anyhow!("the machine cannot run the source: {e}"))
}

/// Lets a file that was written vouch for itself.
fn add_self_test(file: &AtomicFile) {
    // The file is of use without.
    match self_test::write(file) {
        Ok(made) if made.logits.is_none() => {
            out::note("note: the model's logits are not finite: it cannot be run");
        }
        Ok(_) => {}
        Err(e) => {
            let cause =
                std::error::Error::source(&e).map_or_else(String::new, |c| format!(": {c}"));
            out::note(format_args!("note: the file has no self-test: {e}{cause}"));
        }
    }
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

    fn absent(&self, source: &catalog::Source, _: &Path) {
        // A file that nobody put there is no news.
        out::detail(format_args!("{source}: it is not there"));
    }

    fn failed(&self, source: &catalog::Source, why: &str) {
        self.bar.borrow().finish_and_clear();
        out::note(format_args!("{source}: {why}"));
    }

    fn waiting(&self, name: &str) {
        out::note(format_args!(
            "another chaski is fetching {name}: waiting for it"
        ));
    }

    fn bytes(&self, done: u64, total: u64) {
        if done == total {
            self.bar.borrow().finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::has_few_bits;

    #[test]
    fn most_of_the_weights_say_whether_a_source_has_few_bits() {
        // Llama 3.2 1B: 973 million weights of layers, 263 million of embeddings. Q4_K_M has Q6_K in
        // the embeddings and a sixth of the layers.
        for (name, matrices, few) in [
            ("Q4_0", &[(4.5, 1236e6)][..], true),
            ("Q5_1", &[(6.0, 1236e6)], true),
            (
                "Q4_K_M",
                &[(4.5, 811e6), (6.5625, 162e6), (6.5625, 263e6)],
                true,
            ),
            (
                "Q5_K_M",
                &[(5.5, 811e6), (6.5625, 162e6), (6.5625, 263e6)],
                true,
            ),
            ("Q4_0, F16 embeddings", &[(4.5, 973e6), (16.0, 263e6)], true),
            ("Q6_K", &[(6.5625, 1236e6)], false),
            ("Q8_0", &[(8.5, 1236e6)], false),
            ("BF16", &[(16.0, 1236e6)], false),
            ("nothing", &[], false),
        ] {
            assert_eq!(has_few_bits(matrices.iter().copied()), few, "{name}");
        }
    }
}
