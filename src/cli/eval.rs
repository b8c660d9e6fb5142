//! `chaski eval`.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use chaski::{
    Model, ModelOptions, Session, SessionOptions,
    backend::GpuLayers,
    certify::{self, Measured},
    eval::{Chunks, Comparison, PartsError, Perplexity, Report, compare, perplexity},
};
use chaski_models::{
    TokenId,
    tokenizer::{Specials, Tokenizer},
};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{
    answer::{Dropped, kv_type, tell_beyond, tell_placement, tell_threads},
    args::{EvalArgs, GpuArgs, KvArg, ModelArgs},
    interrupt, out,
    parts::Parts,
    progress, resolve,
    text::{self, MAX_CORPUS_BYTES},
};

/// Logits of this many positions are kept at once.
const LOGIT_ROWS: usize = 32;
/// Chunks on which roles are measured for a certificate.
const ROLE_CHUNKS: usize = 8;
/// Most chunks that a conversion measures.
const CERTIFY_CHUNKS: usize = 40;

/// A model and a text as its tokens.
struct Opened {
    path: PathBuf,
    model: Arc<Model>,
    tokenizer: Tokenizer,
    tokens: Vec<TokenId>,
}

impl Opened {
    fn new(path: PathBuf, text: &str) -> anyhow::Result<Self> {
        let model = Arc::new(Model::open(&path, &ModelOptions::default())?);
        let loaded = model.tokenizer()?;
        loaded.notes.iter().for_each(out::note);
        let tokenizer = loaded.tokenizer;
        let mut tokens: Vec<_> = tokenizer.bos().into_iter().collect();
        let encoded = tokenizer.encode_counted(text, Specials::AsText)?;
        let mut dropped = Dropped::default();
        dropped.add(&encoded);
        dropped.tell();
        tokens.extend(encoded.ids);
        Ok(Self {
            path,
            model,
            tokenizer,
            tokens,
        })
    }

    fn session(&self, args: &EvalArgs, round_activations: bool) -> anyhow::Result<Session> {
        let options = SessionOptions {
            round_activations,
            ..session_options(args)
        };
        tell_beyond(&self.model, "--chunk", args.chunk);
        let mut session = Session::new(&self.model, &options)?;
        tell_placement(&session, args.gpu.gpu_layers);
        session.set_cancel(Some(interrupt::flag()));
        Ok(session)
    }

    fn chunks(&self, args: &EvalArgs) -> anyhow::Result<Chunks<'_>> {
        let bos = self.tokenizer.bos();
        Ok(Chunks::new(&self.tokens, bos, args.chunk, args.chunks)?)
    }
}

fn session_options(args: &EvalArgs) -> SessionOptions {
    SessionOptions {
        context_len: Some(args.chunk.max(1)),
        kv_type: kv_type(args.kv),
        threads: args.threads,
        logit_rows: LOGIT_ROWS,
        gpu_layers: args.gpu.gpu_layers,
        ..SessionOptions::default()
    }
}

/// A text to measure on.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    text::read_file(path, MAX_CORPUS_BYTES)
        .with_context(|| format!("the text {} cannot be read", path.display()))
}

/// Measures perplexity, or compares with a reference.
pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    tell_threads(args.threads);
    let text = read_text(&args.text)?;
    let reference = args.against.as_deref();
    let reference = reference.map(resolve::resolve_unquantized).transpose()?;
    let path = resolve::resolve(&args.model.model, args.model.quant)?;
    let opened = Opened::new(path, &text)?;
    match reference {
        Some(reference) => {
            let reference = Opened::new(reference, &text)?;
            let document = run_against(args, &opened, &reference, &text)?;
            document.map_or(Ok(()), |document| Ok(out::print_json(&document)?))
        }
        None => run_alone(args, &opened),
    }
}

fn run_alone(args: &EvalArgs, opened: &Opened) -> anyhow::Result<()> {
    let chunks = opened.chunks(args)?;
    let mut session = opened.session(args, args.round_activations)?;
    let bar = progress::steps_bar(chunks.n() as u64, "chunks");
    let begin = Instant::now();
    let step = |done: usize, so_far: &Perplexity| tell(&bar, done, chunks.n(), so_far);
    interrupt::follow()?;
    let measured = perplexity(&chunks, &mut session, step)?;
    bar.finish_and_clear();
    interrupt::follow()?;
    if !args.json {
        return Ok(out::print_line(measured)?);
    }
    let mut document = document(args, opened, begin);
    document["scored"] = json!(measured.count);
    document["ppl"] = json!(measured.value());
    document["ppl_error"] = json!(measured.error());
    document["mean_nll"] = json!(measured.nll / measured.count as f64);
    Ok(out::print_json(&document)?)
}

