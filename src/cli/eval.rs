//! `chaski eval`.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use anyhow::Context;
use chaski::{
    Model, ModelOptions, Session, SessionError, SessionOptions,
    eval::{Perplexity, perplexity},
};
use chaski_models::tokenizer::Specials;
use serde_json::json;

use super::{
    answer::{Dropped, kv_type, tell_threads},
    args::EvalArgs,
    interrupt, out, progress, resolve,
    text::{self, MAX_CORPUS_BYTES},
};

/// Logits of this many positions are kept at once.
const LOGIT_ROWS: usize = 32;

/// Measures perplexity.
pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    tell_threads(args.threads);
    let text = text::read_file(&args.text, MAX_CORPUS_BYTES)
        .with_context(|| format!("the text {} cannot be read", args.text.display()))?;
    let path = resolve::resolve(&args.model.model, args.model.quant)?;
    let model = Arc::new(Model::open(&path, &ModelOptions::default())?);
    let loaded = model.tokenizer()?;
    loaded.notes.iter().for_each(out::note);
    let tokenizer = loaded.tokenizer;
    let bos = tokenizer.bos();
    let mut tokens: Vec<_> = bos.into_iter().collect();
    let encoded = tokenizer.encode_counted(&text, Specials::AsText)?;
    let mut dropped = Dropped::default();
    dropped.add(&encoded);
    dropped.tell();
    tokens.extend(encoded.ids);
    let options = SessionOptions {
        context_len: Some(args.chunk.max(1)),
        kv_type: kv_type(args.kv),
        threads: args.threads,
        logit_rows: LOGIT_ROWS,
        ..SessionOptions::default()
    };
    let mut session = Session::new(&model, &options)?;
    session.set_cancel(Some(interrupt::flag()));
    let bar = progress::steps_bar(0, "chunks");
    let begin = Instant::now();
    let forward = |chunk: &[_], first, sink: &mut dyn FnMut(usize, &[f32])| {
        session.clear();
        session.extend_with(chunk, first, sink)
    };
    let step = |done: usize, of: usize, so_far: &Perplexity| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.suspend(|| out::note(format_args!("[{done}/{of}] {so_far}")));
        if interrupt::asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    interrupt::follow()?;
    let measured =
        perplexity::<SessionError>(&tokens, bos, args.chunk, args.chunks, forward, step)?;
    bar.finish_and_clear();
    interrupt::follow()?;
    let seconds = begin.elapsed().as_secs_f64();
    if args.json {
        let document = json!({
            "schema": 1,
            "model": path.display().to_string(),
            "text": args.text.display().to_string(),
            "chunk": args.chunk,
            "tokens": tokens.len(),
            "scored": measured.count,
            "ppl": measured.value(),
            "ppl_error": measured.error(),
            "mean_nll": measured.nll / measured.count as f64,
            "seconds": seconds,
        });
        return Ok(out::print_json(&document)?);
    }
    Ok(out::print_line(measured)?)
}
