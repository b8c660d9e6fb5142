//! `chaski eval --against`: models beside one reference, which is read once for all of them.

use std::{num::NonZeroUsize, path::Path, time::Instant};

use chaski::{
    certify::{self, Measured},
    eval::{Chunks, Comparison, PartsError, Report, check_parts, compare},
};
use chaski_quant::container::SectionKind;
use serde_json::{Value, json};

use super::{Opened, document, same_vocabulary, session_options, tell};
use crate::cli::{
    args::{EvalArgs, KvArg},
    interrupt, out,
    parts::Parts,
    progress,
};

/// Chunks on which roles are measured for a certificate.
const ROLE_CHUNKS: usize = 8;

/// Measures `models` beside `reference`, and certifies them where that is asked for.
///
/// Prints the figures, unless a document is asked for, which is then the result.
pub(super) fn run(
    args: &EvalArgs,
    models: &[Opened],
    reference: &Opened,
    text: &str,
) -> anyhow::Result<Option<Value>> {
    for model in models {
        same_vocabulary(model, reference)?;
        if args.per_layer {
            check_parts(&reference.path, &model.path)?;
        }
    }
    // All cut the text into the same tokens.
    let chunks = reference.chunks(args)?;
    let begin = Instant::now();
    let reports = measure(args, models, reference, &chunks)?;
    let mut parts = Vec::new();
    for (model, report) in models.iter().zip(&reports) {
        parts.push(follow_up(args, model, reference, &chunks, text, report)?);
    }
    if args.json {
        let own = |((model, report), parts): ((&Opened, &Report), &Option<Parts>)| {
            let mut own = document(args, model, begin);
            own["bytes_less_tokenizer"] = json!(bytes_less_tokenizer(model));
            own["reference"] = json!(reference.path.display().to_string());
            own["scored"] = json!(report.positions);
            own["ppl"] = json!(report.perplexity.model.value);
            own["ppl_error"] = json!(report.perplexity.model.error);
            own["comparison"] = json!(report);
            if let Some(parts) = parts {
                own["parts"] = parts.json();
            }
            own
        };
        let mut all: Vec<Value> = models.iter().zip(&reports).zip(&parts).map(own).collect();
        // One model's document is what it always was.
        return Ok(Some(match all.len() {
            1 => all.remove(0),
            _ => json!({"schema": 1, "models": all}),
        }));
    }
    match &reports[..] {
        [report] => out::print_line(report)?,
        _ => out::print(&table(models, &reports))?,
    }
    for ((model, report), parts) in models.iter().zip(&reports).zip(&parts) {
        let Some(parts) = parts else { continue };
        if models.len() > 1 {
            out::print_line(format_args!("\n{}", model.path.display()))?;
        }
        out::print(&format!("\n{}", parts.table(report)))?;
    }
    Ok(None)
}

/// The figures of every model.
fn measure(
    args: &EvalArgs,
    models: &[Opened],
    reference: &Opened,
    chunks: &Chunks<'_>,
) -> anyhow::Result<Vec<Report>> {
    let mut sessions = models
        .iter()
        .map(|model| model.session(args, args.round_activations))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut reference = reference.session(args, false)?;
    let threads = NonZeroUsize::new(reference.limits().threads).unwrap_or(NonZeroUsize::MIN);
    let bar = progress::steps_bar(chunks.n() as u64, "chunks");
    let step = |done: usize, so_far: &[Comparison]| {
        let reports: Vec<Report> = so_far.iter().map(Comparison::report).collect();
        match &reports[..] {
            [report] => tell(&bar, done, chunks.n(), line(report)),
            _ => tell(&bar, done, chunks.n(), short_line(&reports)),
        }
    };
    interrupt::follow()?;
    let compared = compare(chunks, &mut reference, &mut sessions, threads, step)?;
    bar.finish_and_clear();
    interrupt::follow()?;
    Ok(compared.iter().map(Comparison::report).collect())
}

