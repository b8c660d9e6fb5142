//! The walk over the layers.

use std::{collections::BTreeMap, num::NonZeroUsize, ops::ControlFlow};

use chaski_models::{
    config::Config,
    tensors::{Role, tensor_name},
};

use super::{PROBE, Sensitivities};
use crate::{
    calibrate::{Calibration, CalibrationError, slice::Slice},
    error::ConvertError,
    inputs,
    mapping::{self, Mapped},
    pipeline::{Limits, go_on},
    progress::{Event, Progress},
    recipe::TypeOverride,
    runner::{LOGIT_ROWS, ModelRunner, RunnerError},
    source::Source,
};

/// Texts that are read, spread over the whole one: about as few tokens as were found to choose types as
/// good as those of more do (docs/quantiser.md).
const TEXTS: usize = 3;
/// Tokens of each.
const LEN: usize = 64;
/// Positions at the begin of each that are not compared: they have little to go by.
const SKIPPED: usize = 16;

/// Hidden states that are made embeddings of a layer at once, in numbers, if the layer's weights are not
/// more.
const GROUP: usize = 8 << 20;

/// Bytes of a logit with what is computed of it.
const LOGIT_BYTES: usize = 16;

/// The matrices of a layer that are quantised one after the other; gate and up need one type.
const UNITS: [&[Role]; 6] = [
    &[Role::AttnQ],
    &[Role::AttnK],
    &[Role::AttnV],
    &[Role::AttnOut],
    &[Role::FfnGate, Role::FfnUp],
    &[Role::FfnDown],
];

/// A matrix: its role, and its layer.
type Unit = (Role, Option<usize>);

/// Measures how much errors of each matrix of `source` matter, on some pieces of a text.
///
/// * `threads`: as of a conversion. The result does not depend on it.
/// * `progress` hears of [`Event::Measure`].
///
/// Memory: one layer's weights several times, the output matrix, and the hidden states of all variants of
/// the model, `4 * dim` bytes for each of a few hundred tokens and each matrix.
///
/// # Errors
///
/// The source cannot be read, the text cannot be used, or the model cannot be run.
pub fn measure(
    source: &dyn Source,
    calibration: &Calibration,
    threads: Option<NonZeroUsize>,
    runner: &mut dyn ModelRunner,
    progress: &dyn Progress,
) -> Result<Sensitivities, ConvertError> {
    let available = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let limits = Limits::new(threads.map_or_else(available, NonZeroUsize::get));
    let mapping = mapping::map(source)?;
    let texts = calibration.pieces(&inputs::tokenizer(source)?, TEXTS, LEN)?;
    let walk = Walk {
        source,
        config: &mapping.config,
        mapped: &mapping.tensors,
        limits,
        progress,
        lens: texts.iter().map(Vec::len).collect(),
        norm: vec![1.0; mapping.config.dim],
    };
    let states = inputs::embeddings(source, walk.mapped, walk.config, &texts.concat())?;
    walk.run(states, runner)
}

struct Walk<'a> {
    source: &'a dyn Source,
    config: &'a Config,
    mapped: &'a [Mapped],
    limits: Limits,
    progress: &'a dyn Progress,
    /// Tokens of each text.
    lens: Vec<usize>,
    /// A norm for layers whose hidden states nobody norms.
    norm: Vec<f32>,
}

/// What is to do, in multiplications, and what it takes.
struct Work {
    /// A layer on the states of all texts.
    layer: u64,
    /// The head of one row.
    row: u64,
    of: u64,
    /// Bytes.
    memory: u64,
}

