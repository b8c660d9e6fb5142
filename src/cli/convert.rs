//! `chaski convert`.

use std::{
    cell::RefCell,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use chaski::{Model, ModelOptions, eval::Report as Measured};
use chaski_convert::{
    Allocation, Calibration, ConvertError, ConvertOptions, ConvertPlan, Recipe, Report,
    WeightError, source,
};
use chaski_models::tokenizer::{Specials, Tokenizer};
use chaski_quant::{QuantType, container::AtomicFile};

use super::{
    args::ConvertArgs,
    check, eval, interrupt, out, resolve, target,
    text::{self, MAX_CORPUS_BYTES},
};

/// Converts a checkpoint, or tells what that would do.
pub(crate) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let (path, name, _) = resolve::source(&args.src)?;
    if path.is_file() && resolve::kind(&path)? == resolve::Kind::Chaski {
        bail!(
            "{} is a .chaski file already: convert its source",
            path.display()
        );
    }
    let recipe = Recipe::named(args.quant.map_or("q4", QuantType::name))?;
    let mut options = ConvertOptions::new(recipe.with_overrides(&args.tensor_type)?);
    options.force = args.force;
    options.allow_missing_tokenizer = args.no_tokenizer;
    if let Some(n) = args.threads {
        super::answer::tell_threads(Some(n));
        options.threads = Some(NonZeroUsize::new(n).context("-t 0: expected at least one thread")?);
    }
    if let Some(text) = &args.calibrate {
        options.calibration = Some(calibration(text)?);
    }
    let certify_text = match &args.certify {
        Some(text) => Some(eval::read_text(text)?),
        None => None,
    };
    let check_text = check_text(args, options.calibration.as_ref())?;
    if !args.dry_run {
        // What cannot be measured is told before the work is done.
        long_enough(args, &path, certify_text.as_deref(), check_text.as_ref())?;
    }
    let texts = (check_text.as_ref(), certify_text.as_deref());
    let Some(quant) = args.quant else {
        return to_target(args, &path, &name, options, texts);
    };
    if args.dry_run {
        return tell_plan(args, &path, &options);
    }
    let file = file(args, &name, quant.name())?;
    let report = resolve::convert(&path, &file, &options)?;
    let measured = check_file(args, &file, &options, texts.0);
    finish(args, &file, &report, measured, texts.1)
}

/// Fails where a text that the file is to be measured on has too few tokens.
fn long_enough(
    args: &ConvertArgs,
    path: &Path,
    certify: Option<&str>,
    check: Option<&CheckText>,
) -> anyhow::Result<()> {
    if certify.is_none() && check.is_none() {
        return Ok(());
    }
    let source = source::open(path)?;
    let files = source
        .tokenizer()
        .context("what is to be measured reads a text, which needs a tokenizer")?;
    let tokenizer = Tokenizer::from_hf(&files.tokenizer_json, files.tokenizer_config.as_ref())?;
    let tokens = |text: &str| -> anyhow::Result<usize> {
        let own = tokenizer.encode(text, Specials::AsText)?.len();
        Ok(own + usize::from(tokenizer.bos().is_some()))
    };
    if let (Some(text), Some(name)) = (certify, &args.certify) {
        let needed = eval::CERTIFY_CHUNK.min(source.config().max_seq_len);
        let tokens = tokens(text)?;
        anyhow::ensure!(
            tokens >= needed,
            "--certify {}: the text has {tokens} tokens, at least {needed} are needed",
            name.display()
        );
    }
    if let Some(CheckText { name, text }) = check {
        let tokens = tokens(text)?;
        anyhow::ensure!(
            tokens >= check::LEAST,
            "--check {name}: the text has {tokens} tokens, at least {} are needed",
            check::LEAST
        );
    }
    Ok(())
}

/// Tells what was done and certifies the file where that was asked for; or tells what failed of what came after
/// the conversion: the file is there all the same.
fn finish(
    args: &ConvertArgs,
    file: &Path,
    report: &Report,
    measured: anyhow::Result<Option<Measured>>,
    certify_text: Option<&str>,
) -> anyhow::Result<()> {
    let (measured, failed) = match measured {
        Ok(measured) => (measured, None),
        Err(e) => (None, Some(e)),
    };
    tell_report(args, file, report, measured.as_ref())?;
    match failed {
        Some(e) => Err(e),
        None => certify(args, file, certify_text),
    }
}

/// The text on which a finished file is measured.
struct CheckText {
    name: String,
    text: String,
}

/// Reads that text, where the file is to be measured.
fn check_text(
    args: &ConvertArgs,
    calibrated: Option<&Calibration>,
) -> anyhow::Result<Option<CheckText>> {
    let name = match (&args.check, args.max_kld) {
        (Some(name), _) => name.as_path(),
        (None, Some(_)) => Path::new("default"),
        (None, None) => return Ok(None),
    };
    let text = match name == Path::new("default") {
        true => Calibration::built_in().text().to_owned(),
        false => eval::read_text(name)?,
    };
    if calibrated.is_some_and(|c| c.text() == text) {
        out::note(
            "note: the file is measured on the text that it is calibrated with, and loses more on others: \
             --check TEXT measures on another one",
        );
    }
    let name = name.display().to_string();
    Ok(Some(CheckText { name, text }))
}

