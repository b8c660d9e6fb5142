//! One answer: prompt to tokens, tokens to text, and the figures afterwards.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::{Context, bail};
use chaski::{
    Model, ModelOptions, Residence, Session, SessionOptions,
    backend::GpuLayers,
    generate::{FinishReason, GenerateOptions, Generation},
    os,
    sampler::{LogProb, Sampler, SamplerOptions},
};
use chaski_models::{
    TokenId,
    chat::{ChatTemplate, Message, Moment, RenderOptions},
    tokenizer::{Encoded, Specials, TextStart, Tokenizer},
};
use chaski_quant::scalar::attention::KvType;
use serde::Serialize;

use super::{
    args::{GpuArgs, HostArgs, KvArg, SamplingArgs, SessionArgs},
    conversation::Turn,
    interrupt, out, written,
};

/// A model that can talk.
pub(crate) struct Talker {
    pub(crate) model: Arc<Model>,
    pub(crate) session: Session,
    pub(crate) sampler: Sampler,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Whether prompts are texts to continue; else messages to answer.
    raw: bool,
    end_ids: Vec<TokenId>,
}

/// What of a text has no token.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    n_dropped: usize,
    first_dropped: Option<char>,
    n_unknown: usize,
    first_unknown: Option<char>,
}

impl Dropped {
    /// Counts what a text lost.
    pub(crate) fn add(&mut self, encoded: &Encoded) {
        self.n_dropped += encoded.n_dropped;
        self.first_dropped = self.first_dropped.or(encoded.first_dropped);
        self.n_unknown += encoded.n_unknown;
        self.first_unknown = self.first_unknown.or(encoded.first_unknown);
    }

    /// Tells the user, if there is something to tell.
    pub(crate) fn tell(&self) {
        for (n, first, what) in [
            (self.n_dropped, self.first_dropped, "left out"),
            (self.n_unknown, self.first_unknown, "made its unknown token"),
        ] {
            let Some(first) = first else { continue };
            out::note(format_args!(
                "note: the model has no token for some characters of the text, so it does not see them: \
                 {n} {what}, the first is U+{:04X} '{}'",
                u32::from(first),
                first.escape_debug()
            ));
        }
    }
}

/// A token's text, as far as it is one.
fn token_text(tokenizer: &Tokenizer, id: TokenId) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// The tokens of a text; what it lost is told.
fn told(encoded: Encoded) -> Vec<TokenId> {
    let mut dropped = Dropped::default();
    dropped.add(&encoded);
    dropped.tell();
    encoded.ids
}

/// Figures of an answer.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Tokens of the prompt.
    pub(crate) n_prompt: usize,
    /// Of which the session knew already.
    pub(crate) n_cached: usize,
    /// Seconds spent on the others.
    pub(crate) prompt_s: f64,
    /// Tokens generated.
    pub(crate) n_generated: usize,
    /// Seconds spent on them.
    pub(crate) generate_s: f64,
    /// Seconds from the start of the prompt to the first token.
    pub(crate) first_token_s: f64,
}

/// A token as `run --json` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TokenRecord {
    pub(crate) id: TokenId,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logprob: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) top: Vec<LikelyToken>,
}

/// One of the likeliest tokens.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LikelyToken {
    pub(crate) id: TokenId,
    /// What it would have added by itself; of a token that is no whole character, `\u{fffd}`.
    pub(crate) text: String,
    pub(crate) logprob: f64,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenRecord>,
    pub(crate) finish: FinishReason,
    pub(crate) figures: Figures,
}

pub(crate) const fn kv_type(kv: KvArg) -> KvType {
    match kv {
        KvArg::F32 => KvType::F32,
        KvArg::F16 => KvType::F16,
        KvArg::Q8 => KvType::Q8,
    }
}

