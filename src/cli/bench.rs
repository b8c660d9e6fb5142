//! `chaski bench`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use chaski::{
    Model, ModelOptions,
    bench::{self, BenchOptions, Format},
};
use chaski_quant::QuantType;

use super::{
    answer::{cpus, kv_type, model_options, tell_threads},
    args::{BenchArgs, BenchFormat},
    interrupt, out, progress,
    resolve::{self, Kind},
};

/// Measures tokens per second.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let quants: Vec<Option<QuantType>> = match &args.quants[..] {
        [] => vec![None],
        quants => quants.iter().copied().map(Some).collect(),
    };
    let converted = |model: &&String| matches!(resolve::kind(model.as_ref()), Ok(Kind::Chaski));
    if let Some(model) = args
        .models
        .iter()
        .find(converted)
        .filter(|_| !args.quants.is_empty())
    {
        bail!("--quants: {model} is a .chaski file, its types are fixed; name its source");
    }
    args.threads.iter().for_each(|&n| tell_threads(Some(n)));
    // All conversions first: the machine is to be quiet while it is measured.
    let mut files: Vec<PathBuf> = Vec::new();
    for model in &args.models {
        for &quant in &quants {
            files.push(resolve::resolve(model, quant)?);
            interrupt::follow()?;
        }
    }
    let options = BenchOptions {
        n_prompt: args.n_prompt.clone(),
        n_gen: args.n_gen.clone(),
        n_depth: args.n_depth.clone(),
        repetitions: args.repetitions,
        threads: args.threads.clone(),
        kv_type: kv_type(args.kv),
        ubatch: args.ubatch_size,
        gpu_layers: args.gpu.gpu_layers,
        cpus: cpus(&args.host),
        model: model_options(&args.host),
        cancel: Some(interrupt::flag()),
    };
    let mut rows = Vec::new();
    for file in &files {
        tell_context(file, args)?;
        let name = file
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let bar = progress::spinner(name.clone());
        let measured = bench::run(file, &options, &mut |test, repetition, of| {
            progress::say(&bar, &format!("{name}: {test}, {repetition} of {of}"));
        })?;
        bar.finish_and_clear();
        rows.extend(measured);
    }
    let format = match args.output {
        BenchFormat::Md => Format::Markdown,
        BenchFormat::Json => Format::Json,
        BenchFormat::Csv => Format::Csv,
        BenchFormat::Jsonl => Format::JsonLines,
    };
    let text = bench::render(&rows, format)?;
    // Names of files and models; the other forms are for programs, which are to get them as they are.
    let text = match format {
        Format::Markdown => out::escaped(&text, "\n"),
        _ => text,
    };
    out::print(&text)?;
    for row in rows.iter().filter(|_| args.output == BenchFormat::Md) {
        out::detail(format_args!(
            "{} {}: load {:.1} ms, first token {:.1} ms, resident {}",
            row.model_type,
            row.test(),
            row.load_ms,
            row.ttft_ms,
            out::bytes(row.resident_bytes)
        ));
    }
    Ok(())
}

/// Says so where more positions are measured than the model was made for.
fn tell_context(file: &Path, args: &BenchArgs) -> anyhow::Result<()> {
    let trained = Model::open(file, &ModelOptions::default())?
        .config()
        .max_seq_len;
    let most = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(0);
    let positions = most(&args.n_depth) + most(&args.n_prompt).max(most(&args.n_gen));
    if positions > trained {
        out::note(format_args!(
            "note: {positions} positions are more than the {trained} that {} was made for",
            file.display()
        ));
    }
    Ok(())
}