impl Walk<'_> {
    fn run(
        &self,
        mut states: Vec<f32>,
        runner: &mut dyn ModelRunner,
    ) -> Result<Sensitivities, ConvertError> {
        let work = self.work();
        let mut done = 0;
        self.tell(&work, done)?;
        let mut variants: Vec<(Unit, Vec<f32>)> = Vec::new();
        for layer in 0..self.config.n_layers {
            let slice = self.slice(layer, &states);
            let mut new: Vec<(Unit, &[Role])> = Vec::new();
            if layer == 0 {
                // The embeddings, which are quantised where they enter the first layer.
                new.push(((Role::TokenEmbd, None), &[Role::TokenEmbd]));
            }
            new.extend(UNITS.map(|roles| ((roles[0], Some(layer)), roles)));
            let mut made = Vec::with_capacity(new.len());
            for (unit, roles) in new {
                let file = slice.file_as(self.limits, &in_probe(roles))?;
                made.push((unit, runner.run(file, &self.lens).map_err(failed)?));
                done += work.layer;
                self.tell(&work, done)?;
            }
            let before = variants.iter_mut().map(|(_, hidden)| hidden);
            let mut all: Vec<&mut Vec<f32>> = before.chain([&mut states]).collect();
            for group in all.chunks_mut(self.group()) {
                let hidden = group.iter().flat_map(|h| h.iter().copied());
                let hidden: Vec<f32> = hidden.collect();
                let file = self.slice(layer, &hidden).file(self.limits)?;
                drop(hidden);
                let lens = self.lens.repeat(group.len());
                let behind = runner.run(file, &lens).map_err(failed)?;
                let each = behind.len() / group.len();
                for (hidden, behind) in group.iter_mut().zip(behind.chunks_exact(each)) {
                    hidden.copy_from_slice(behind);
                }
                done += work.layer * group.len() as u64;
                self.tell(&work, done)?;
            }
            inputs::check_states(&states, || inputs::behind(layer, self.config))?;
            variants.extend(made);
        }
        self.compare(states, variants, done, &work, runner)
    }

    /// The divergences of the variants' logits.
    fn compare(
        &self,
        mut states: Vec<f32>,
        mut variants: Vec<(Unit, Vec<f32>)>,
        done: u64,
        work: &Work,
        runner: &mut dyn ModelRunner,
    ) -> Result<Sensitivities, ConvertError> {
        self.keep_compared(&mut states);
        for ((role, layer), hidden) in &mut variants {
            self.keep_compared(hidden);
            let name = tensor_name(*role, *layer);
            inputs::check_states(hidden, || format!("the head, with {name} in {PROBE}"))?;
        }
        let norm = inputs::tensor(self.mapped, Role::OutputNorm);
        let norm = inputs::rows(self.source, norm, 0..1)?;
        let head = Slice::head(self.source, self.config, self.mapped, &norm);
        let heads = vec![
            head.file(self.limits)?,
            head.file_as(self.limits, &in_probe(&[Role::TokenEmbd]))?,
        ];
        let output = ((Role::Output, None), (1, &states[..]));
        let all = variants
            .iter()
            .map(|(unit, hidden)| (*unit, (0, &hidden[..])));
        let (units, hidden): (Vec<Unit>, Vec<(usize, &[f32])>) = all.chain([output]).unzip();
        let mut told = Ok(());
        let mut progress = |rows: usize| match self.tell(work, done + rows as u64 * work.row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                told = Err(e);
                ControlFlow::Break(())
            }
        };
        let found = runner.divergences(heads, &states, &hidden, &mut progress);
        told?;
        let found = found.map_err(failed)?.ok_or(ConvertError::Cancelled)?;
        let mut divergences = BTreeMap::new();
        for (unit, kld) in units.into_iter().zip(found) {
            if !kld.is_finite() {
                let site = format!(
                    "the probabilities, with {} in {PROBE}",
                    tensor_name(unit.0, unit.1)
                );
                return Err(CalibrationError::NotFinite { site }.into());
            }
            // Rounding can make that of equal logits less than none.
            divergences.insert(unit, kld.max(0.0));
        }
        self.tell(work, work.of)?;
        Ok(Sensitivities {
            divergences,
            positions: states.len() / self.config.dim,
        })
    }

    fn slice<'b>(&'b self, layer: usize, hidden: &'b [f32]) -> Slice<'b> {
        Slice::new(
            self.source,
            self.config,
            self.mapped,
            layer,
            hidden,
            &self.norm,
        )
    }

    /// Leaves the rows whose logits are compared.
    fn keep_compared(&self, hidden: &mut Vec<f32>) {
        let (mut kept, mut row) = (0, 0);
        let dim = self.config.dim;
        for &len in &self.lens {
            let from = (row + SKIPPED.min(len)) * dim;
            let to = (row + len) * dim;
            hidden.copy_within(from..to, kept);
            kept += to - from;
            row += len;
        }
        hidden.truncate(kept);
        hidden.shrink_to_fit();
    }

    /// Variants that are run through a layer at once.
    fn group(&self) -> usize {
        let states = self.tokens() * self.config.dim;
        (GROUP.max(self.layer_weights() as usize) / states).max(1)
    }

    fn tokens(&self) -> usize {
        self.lens.iter().sum()
    }

    /// Weights of a layer's matrices.
    fn layer_weights(&self) -> u64 {
        let first = |m: &&Mapped| m.spec.layer == Some(0) && !m.spec.vector;
        let of_layer = self.mapped.iter().filter(first);
        of_layer.map(|m| (m.spec.rows * m.spec.cols) as u64).sum()
    }

    fn work(&self) -> Work {
        let c = self.config;
        let (tokens, n_layers) = (self.tokens() as u64, c.n_layers as u64);
        let n_units = UNITS.len() as u64 * n_layers + 1;
        let layer = self.layer_weights() * tokens;
        // All states and those of the units before go through a layer, and the new ones.
        let runs = n_layers + UNITS.len() as u64 * n_layers * (n_layers + 1) / 2 + n_layers;
        let compared: usize = self
            .lens
            .iter()
            .map(|len| len.saturating_sub(SKIPPED))
            .sum();
        let head = (c.vocab_size * c.dim) as u64;
        let states = 4 * tokens * c.dim as u64;
        let group = states * (self.group() as u64).min(n_units + 1);
        // As floats of 16 bits at least, and what is read and written of them.
        let in_walk = (n_units + 1) * states + 4 * group + 8 * self.layer_weights();
        // Two heads, in f32 and in the probe's type, with the last layer beside each.
        let in_head = (n_units + 1) * states
            + 5 * head
            + 8 * self.layer_weights()
            + (LOGIT_ROWS * LOGIT_BYTES * c.vocab_size) as u64;
        Work {
            layer,
            row: head,
            of: layer * runs + head * compared as u64 * (n_units + 1),
            memory: in_walk.max(in_head),
        }
    }

    fn tell(&self, work: &Work, done: u64) -> Result<(), ConvertError> {
        let (of, memory) = (work.of, work.memory);
        go_on(self.progress.event(Event::Measure { done, of, memory }))
    }
}

fn in_probe(roles: &[Role]) -> Vec<TypeOverride> {
    let in_probe = |&role: &Role| TypeOverride { role, qtype: PROBE };
    roles.iter().map(in_probe).collect()
}

fn failed(cause: RunnerError) -> ConvertError {
    CalibrationError::Runner(cause).into()
}