/// Tells of more threads than processors: they take turns, and wait for each other.
pub(crate) fn tell_threads(threads: Option<usize>) {
    let cpus = os::n_cpus();
    if let Some(threads) = threads.filter(|&threads| threads > cpus) {
        out::note(format_args!(
            "note: -t {threads} is more than the {cpus} processors that this process may use: slower, \
             not faster"
        ));
    }
}

/// The library's options for a session.
pub(crate) fn session_options(args: &SessionArgs, gpu: &GpuArgs) -> SessionOptions {
    tell_threads(args.threads);
    SessionOptions {
        gpu_layers: gpu.gpu_layers,
        context_len: args.ctx_size,
        kv_type: kv_type(args.kv),
        ubatch: args.ubatch_size,
        threads: args.threads,
        ..SessionOptions::default()
    }
}

/// Tells where the model's layers are: what `auto` chose always, the rest with `--verbose`.
pub(crate) fn tell_placement(session: &Session, asked: GpuLayers) {
    session.notes().iter().for_each(out::note);
    let Some(device) = session.device() else {
        return;
    };
    let bytes = &device.bytes;
    let line = format!(
        "{}: {} ({} of weights, {} of keys and values, {} of buffers; {} were free)",
        device.name,
        session.placement(),
        out::bytes(bytes.weights),
        out::bytes(bytes.kv_cache),
        out::bytes(bytes.buffers),
        out::bytes(device.free),
    );
    match asked {
        GpuLayers::Auto => out::note(line),
        _ => out::detail(line),
    }
    if device.n_devices > 1 {
        out::note(format_args!(
            "note: one of {} GPUs is used, {}; CUDA_VISIBLE_DEVICES chooses another",
            device.n_devices, device.name
        ));
    }
    let seconds = device.upload.as_secs_f64();
    out::detail(format_args!(
        "copied to the GPU in {:.1} ms, {:.1} GB/s",
        seconds * 1e3,
        bytes.weights as f64 / seconds.max(1e-9) / 1e9
    ));
}

/// The library's options for a model.
pub(crate) fn model_options(args: &HostArgs) -> ModelOptions {
    let residence = match (args.mlock, args.hugepages) {
        (true, _) => Residence::Locked,
        (_, true) => Residence::HugePages,
        _ => Residence::Mapped,
    };
    ModelOptions {
        residence,
        ..ModelOptions::default()
    }
}

/// The processors to bind threads to.
pub(crate) fn cpus(args: &HostArgs) -> Vec<usize> {
    args.cpu_list
        .as_ref()
        .map_or_else(Vec::new, |l| l.0.clone())
}

/// Flags over the model's own defaults over llama.cpp's.
fn sampler_options(args: &SamplingArgs, model: &Model) -> SamplerOptions {
    let own = &model.metadata().generation;
    let d = SamplerOptions::default();
    // A model that says "do not sample" is greedy unless a flag asks for a temperature.
    let own_temperature = if own.do_sample == Some(false) {
        Some(0.0)
    } else {
        own.temperature
    };
    SamplerOptions {
        temperature: args.temp.or(own_temperature).unwrap_or(d.temperature),
        top_k: args
            .top_k
            .or(own.top_k.map(|k| k as usize))
            .unwrap_or(d.top_k),
        top_p: args.top_p.or(own.top_p).unwrap_or(d.top_p),
        min_p: args.min_p.or(own.min_p).unwrap_or(d.min_p),
        repeat_penalty: args
            .repeat_penalty
            .or(own.repetition_penalty)
            .unwrap_or(d.repeat_penalty),
        repeat_last_n: args.repeat_last_n,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        seed: args.seed.unwrap_or_else(random_seed),
    }
}

/// Another number each time, short enough to be typed.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 32
}

/// For templates that write the date: UTC, since the system's time zone is nothing a file tells.
fn now() -> Moment {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Moment {
        unix_seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        utc_offset_seconds: 0,
    }
}

