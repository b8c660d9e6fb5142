//! The chat on a terminal.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use rustyline::{DefaultEditor, error::ReadlineError};

use super::{
    answer::{Figures, Talker},
    args::RunArgs,
    cache,
    conversation::{Conversation, HELP, Line},
    interrupt, out,
    text::{self, MAX_PROMPT_BYTES},
};

/// Reads lines and answers until the user leaves.
pub(crate) fn chat(talker: &mut Talker, args: &RunArgs) -> anyhow::Result<()> {
    if !talker.can_chat() {
        bail!("the model has no chat template: give a prompt and --raw to continue a text");
    }
    let mut editor = DefaultEditor::new().context("the terminal cannot be read")?;
    let history = cache::dir().ok().map(|dir| dir.join("history"));
    if let Some(file) = &history {
        // The first chat has none.
        let _ = editor.load_history(file);
    }
    out::note("/help lists the commands, Ctrl-D leaves");
    let mut chat = Chat {
        talker,
        args,
        conversation: Conversation::new(args.system.as_deref()),
        total: Figures::default(),
        used: 0,
    };
    while let Some(line) = read_line(&mut editor)? {
        match chat.follow(Line::parse(&line)) {
            Ok(true) => {}
            Ok(false) => break,
            // What goes wrong with one message ends that message, not the chat.
            Err(e) => out::error_line(format_args!("{e:#}")),
        }
    }
    if let Some(file) = &history
        && let Some(folder) = file.parent()
        && let Err(e) = fs::create_dir_all(folder)
            .map_err(ReadlineError::from)
            .and_then(|()| editor.save_history(file))
    {
        out::detail(format_args!(
            "the history was not saved in {}: {e}",
            file.display()
        ));
    }
    Ok(())
}

/// A line, joined with those that follow a `\` at its end; `None`: leave.
fn read_line(editor: &mut DefaultEditor) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { "> " } else { ". " };
        interrupt::set_idle(true);
        let read = editor.readline(prompt);
        interrupt::set_idle(false);
        match read {
            Ok(line) => match line.strip_suffix('\\') {
                Some(start) => {
                    text += start;
                    text.push('\n');
                }
                None => {
                    text += &line;
                    if !text.trim().is_empty() {
                        editor
                            .add_history_entry(&text)
                            .context("the history is full")?;
                    }
                    return Ok(Some(text));
                }
            },
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(None),
            Err(e) => return Err(e).context("the terminal cannot be read"),
        }
    }
}

struct Chat<'a> {
    talker: &'a mut Talker,
    args: &'a RunArgs,
    conversation: Conversation,
    total: Figures,
    /// Positions of the context that the conversation takes.
    used: usize,
}

impl Chat<'_> {
    /// Does what a line asks for; `false`: leave.
    fn follow(&mut self, line: Line) -> anyhow::Result<bool> {
        match line {
            Line::Nothing => {}
            Line::Exit => return Ok(false),
            Line::Help => out::error_line(HELP),
            Line::Wrong(why) => out::error_line(why),
            Line::Clear => {
                self.conversation.clear();
                (self.total, self.used) = (Figures::default(), 0);
                out::error_line("forgotten");
            }
            Line::Message(text) => self.message(&text)?,
            Line::Read(file) => {
                let text = text::read_file(Path::new(&file), MAX_PROMPT_BYTES)
                    .with_context(|| format!("{file} cannot be read"))?;
                self.message(&text)?;
            }
            Line::Regen => {
                let kept = self.conversation.clone();
                if !self.conversation.drop_answer() {
                    self.conversation = kept;
                    bail!("there is no message to answer again");
                }
                if let Err(e) = self.respond() {
                    self.conversation = kept;
                    return Err(e);
                }
            }
            Line::Save { file, replace } => {
                self.conversation.save(Path::new(&file), replace)?;
                out::error_line(format_args!("saved {}", self.messages()));
            }
            Line::Load(file) => {
                self.conversation = Conversation::load(Path::new(&file))?;
                out::error_line(format_args!("loaded {}", self.messages()));
            }
            Line::Stats => self.stats(),
        }
        Ok(true)
    }

    fn message(&mut self, text: &str) -> anyhow::Result<()> {
        self.conversation.push("user", text);
        let answered = self.respond();
        if answered.is_err() {
            self.conversation.turns.pop();
        }
        answered
    }

    fn respond(&mut self) -> anyhow::Result<()> {
        let tokens = self.talker.encode_chat(&self.conversation.turns)?;
        let mut ends_line = true;
        let answer =
            self.talker
                .answer(&tokens, self.args.predict, &self.args.stop, None, |piece| {
                    if !piece.is_empty() {
                        ends_line = piece.ends_with('\n');
                        out::print_answer(piece)?;
                    }
                    Ok(())
                })?;
        if !ends_line {
            out::print("\n")?;
        }
        self.conversation.push("assistant", &answer.text);
        self.used = self.talker.session.tokens().len();
        let (total, f) = (&mut self.total, &answer.figures);
        total.n_prompt += f.n_prompt - f.n_cached;
        total.prompt_s += f.prompt_s;
        total.n_generated += f.n_generated;
        total.generate_s += f.generate_s;
        total.first_token_s = f.first_token_s;
        out::note(format_args!("[{}]", f.line(answer.finish)));
        Ok(())
    }

    fn messages(&self) -> String {
        match self.conversation.turns.len() {
            1 => "1 message".to_owned(),
            n => format!("{n} messages"),
        }
    }

    fn stats(&self) {
        let session = &self.talker.session;
        let used = self.used;
        out::error_line(format_args!(
            "{}, {used} of {} positions used, seed {}",
            self.messages(),
            session.context_len(),
            self.talker.sampler.options().seed
        ));
        out::error_line(self.total.line(chaski::generate::FinishReason::End));
    }
}
