//! `chaski inspect`.

use anyhow::Context;
use chaski::weights::Weights;
use chaski_models::ModelMetadata;
use chaski_quant::container::{Container, TensorKind};
use serde_json::{Value, json};

use super::{args::InspectArgs, out};

/// Shows what a file holds.
pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let named = || format!("{} cannot be shown", args.file.display());
    let container = Container::open(&args.file).with_context(named)?;
    let metadata = ModelMetadata::from_json(container.metadata()).with_context(named)?;
    let tensors: Vec<Value> = container.tensors().iter().map(tensor).collect();
    let file_len = container.file_len();
    let sections: Vec<Value> = container
        .sections()
        .iter()
        .map(|s| json!({"kind": format!("{:?}", s.kind), "offset": s.offset, "bytes": s.len}))
        .collect();
    let weights = Weights::bind(container, &metadata.config)?;
    if args.json {
        let document = json!({
            "schema": 1,
            "file": args.file.display().to_string(),
            "bytes": file_len,
            "n_params": weights.n_params(),
            "weight_bytes": weights.bytes(),
            "bits_per_weight": 8.0 * weights.bytes() as f64 / weights.n_params() as f64,
            "metadata": serde_json::to_value(&metadata)?,
            "sections": sections,
            "tensors": tensors,
        });
        return Ok(out::print_json(&document)?);
    }
    out::print(&text(args, &metadata, &weights))?;
    if args.tensors {
        let mut rows = vec![
            ["tensor", "type", "shape", "bytes", "offset"]
                .map(String::from)
                .to_vec(),
        ];
        for t in &tensors {
            let cell = |name: &str| match &t[name] {
                Value::String(s) => s.clone(),
                v => v.to_string(),
            };
            rows.push(
                ["name", "type", "shape", "bytes", "offset"]
                    .map(cell)
                    .to_vec(),
            );
        }
        out::print(&format!("\n{}", out::table(&rows)))?;
    }
    Ok(())
}

fn tensor(t: &chaski_quant::container::TensorEntry) -> Value {
    let (qtype, shape) = match &t.kind {
        TensorKind::Matrix(l) => (l.qtype().name(), format!("{} x {}", l.rows(), l.cols())),
        TensorKind::Vector { len } => ("f32", len.to_string()),
    };
    json!({
        "name": t.name,
        "type": qtype,
        "shape": shape,
        "bytes": t.kind.bytes(),
        "offset": t.offset,
        "tile_stride": t.tile_stride,
        "xxh3": format!("{:016x}", t.xxh3),
    })
}

fn text(args: &InspectArgs, m: &ModelMetadata, weights: &Weights) -> String {
    let c = &m.config;
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    let n = weights.n_params();
    row("file", format!("{}", args.file.display()));
    row("size", out::bytes(weights.container().file_len()));
    row("weights", {
        let bits = 8.0 * weights.bytes() as f64 / n as f64;
        format!("{n}, {bits:.3} bits each, {}", out::bytes(weights.bytes()))
    });
    row("architecture", c.arch.to_string());
    row(
        "layers",
        format!(
            "{} of width {}, feed-forward {}",
            c.n_layers, c.dim, c.ffn_dim
        ),
    );
    row(
        "attention",
        format!(
            "{} heads of {}, {} KV heads",
            c.n_heads, c.head_dim, c.n_kv_heads
        ),
    );
    row("vocabulary", c.vocab_size.to_string());
    row("context", format!("{} positions", c.max_seq_len));
    let scaling = serde_json::to_string(&c.rope_scaling).unwrap_or_default();
    row("rope", format!("theta {}, scaling {scaling}", c.rope_theta));
    if let Some(window) = c.sliding_window {
        row("sliding window", window.to_string());
    }
    row(
        "output matrix",
        if c.tied_embeddings {
            "the embeddings"
        } else {
            "its own"
        }
        .to_owned(),
    );
    row(
        "chat template",
        if m.chat_template.is_some() {
            "yes"
        } else {
            "none"
        }
        .to_owned(),
    );
    row(
        "recipe",
        format!("{} version {}", m.recipe.name, m.recipe.version),
    );
    row("converted by", m.provenance.converter.clone());
    row("source", m.provenance.source.clone());
    for note in &m.provenance.notes {
        row("note", note.clone());
    }
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    let mut text: String = rows
        .into_iter()
        .map(|(name, value)| format!("{name:<width$}  {}\n", out::escaped(&value, "")))
        .collect();
    if !m.report.is_empty() {
        let mut table = vec![
            ["role", "type", "weights", "bytes", "error dB"]
                .map(String::from)
                .to_vec(),
        ];
        for (role, error) in &m.report {
            let qtype = m.recipe.types.get(role).map_or("f32", |t| t.name());
            let db = error.sqnr_db();
            table.push(vec![
                role.to_string(),
                qtype.to_owned(),
                error.n.to_string(),
                error.bytes.to_string(),
                if db.is_finite() {
                    format!("{db:.2}")
                } else {
                    "exact".to_owned()
                },
            ]);
        }
        text += &format!("\n{}", out::table(&table));
    }
    text
}