/// Measures `FILE`, which was made of `against`, and writes its certificate; prints nothing on
/// standard output.
pub(crate) fn certify(
    file: &Path,
    against: &str,
    text: &Path,
    threads: Option<usize>,
) -> anyhow::Result<()> {
    let args = EvalArgs {
        model: ModelArgs {
            model: file.display().to_string(),
            quant: None,
        },
        text: text.to_owned(),
        against: Some(against.to_owned()),
        per_layer: false,
        certify: true,
        round_activations: false,
        chunk: 512,
        chunks: Some(CERTIFY_CHUNKS),
        threads,
        kv: KvArg::F16,
        gpu: GpuArgs {
            gpu_layers: GpuLayers::NONE,
        },
        json: true,
    };
    let text = read_text(text)?;
    let reference = Opened::new(resolve::resolve_unquantized(against)?, &text)?;
    run_against(
        &args,
        &Opened::new(file.to_owned(), &text)?,
        &reference,
        &text,
    )?;
    Ok(())
}

/// Prints the figures, unless a document is asked for, which is then the result.
fn run_against(
    args: &EvalArgs,
    opened: &Opened,
    reference: &Opened,
    text: &str,
) -> anyhow::Result<Option<Value>> {
    same_vocabulary(opened, reference)?;
    let chunks = opened.chunks(args)?;
    let mut session = opened.session(args, args.round_activations)?;
    let mut reference_session = reference.session(args, false)?;
    let threads = NonZeroUsize::new(session.limits().threads).unwrap_or(NonZeroUsize::MIN);
    let bar = progress::steps_bar(chunks.n() as u64, "chunks");
    let begin = Instant::now();
    let step = |done: usize, so_far: &[Comparison]| {
        tell(&bar, done, chunks.n(), line(&so_far[0].report()))
    };
    interrupt::follow()?;
    let models = std::slice::from_mut(&mut session);
    let compared = compare(&chunks, &mut reference_session, models, threads, step)?;
    bar.finish_and_clear();
    interrupt::follow()?;
    let report = compared[0].report();
    drop((session, reference_session));
    let options = session_options(args);
    let measure = |chunks: &Chunks<'_>| {
        let (reference, model) = (&reference.model, &opened.model);
        Parts::measure(chunks, reference, model, &options, args.per_layer)
    };
    let parts = match args.per_layer {
        true => Some(measure(&chunks)?),
        false => None,
    };
    if args.certify {
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
            chunks: &chunks,
            report: &report,
            roles: &roles,
        }
        .certificate();
        certify::write(&opened.path, &certificate)?;
        out::note(format_args!(
            "the certificate is written into {}",
            opened.path.display()
        ));
    }
    if !args.json {
        out::print_line(report)?;
        if let Some(parts) = &parts {
            out::print(&format!("\n{}", parts.table(&report)))?;
        }
        return Ok(None);
    }
    let mut document = document(args, opened, begin);
    document["reference"] = json!(reference.path.display().to_string());
    document["scored"] = json!(report.positions);
    document["ppl"] = json!(report.perplexity.model.value);
    document["ppl_error"] = json!(report.perplexity.model.error);
    document["comparison"] = json!(report);
    if let Some(parts) = &parts {
        document["parts"] = parts.json();
    }
    Ok(Some(document))
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

/// What both kinds of measurement say of themselves.
fn document(args: &EvalArgs, opened: &Opened, begin: Instant) -> Value {
    json!({
        "schema": 1,
        "model": opened.path.display().to_string(),
        "bytes": opened.model.weights().container().file_len(),
        "text": args.text.display().to_string(),
        "chunk": args.chunk,
        "rounded_activations": args.round_activations,
        "tokens": opened.tokens.len(),
        "seconds": begin.elapsed().as_secs_f64(),
    })
}

fn tell(
    bar: &ProgressBar,
    done: usize,
    of: usize,
    so_far: impl std::fmt::Display,
) -> ControlFlow<()> {
    bar.set_position(done as u64);
    bar.suspend(|| out::note(format_args!("[{done}/{of}] {so_far}")));
    if interrupt::asked() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
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

/// Distributions can be compared only over the same tokens, and of the same text.
fn same_vocabulary(opened: &Opened, reference: &Opened) -> anyhow::Result<()> {
    let name = |o: &Opened| Path::new(&o.path).display().to_string();
    let (a, b) = (name(opened), name(reference));
    let size = |o: &Opened| o.model.config().vocab_size;
    if size(opened) != size(reference) {
        bail!(
            "{a} has a vocabulary of {} tokens, {b} of {}: they cannot be compared",
            size(opened),
            size(reference)
        );
    }
    let differs = |id: &u32| {
        let bytes = |o: &Opened| o.tokenizer.token_bytes(TokenId(*id)).map(<[u8]>::to_vec);
        bytes(opened) != bytes(reference)
    };
    if let Some(id) = (0..size(opened) as u32).find(differs) {
        let shown = |o: &Opened| match o.tokenizer.token_bytes(TokenId(id)) {
            Some(bytes) => format!("`{}`", String::from_utf8_lossy(bytes)),
            None => "nothing".to_owned(),
        };
        bail!(
            "token {id} is {} in {a} and {} in {b}: models of different vocabularies cannot be \
             compared",
            shown(opened),
            shown(reference)
        );
    }
    let (ours, theirs) = (&opened.tokens, &reference.tokens);
    if ours != theirs {
        let same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        bail!(
            "{a} and {b} have the same tokens but cut the text into others, from token {same} on: \
             their tokenizers differ"
        );
    }
    Ok(())
}