/// Says so where `option` asks for more positions than a model was made for.
pub(crate) fn tell_beyond(model: &Model, option: &str, positions: usize) {
    let trained = model.config().max_seq_len;
    if positions > trained {
        out::note(format_args!(
            "note: {option} {positions} is more than the {trained} positions that the model was made for: \
             what comes after those may be nonsense"
        ));
    }
}

impl Talker {
    /// Opens a model with its tokenizer and, unless its texts are `raw`, its template.
    pub(crate) fn open(
        path: &std::path::Path,
        session: &SessionArgs,
        gpu: &GpuArgs,
        host: &HostArgs,
        sampling: &SamplingArgs,
        raw: bool,
    ) -> anyhow::Result<Self> {
        let model = Arc::new(Model::open(path, &model_options(host))?);
        if let Some(asked) = session.ctx_size {
            tell_beyond(&model, "-c", asked);
        }
        let loaded = model.tokenizer()?;
        for note in &loaded.notes {
            out::note(note);
        }
        let tokenizer = loaded.tokenizer;
        let options = sampler_options(sampling, &model);
        out::detail(format_args!(
            "temperature {}, top-k {}, top-p {}, min-p {}, repeat penalty {}, seed {}",
            options.temperature,
            options.top_k,
            options.top_p,
            options.min_p,
            options.repeat_penalty,
            options.seed
        ));
        let sampler = Sampler::new(options, model.config().vocab_size)?;
        let template = match raw {
            true => None,
            false => model
                .chat_template(&tokenizer)
                .context("the model's chat template cannot be used; --raw goes without it")?,
        };
        let options = SessionOptions {
            cpus: cpus(host),
            ..session_options(session, gpu)
        };
        let session = Session::new(&model, &options)?;
        tell_placement(&session, gpu.gpu_layers);
        let end_ids = model.metadata().end_ids();
        Ok(Self {
            model,
            session,
            sampler,
            tokenizer,
            template,
            raw,
            end_ids,
        })
    }

    /// The tokens of a raw text, with what the tokenizer puts before it.
    pub(crate) fn encode_raw(&self, text: &str) -> anyhow::Result<Vec<TokenId>> {
        let mut tokens: Vec<TokenId> = self.tokenizer.bos().into_iter().collect();
        tokens.extend(told(self.tokenizer.encode_counted(text, Specials::AsText)?));
        Ok(tokens)
    }

    /// The tokens of a conversation that the model is to continue.
    ///
    /// What users and the system wrote is text, even where it spells a special token.
    pub(crate) fn encode_chat(&self, turns: &[Turn]) -> anyhow::Result<Vec<TokenId>> {
        let Some(template) = &self.template else {
            bail!("the model has no chat template: use --raw to continue a text");
        };
        let options = RenderOptions {
            add_generation_prompt: true,
            now: Some(now()),
            ..RenderOptions::default()
        };
        let render = |contents: &[&str]| {
            let messages: Vec<Message> = turns
                .iter()
                .zip(contents)
                .map(|(t, &content)| Message::new(&t.role, content))
                .collect();
            template.render(&messages, &options).context(
                "the model's chat template refused the conversation; --raw goes without it",
            )
        };
        let contents: Vec<&str> = turns.iter().map(|t| &t.content[..]).collect();
        let text = render(&contents)?;
        let spells = |content: &&str| {
            let mut specials = self.tokenizer.specials();
            specials.any(|(_, special)| content.contains(special))
        };
        if contents.iter().any(spells) {
            out::note("note: the conversation spells a special token; it is sent as plain text");
        }
        let source = self.model.metadata().chat_template.as_deref();
        let written = written::ranges(
            &text,
            &contents,
            source.unwrap_or_default(),
            &self.tokenizer,
            |marked| {
                let marked: Vec<&str> = marked.iter().map(String::as_str).collect();
                render(&marked)
            },
        )?;
        let encoded = self.tokenizer.encode_rendered(&text, &written)?;
        Ok(told(encoded))
    }

