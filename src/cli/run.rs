//! `chaski run`.

use std::io::{self, IsTerminal};

use anyhow::{Context, bail};
use chaski::generate::FinishReason;
use serde::Serialize;

use super::{
    answer::{Answer, Figures, Talker, TokenRecord},
    args::RunArgs,
    chat,
    conversation::Conversation,
    interrupt, out, resolve,
    text::{self, MAX_PROMPT_BYTES},
};

/// The document that `run --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    model: String,
    text: &'a str,
    finish_reason: FinishReason,
    seed: u64,
    prompt_tokens: usize,
    token_ids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<&'a [TokenRecord]>,
    timings: Figures,
}

/// Answers a prompt, or chats.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let prompt = prompt(args)?;
    if prompt.is_none() && (args.json || args.raw) {
        bail!("there is no prompt: give one as an argument, with -f, or on standard input");
    }
    let path = resolve::resolve(&args.model.model, args.model.quant)?;
    let mut talker = Talker::open(&path, &args.session, &args.host, &args.sampling, args.raw)?;
    // A Ctrl-C during the conversion or while the model was opened; an answer forgets older ones.
    interrupt::follow()?;
    let Some(prompt) = prompt else {
        return chat::chat(&mut talker, args);
    };
    let tokens = if args.raw {
        talker.encode_raw(&prompt)?
    } else {
        let mut conversation = Conversation::new(args.system.as_deref());
        conversation.push("user", &prompt);
        talker.encode_chat(&conversation.turns)?
    };
    if tokens.is_empty() {
        bail!("the prompt is empty");
    }
    let mut ends_line = true;
    let answer = talker.answer(&tokens, args.predict, &args.stop, args.logprobs, |piece| {
        if !args.json && !piece.is_empty() {
            ends_line = piece.ends_with('\n');
            out::print_answer(piece)?;
        }
        Ok(())
    })?;
    if args.json {
        print_json(&talker, args, &answer)?;
    } else if !ends_line {
        out::print("\n")?;
    }
    out::note(format_args!("[{}]", answer.figures.line(answer.finish)));
    if answer.finish == FinishReason::Cancelled {
        bail!(interrupt::Interrupted);
    }
    if args.sampling.seed.is_none() && talker.sampler.options().temperature > 0.0 {
        out::note(format_args!("[seed {}]", talker.sampler.options().seed));
    }
    Ok(())
}

fn print_json(talker: &Talker, args: &RunArgs, answer: &Answer) -> anyhow::Result<()> {
    let document = Document {
        schema: 1,
        model: talker.model.path().display().to_string(),
        text: &answer.text,
        finish_reason: answer.finish,
        seed: talker.sampler.options().seed,
        prompt_tokens: answer.figures.n_prompt,
        token_ids: answer.tokens.iter().map(|t| t.id.0).collect(),
        tokens: args.logprobs.is_some().then_some(&answer.tokens[..]),
        timings: answer.figures,
    };
    Ok(out::print_json(&document)?)
}

/// The prompt from the argument, a file or standard input; `None` on a terminal.
fn prompt(args: &RunArgs) -> anyhow::Result<Option<String>> {
    if let Some(prompt) = &args.prompt {
        return Ok(Some(prompt.clone()));
    }
    if let Some(path) = &args.file {
        let named = || format!("the prompt file {} cannot be read", path.display());
        return text::read_file(path, MAX_PROMPT_BYTES)
            .with_context(named)
            .map(Some);
    }
    if io::stdin().is_terminal() {
        return Ok(None);
    }
    let text = text::read(io::stdin().lock(), MAX_PROMPT_BYTES)
        .context("the prompt on standard input cannot be read")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    if text.trim().is_empty() {
        bail!("there is no prompt: standard input is empty; give one as an argument or with -f");
    }
    Ok(Some(text.to_owned()))
}
