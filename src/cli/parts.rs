//! `chaski eval --per-layer`.

use std::ops::ControlFlow;

use chaski::{
    Model, SessionOptions,
    eval::{Chunks, Comparison, Part, Report, compare_parts},
};
use chaski_models::{Role, TensorSpec, tensor_table};
use serde_json::{Value, json};

use super::{interrupt, out, progress};

/// The figures of each part.
pub(crate) struct Parts {
    measured: Vec<(Part, u64, Report)>,
}

impl Parts {
    /// Measures every role of `model` beside `reference`, and with `layers` every layer.
    pub(crate) fn measure(
        chunks: &Chunks<'_>,
        reference: &Model,
        model: &Model,
        options: &SessionOptions,
        layers: bool,
    ) -> anyhow::Result<Self> {
        let balanced = model.is_balanced() || reference.is_balanced();
        if balanced {
            out::note(
                "note: channels were balanced when the model was calibrated, which moves strength \
                 between matrices: attention and feed-forward networks are measured as a whole, \
                 not role by role",
            );
        }
        let mut parts = Part::all(model.config(), balanced);
        parts.retain(|part| layers || !matches!(part, Part::Layer(_)));
        let bar = progress::steps_bar(0, "chunks of parts");
        let step = |done: usize, of: usize| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            if interrupt::asked() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let (reference, path) = (reference.path(), model.path());
        let measured = compare_parts(chunks, reference, path, &parts, options, step)?;
        bar.finish_and_clear();
        interrupt::follow()?;
        let figures = |(part, c): (Part, Comparison)| (part, bytes(model, part), c.report());
        Ok(Self {
            measured: measured.into_iter().map(figures).collect(),
        })
    }

    /// The figures by part.
    pub(crate) fn reports(&self) -> Vec<(Part, Report)> {
        self.measured
            .iter()
            .map(|&(part, _, report)| (part, report))
            .collect()
    }

    /// A list of documents.
    pub(crate) fn json(&self) -> Value {
        let part = |(part, bytes, report): &(Part, u64, Report)| json!({"part": part.to_string(), "bytes": bytes, "comparison": report});
        self.measured.iter().map(part).collect()
    }

    /// A table, with the whole model's figures as its last line.
    pub(crate) fn table(&self, whole: &Report) -> String {
        let head = [
            "only", "bytes", "mean KLD", "±", "of all", "same top", "ln ratio",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        let whole_kld = whole.kl_divergence.mean.value;
        let mut row = |name: String, bytes: String, report: &Report| {
            let kld = report.kl_divergence.mean;
            let share = match whole_kld > 0.0 {
                true => format!("{:.1} %", 100.0 * kld.value / whole_kld),
                false => String::new(),
            };
            rows.push(vec![
                name,
                bytes,
                format!("{:.6}", kld.value),
                format!("{:.6}", kld.error),
                share,
                format!("{:.2} %", 100.0 * report.token_probability.same_top.value),
                format!("{:.5}", report.perplexity.log_ratio.value),
            ]);
        };
        for (part, bytes, report) in &self.measured {
            row(part.to_string(), bytes.to_string(), report);
        }
        row("all".to_owned(), String::new(), whole);
        out::table(&rows)
    }
}

/// Bytes of a part's matrices in the model's file.
fn bytes(model: &Model, part: Part) -> u64 {
    let container = model.weights().container();
    let bytes = |spec: &TensorSpec| {
        // Gate stands for up.
        let role = match spec.role {
            Role::FfnUp => Role::FfnGate,
            role => role,
        };
        let tensor = container.tensors().iter().find(|t| t.name == spec.name)?;
        (!spec.vector && part.has(role, spec.layer)).then(|| tensor.kind.bytes() as u64)
    };
    tensor_table(model.config()).iter().filter_map(bytes).sum()
}