    /// Whether there is a template to chat with.
    pub(crate) const fn can_chat(&self) -> bool {
        self.template.is_some()
    }

    /// Reads `prompt` and answers; `show` gets the text piece by piece.
    ///
    /// Ctrl-C ends the answer, not the program.
    pub(crate) fn answer(
        &mut self,
        prompt: &[TokenId],
        max_tokens: Option<usize>,
        stops: &[String],
        logprobs: Option<usize>,
        mut show: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Answer> {
        interrupt::reset();
        self.session.set_cancel(Some(interrupt::flag()));
        let begin = Instant::now();
        let n_cached = self.session.set_text(prompt)?;
        let prompt_s = begin.elapsed().as_secs_f64();
        self.sampler.clear();
        prompt.iter().for_each(|&t| self.sampler.accept(t));
        let options = GenerateOptions {
            max_tokens,
            end_ids: self.end_ids.clone(),
            stops: stops.to_vec(),
            logprobs,
            start: if self.raw {
                TextStart::Continued
            } else {
                TextStart::Beginning
            },
            cancel: Some(interrupt::flag()),
        };
        let mut generation = Generation::new(
            &mut self.session,
            &mut self.sampler,
            &self.tokenizer,
            options,
        )?;
        let (mut text, mut tokens, mut first) = (String::new(), Vec::new(), None);
        for piece in generation.by_ref() {
            let piece = piece?;
            first.get_or_insert_with(|| begin.elapsed().as_secs_f64());
            show(&piece.text)?;
            text += &piece.text;
            if let Some(id) = piece.id {
                let likely = |top: Vec<LogProb>| {
                    let token = |of: LogProb| LikelyToken {
                        id: of.id,
                        text: token_text(&self.tokenizer, of.id),
                        logprob: of.logprob,
                    };
                    top.into_iter().map(token).collect()
                };
                let (own, top) = piece.logprobs.map_or((None, Vec::new()), |(own, top)| {
                    (Some(own.logprob), likely(top))
                });
                tokens.push(TokenRecord {
                    id,
                    text: piece.text,
                    logprob: own,
                    top,
                });
            }
        }
        let timings = generation.timings();
        let finish = generation.finish_reason().unwrap_or(FinishReason::End);
        let figures = Figures {
            n_prompt: prompt.len(),
            n_cached,
            prompt_s,
            n_generated: timings.n_generated,
            generate_s: timings.generate.as_secs_f64(),
            first_token_s: first.unwrap_or(prompt_s),
        };
        Ok(Answer {
            text,
            tokens,
            finish,
            figures,
        })
    }
}

impl Figures {
    /// One line about the answer, and the memory of the process.
    pub(crate) fn line(&self, finish: FinishReason) -> String {
        let rate = |n: usize, s: f64| if s > 0.0 { n as f64 / s } else { 0.0 };
        let read = self.n_prompt - self.n_cached;
        let mut line = format!("prompt {} tokens", self.n_prompt);
        if self.n_cached > 0 {
            line += &format!(" ({} known)", self.n_cached);
        }
        line += &format!(
            ", {:.1} tokens/s | answer {} tokens, {:.1} tokens/s | first token after {:.2} s",
            rate(read, self.prompt_s),
            self.n_generated,
            rate(self.n_generated, self.generate_s),
            self.first_token_s
        );
        if let Some(m) = os::memory() {
            line += &format!(
                " | memory {} ({} of it mapped files)",
                out::bytes(m.resident),
                out::bytes(m.file)
            );
        }
        match finish {
            FinishReason::Length => line += " | ended at the token limit (-n)",
            FinishReason::Context => line += " | ended because the context is full (-c)",
            FinishReason::Cancelled => line += " | stopped by Ctrl-C",
            FinishReason::Stop => line += " | ended at a stop text (--stop)",
            FinishReason::End => {}
        }
        line
    }
}