/// What each part adds and the certificate, where these are asked for.
fn follow_up(
    args: &EvalArgs,
    opened: &Opened,
    reference: &Opened,
    chunks: &Chunks<'_>,
    text: &str,
    report: &Report,
) -> anyhow::Result<Option<Parts>> {
    let options = session_options(args);
    let measure = |chunks: &Chunks<'_>| {
        let (reference, model) = (&reference.model, &opened.model);
        Parts::measure(chunks, reference, model, &options, args.per_layer)
    };
    let parts = match args.per_layer {
        true => Some(measure(chunks)?),
        false => None,
    };
    if !args.certify {
        return Ok(parts);
    }
    let roles = match &parts {
        Some(parts) => parts.reports(),
        // The file can be certified without them.
        None => match measure(&chunks.first(ROLE_CHUNKS)) {
            Ok(parts) => parts.reports(),
            Err(e)
                if e.downcast_ref::<PartsError>()
                    .is_some_and(PartsError::is_hybrid) =>
            {
                out::note(format_args!("note: {e}: {}", e.root_cause()));
                Vec::new()
            }
            Err(e) => return Err(e),
        },
    };
    let certificate = Measured {
        model: &opened.model,
        reference: &reference.model,
        text_name: &text_name(&args.text),
        text,
        kv: kv_name(args.kv),
        chunks,
        report,
        roles: &roles,
    }
    .certificate();
    certify::write(&opened.path, &certificate)?;
    out::note(format_args!(
        "the certificate is written into {}",
        opened.path.display()
    ));
    Ok(parts)
}

/// The name of a text for the record.
fn text_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

const fn kv_name(kv: KvArg) -> &'static str {
    match kv {
        KvArg::F32 => "f32",
        KvArg::F16 => "f16",
        KvArg::Q8 => "q8",
    }
}

/// The file's bytes but for its tokenizer's: what of a size tells how weights are stored.
fn bytes_less_tokenizer(opened: &Opened) -> u64 {
    let container = opened.model.weights().container();
    let len = |kind| container.section(kind).map_or(0, <[u8]>::len) as u64;
    container.file_len() - len(SectionKind::Tokenizer) - len(SectionKind::TokenizerFast)
}

/// A line for each model.
fn table(models: &[Opened], reports: &[Report]) -> String {
    let head = [
        "model",
        "bytes",
        "no tokenizer",
        "mean KLD",
        "±",
        "same top",
        "±",
        "PPL ratio",
        "±",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (model, report) in models.iter().zip(reports) {
        let (kld, ratio) = (report.kl_divergence.mean, report.perplexity.ratio);
        let top = report.token_probability.same_top.times(100.0);
        rows.push(vec![
            model.path.display().to_string(),
            model.model.weights().container().file_len().to_string(),
            bytes_less_tokenizer(model).to_string(),
            format!("{:.6}", kld.value),
            format!("{:.6}", kld.error),
            format!("{:.3} %", top.value),
            format!("{:.3} %", top.error),
            format!("{:.6}", ratio.value),
            format!("{:.6}", ratio.error),
        ]);
    }
    out::table(&rows)
}

/// A comparison so far, in a line.
fn line(report: &Report) -> String {
    let (ratio, kld) = (report.perplexity.log_ratio, report.kl_divergence.mean);
    let top = report.token_probability.same_top.times(100.0);
    format!(
        "PPL = {:.4}, ln ratio = {:.5} ± {:.5}, KLD = {:.5} ± {:.5}, RMS Δp = {:.3} %, same top = \
         {:.3} ± {:.3} %",
        report.perplexity.model.value,
        ratio.value,
        ratio.error,
        kld.value,
        kld.error,
        100.0 * report.token_probability.rms_delta.value,
        top.value,
        top.error,
    )
}

/// Comparisons of several models so far, in a line.
fn short_line(reports: &[Report]) -> String {
    let kld = |report: &Report| {
        let kld = report.kl_divergence.mean;
        format!("{:.5} ± {:.5}", kld.value, kld.error)
    };
    let all: Vec<String> = reports.iter().map(kld).collect();
    format!("KLD = {}", all.join(", "))
}