/// The file to write.
fn file(args: &ConvertArgs, name: &str, types: &str) -> anyhow::Result<PathBuf> {
    let default = || PathBuf::from(format!("{name}-{types}.chaski"));
    let file = args.output.clone().unwrap_or_else(default);
    // The converter would name the file that it writes first.
    if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty())
        && !folder.is_dir()
    {
        bail!(
            "{}: there is no folder {}",
            file.display(),
            folder.display()
        );
    }
    Ok(file)
}

/// Writes what the file was measured to lose, where that was asked for.
fn certify(args: &ConvertArgs, file: &Path, text: Option<&str>) -> anyhow::Result<()> {
    if let (Some(name), Some(text)) = (&args.certify, text) {
        eval::certify(file, &args.src, name, text, args.threads)?;
    }
    Ok(())
}

fn tell_plan(args: &ConvertArgs, path: &Path, options: &ConvertOptions) -> anyhow::Result<()> {
    let source = source::open(path)?;
    let plan = chaski_convert::plan(&*source, options)?;
    if args.json {
        return Ok(out::print_json(&plan)?);
    }
    Ok(out::print(&planned(&plan))?)
}

fn tell_report(
    args: &ConvertArgs,
    file: &Path,
    report: &Report,
    measured: Option<&Measured>,
) -> anyhow::Result<()> {
    if args.json {
        let mut document = serde_json::to_value(report)?;
        if let Some(measured) = measured {
            document["measured"] = serde_json::to_value(measured)?;
        }
        return Ok(out::print_json(&document)?);
    }
    if !out::is_quiet() {
        out::print(&reported(report, args.calibrate.is_some()))?;
        out::print_line(format_args!(
            "{}: {}",
            file.display(),
            resolve::summary(report)
        ))?;
        if let Some(measured) = measured {
            out::print_line(check::told(measured))?;
        }
    }
    Ok(())
}

/// Measures what was written where that was asked for.
fn check(
    args: &ConvertArgs,
    model: Model,
    options: &ConvertOptions,
    text: Option<&CheckText>,
) -> anyhow::Result<Option<Measured>> {
    let Some(text) = text else { return Ok(None) };
    let measured = check::measure(&args.src, model, &text.text, options.threads)?;
    Ok(Some(measured))
}

/// The same of a file that has its name.
fn check_file(
    args: &ConvertArgs,
    file: &Path,
    options: &ConvertOptions,
    text: Option<&CheckText>,
) -> anyhow::Result<Option<Measured>> {
    match text {
        Some(_) => check(
            args,
            Model::open(file, &ModelOptions::default())?,
            options,
            text,
        ),
        None => Ok(None),
    }
}

/// Draws the front where that was asked for.
fn draw(args: &ConvertArgs, allocation: &Allocation) -> anyhow::Result<()> {
    match &args.plot {
        Some(path) => target::plot(path, allocation, args.force),
        None => Ok(()),
    }
}

/// Conversions that `--max-kld` takes at most.
const ROUNDS: usize = 6;

/// Chooses types for a target and converts. A divergence asked for is measured, and where it was
/// predicted too low the prediction is corrected by what was found.
fn to_target(
    args: &ConvertArgs,
    path: &Path,
    name: &str,
    mut options: ConvertOptions,
    (check_text, certify_text): (Option<&CheckText>, Option<&str>),
) -> anyhow::Result<()> {
    let source = source::open(path)?;
    if let Some(plot) = &args.plot {
        let absolute = |path: &Path| std::path::absolute(path).ok();
        let is_output = |out: &PathBuf| absolute(out) == absolute(plot);
        if source::is_part_of(&*source, plot) || args.output.as_ref().is_some_and(is_output) {
            bail!(
                "--plot {}: the model has that name, or its source: draw into another file",
                plot.display()
            );
        }
        AtomicFile::create(plot, args.force)?;
    }
    if let Some(out) = args.output.as_ref().filter(|_| !args.dry_run) {
        // What would be told when the types are known is told before they are measured.
        if source::is_part_of(&*source, out) {
            return Err(ConvertError::Own { path: out.clone() }.into());
        }
        AtomicFile::create(&file(args, name, "")?, args.force)?;
    }
    let sensitivities = target::measure(&*source, &options)?;
    interrupt::follow()?;
    let mut correction = 1.0;
    for _ in 0..ROUNDS {
        let allocation =
            target::choose(args, &*source, &options, sensitivities.as_ref(), correction)?;
        if !args.json && !out::is_quiet() {
            out::print(&target::told(&allocation))?;
        }
        options.recipe = allocation.recipe.clone();
        if args.dry_run {
            draw(args, &allocation)?;
            return tell_plan(args, path, &options);
        }
        interrupt::follow()?;
        let types = format!("mixed-{}MB", (allocation.bytes + 500_000) / 1_000_000);
        let file = file(args, name, &types)?;
        let Some(wanted) = args.max_kld else {
            let report = resolve::convert(path, &file, &options)?;
            let measured = check_file(args, &file, &options, check_text);
            let done = finish(args, &file, &report, measured, certify_text);
            // The file is there and told of, whatever becomes of the picture.
            draw(args, &allocation)?;
            return done;
        };
        // It gets its name if it keeps to what was asked: a file that was there stays there till then.
        let measured = RefCell::new(None);
        let keeps = |made: &AtomicFile| {
            let model = Model::from_container(made.open()?, &file, &ModelOptions::default())?;
            let of = check(args, model, &options, check_text)?;
            let found = of.as_ref().map_or(0.0, |m| m.kl_divergence.mean.value);
            *measured.borrow_mut() = of;
            Ok(found <= wanted)
        };
        let report = resolve::convert_if(path, &file, &options, &keeps)?;
        let measured = measured.into_inner();
        if let Some(report) = report {
            let done = finish(args, &file, &report, Ok(measured), certify_text);
            draw(args, &allocation)?;
            return done;
        }
        let found = measured.map_or(0.0, |m| m.kl_divergence.mean.value);
        out::note(format_args!(
            "{found:.5} measured where {:.5} was predicted: more than {wanted}, so again with larger types",
            allocation.kld
        ));
        // A little more than what was found, so that the next round is the last. Nothing at all is predicted
        // of a model that no error changes.
        if allocation.kld > 0.0 {
            correction = 1.05 * found / allocation.kld;
        }
    }
    bail!(
        "no types were found that keep to --max-kld {} in {ROUNDS} conversions: use --size, or --quant f16",
        args.max_kld.unwrap_or_default()
    )
}

