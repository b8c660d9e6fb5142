//! `chaski run`.

use std::{
    io::{self, IsTerminal},
    path::Path,
};

use anyhow::{Context, bail};
use chaski::{generate::FinishReason, os};
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
    /// `None`: nothing was drawn.
    seed: Option<u64>,
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
    let mut talker = Talker::open(
        &path,
        &args.session,
        &args.gpu,
        &args.host,
        &args.sampling,
        args.raw,
    )?;
    // A Ctrl-C during the conversion or while the model was opened; an answer forgets older ones.
    interrupt::follow()?;
    let told = tell_unread_input(args);
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
    // Who writes to it may have been slower than the model.
    if !told {
        tell_unread_input(args);
    }
    if answer.finish == FinishReason::Cancelled {
        bail!(interrupt::Interrupted);
    }
    if args.sampling.seed.is_none() && talker.sampler.options().temperature > 0.0 {
        out::note(format_args!("[seed {}]", talker.sampler.options().seed));
    }
    Ok(())
}

fn print_json(talker: &Talker, args: &RunArgs, answer: &Answer) -> anyhow::Result<()> {
    let options = talker.sampler.options();
    let document = Document {
        schema: 1,
        model: talker.model.path().display().to_string(),
        text: &answer.text,
        finish_reason: answer.finish,
        seed: (options.temperature > 0.0).then_some(options.seed),
        prompt_tokens: answer.figures.n_prompt,
        token_ids: answer.tokens.iter().map(|t| t.id.0).collect(),
        tokens: args.logprobs.is_some().then_some(&answer.tokens[..]),
        timings: answer.figures,
    };
    Ok(out::print_json(&document)?)
}

/// The prompt: the argument, a file's text after it, or standard input; `None` on a terminal.
fn prompt(args: &RunArgs) -> anyhow::Result<Option<String>> {
    let file = match &args.file {
        Some(path) if path == Path::new("-") => Some(standard_input()?),
        Some(path) => {
            let named = || format!("the prompt file {} cannot be read", path.display());
            Some(text::read_file(path, MAX_PROMPT_BYTES).with_context(named)?)
        }
        None => None,
    };
    match (&args.prompt, file) {
        (Some(prompt), Some(text)) => Ok(Some(format!("{prompt}\n\n{text}"))),
        (Some(prompt), None) => Ok(Some(prompt.clone())),
        (None, Some(text)) => Ok(Some(text)),
        (None, None) if io::stdin().is_terminal() => Ok(None),
        (None, None) => {
            let text = standard_input()?;
            if text.trim().is_empty() {
                bail!(
                    "there is no prompt: standard input is empty; give one as an argument or with -f"
                );
            }
            Ok(Some(text))
        }
    }
}

/// All of standard input, without the end of its last line.
fn standard_input() -> anyhow::Result<String> {
    let mut text = text::read(io::stdin().lock(), MAX_PROMPT_BYTES)
        .context("the prompt on standard input cannot be read")?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Tells, once, of text on standard input that nobody reads: with a PROMPT it is read only if -f asks
/// for it, since a pipe that a script has open may never end. Whether it was told.
fn tell_unread_input(args: &RunArgs) -> bool {
    let is_unread = args.prompt.is_some() && args.file.is_none() && os::input_waits();
    if is_unread {
        out::note(
            "note: standard input is not read, since there is a PROMPT; -f - puts it after the PROMPT",
        );
    }
    is_unread
}
