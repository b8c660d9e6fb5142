//! A finished conversion, measured against its source.

use std::{num::NonZeroUsize, ops::ControlFlow, sync::Arc};

use chaski::{
    Model, ModelOptions, Session, SessionOptions,
    eval::{Chunks, Comparison, Report, compare},
};
use chaski_models::tokenizer::Specials;

use super::{interrupt, out, progress, resolve};

/// Tokens of a chunk; the last half of each is scored.
const CHUNK: usize = 512;
/// Chunks that are read: some thousand positions, within a tenth of what many more would tell.
const CHUNKS: usize = 16;
/// Logits of this many positions are kept at once.
const LOGIT_ROWS: usize = 32;

/// The fewest tokens of a text that something can be measured on.
pub(crate) const LEAST: usize = 4;

/// Measures the model `made` against its source on `text`.
///
/// The source is kept unquantised in the cache, as it is for `eval --against`.
pub(crate) fn measure(
    source: &str,
    made: Model,
    text: &str,
    threads: Option<NonZeroUsize>,
) -> anyhow::Result<Report> {
    let reference = resolve::resolve_unquantized(source)?;
    let reference = Model::open(&reference, &ModelOptions::default())?;
    let (model, reference) = (Arc::new(made), Arc::new(reference));
    let tokenizer = model.tokenizer()?.tokenizer;
    let bos = tokenizer.bos();
    let mut tokens: Vec<_> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(text, Specials::AsText)?);
    let chunk = CHUNK.min(tokens.len()).min(model.config().max_seq_len);
    let chunks = Chunks::new(&tokens, bos, chunk, Some(CHUNKS))?;
    if tokens.len() < CHUNK {
        out::note(format_args!(
            "note: a text of {} tokens tells little of a model: {} are read of a longer one",
            tokens.len(),
            CHUNKS * CHUNK
        ));
    }
    let options = SessionOptions {
        context_len: Some(chunk),
        threads: threads.map(NonZeroUsize::get),
        logit_rows: LOGIT_ROWS,
        ..SessionOptions::default()
    };
    let session = |model| -> anyhow::Result<Session> {
        let mut session = Session::new(model, &options)?;
        session.set_cancel(Some(interrupt::flag()));
        Ok(session)
    };
    let (mut session, mut reference) = (session(&model)?, session(&reference)?);
    let threads = NonZeroUsize::new(session.limits().threads).unwrap_or(NonZeroUsize::MIN);
    let bar = progress::steps_bar(chunks.n() as u64, "measuring");
    let step = |done: usize, _: &[Comparison]| {
        bar.set_position(done as u64);
        if interrupt::asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let models = std::slice::from_mut(&mut session);
    let compared = compare(&chunks, &mut reference, models, threads, step)?;
    bar.finish_and_clear();
    interrupt::follow()?;
    Ok(compared[0].report())
}

/// What was measured, in a line.
pub(crate) fn told(report: &Report) -> String {
    let (kld, same) = (
        report.kl_divergence.mean,
        report.token_probability.same_top.times(100.0),
    );
    format!(
        "measured on {} positions: mean KLD {:.5} +- {:.5}, same top token {:.2} %",
        report.positions, kld.value, kld.error, same.value
    )
}
