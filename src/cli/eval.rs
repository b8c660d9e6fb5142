//! `chaski eval`.

mod against;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use chaski::{
    Model, ModelOptions, Session, SessionOptions,
    backend::GpuLayers,
    eval::{Chunks, Perplexity, perplexity},
};
use chaski_models::{
    TokenId,
    tokenizer::{Specials, Tokenizer},
};
use clap::{CommandFactory, error::ErrorKind};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{
    answer::{Dropped, kv_type, tell_beyond, tell_placement, tell_threads},
    args::{Args, EvalArgs, GpuArgs, KvArg},
    interrupt, out, progress, resolve,
    text::{self, MAX_CORPUS_BYTES},
};

/// Logits of this many positions are kept at once.
const LOGIT_ROWS: usize = 32;
/// Tokens of a chunk that a conversion measures, if the model takes as many.
pub(crate) const CERTIFY_CHUNK: usize = 512;
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
    if args.models.len() > 1 && args.against.is_none() {
        let says = "several MODELs are measured beside one reference: --against is missing";
        Args::command()
            .error(ErrorKind::MissingRequiredArgument, says)
            .exit();
    }
    tell_threads(args.threads);
    let text = read_text(&args.text)?;
    let reference = args.against.as_deref();
    let reference = reference.map(resolve::resolve_unquantized).transpose()?;
    let models = args
        .models
        .iter()
        .map(|model| Opened::new(resolve::resolve(model, args.quant)?, &text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let least = models.iter().min_by_key(|m| m.model.config().max_seq_len);
    if let Some(least) = least {
        tell_beyond(&least.model, "--chunk", args.chunk);
    }
    match reference {
        Some(reference) => {
            let reference = Opened::new(reference, &text)?;
            let document = against::run(args, &models, &reference, &text)?;
            document.map_or(Ok(()), |document| Ok(out::print_json(&document)?))
        }
        // There is one.
        None => models.iter().try_for_each(|model| run_alone(args, model)),
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
    name: &Path,
    text: &str,
    threads: Option<usize>,
) -> anyhow::Result<()> {
    let mut args = EvalArgs {
        models: vec![file.display().to_string()],
        quant: None,
        text: name.to_owned(),
        against: Some(against.to_owned()),
        per_layer: false,
        certify: true,
        round_activations: false,
        chunk: CERTIFY_CHUNK,
        chunks: Some(CERTIFY_CHUNKS),
        threads,
        kv: KvArg::F16,
        gpu: GpuArgs {
            gpu_layers: GpuLayers::NONE,
        },
        json: true,
    };
    let reference = Opened::new(resolve::resolve_unquantized(against)?, text)?;
    let model = Opened::new(file.to_owned(), text)?;
    args.chunk = args.chunk.min(model.model.config().max_seq_len);
    against::run(&args, &[model], &reference, text)?;
    Ok(())
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