/// The text to calibrate with.
fn calibration(text: &Path) -> anyhow::Result<Calibration> {
    if text == Path::new("default") {
        return Ok(Calibration::built_in());
    }
    let content = text::read_file(text, MAX_CORPUS_BYTES)
        .with_context(|| format!("the calibration text {} cannot be read", text.display()))?;
    Ok(Calibration::new(&text.display().to_string(), content)?)
}

fn shape(dims: &[usize]) -> String {
    dims.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" x ")
}

fn planned(plan: &ConvertPlan) -> String {
    let mut rows = vec![
        ["tensor", "source", "from", "to", "shape", "bytes"]
            .map(String::from)
            .to_vec(),
    ];
    for t in &plan.tensors {
        rows.push(vec![
            t.name.clone(),
            t.source_name.clone(),
            t.source_type.clone(),
            t.qtype.to_string(),
            shape(&t.shape),
            t.bytes.to_string(),
        ]);
    }
    let mut text = out::table_of(&rows, 4);
    for note in &plan.notes {
        text += &format!("note: {}\n", out::escaped(&note.to_string(), ""));
    }
    let c = &plan.config;
    let context = c.max_seq_len.min(chaski::session::DEFAULT_CONTEXT);
    let kv = context * c.n_layers * c.kv_dim() * 2 * 2;
    text += &format!(
        "{} tensors, {} weights, {:.3} bits each\n{} to read, {} ({} bytes) to write, and the tokenizer\n",
        plan.tensors.len(),
        plan.n_weights,
        plan.bits_per_weight,
        out::bytes(plan.source_bytes),
        out::bytes(plan.file_bytes),
        plan.file_bytes,
    );
    text += &format!(
        "to run it: the file mapped, and {} for the keys and values of {context} positions (f16); \
         `chaski plan` tells it exactly once it is converted\n",
        out::bytes(kv as u64)
    );
    text
}

fn decibels(error: &WeightError) -> String {
    error
        .sqnr_db
        .map_or_else(|| "exact".to_owned(), |db| format!("{db:.2}"))
}

fn reported(report: &Report, is_calibrated: bool) -> String {
    let mut rows = vec![
        [
            "role",
            "type",
            "tensors",
            "bits/weight",
            "bytes",
            "error dB",
            "rms %",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for r in &report.roles {
        rows.push(vec![
            r.role.to_string(),
            r.qtype.to_string(),
            r.n_tensors.to_string(),
            format!("{:.3}", r.bits_per_weight),
            r.bytes.to_string(),
            decibels(&r.error),
            format!("{:.3}", 100.0 * r.error.relative_rms),
        ]);
    }
    let mut text = out::table(&rows);
    if !report.worst.is_empty() {
        let mut rows = vec![
            ["worst tensors", "type", "error dB"]
                .map(String::from)
                .to_vec(),
        ];
        rows.extend(
            report
                .worst
                .iter()
                .map(|t| vec![t.name.clone(), t.qtype.to_string(), decibels(&t.error)]),
        );
        text += &format!("\n{}", out::table(&rows));
    }
    if is_calibrated {
        // 6 dB would look like a broken matrix.
        text += "\nerrors are of the weights: calibration lets them grow where that makes the error of the results smaller\n";
    }
    text.push('\n');
    text
}
