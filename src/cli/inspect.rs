//! `chaski inspect`.

use std::collections::BTreeMap;

use anyhow::Context;
use chaski::{
    certify::{self, Certified},
    weights::Weights,
};
use chaski_convert::source::{self, Source, SourceTensor};
use chaski_models::{
    Config, ModelMetadata, Role, certificate::Figure, self_test::SELF_TEST, tensors,
};
use chaski_quant::{
    QuantType,
    container::{Container, TensorKind},
};
use serde_json::{Value, json};

use super::{
    args::InspectArgs,
    out,
    resolve::{self, Kind},
};

/// Shows what a file holds, or what is known of a source before it is converted.
pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    if resolve::kind(&args.file)? == Kind::Source {
        return inspect_source(args);
    }
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
            "bits_per_weight": bits_per_weight(&weights),
            "metadata": serde_json::to_value(&metadata)?,
            "sections": sections,
            "tensors": tensors,
        });
        return Ok(out::print_json(&document)?);
    }
    out::print(&text(args, &metadata, &weights))?;
    if args.tensors {
        let columns = ["name", "type", "shape", "bytes", "offset"];
        out::print(&format!("\n{}", tensor_table(&columns, &tensors)))?;
    }
    Ok(())
}

/// As conversions report it: of all tensors, without the padding between them.
fn bits_per_weight(weights: &Weights) -> f64 {
    8.0 * weights.bytes() as f64 / weights.n_params() as f64
}

/// The tensors, a line each.
fn tensor_table(columns: &[&str], tensors: &[Value]) -> String {
    let head = columns
        .iter()
        .map(|&c| if c == "name" { "tensor" } else { c });
    let mut rows = vec![head.map(str::to_owned).collect()];
    rows.extend(tensors.iter().map(|t| {
        let cell = |name: &&str| match &t[*name] {
            Value::String(s) => s.clone(),
            v => v.to_string(),
        };
        columns.iter().map(cell).collect()
    }));
    out::table(&rows)
}

/// Shows a checkpoint folder or a GGUF file.
fn inspect_source(args: &InspectArgs) -> anyhow::Result<()> {
    let source = source::open(&args.file)?;
    let tensors: Vec<Value> = source.tensors().iter().map(source_tensor).collect();
    let n_weights = |t: &SourceTensor| t.rows as u64 * t.cols as u64;
    let n: u64 = source.tensors().iter().map(n_weights).sum();
    let weight_bytes: u64 = source.tensors().iter().map(|t| t.bytes).sum();
    let files = source.files();
    let bytes: u64 = files.iter().map(|f| f.len).sum();
    let bits = 8.0 * weight_bytes as f64 / n.max(1) as f64;
    if args.json {
        let document = json!({
            "schema": 1,
            "file": args.file.display().to_string(),
            "kind": source.kind(),
            "files": files.len(),
            "bytes": bytes,
            "n_params": n,
            "weight_bytes": weight_bytes,
            "bits_per_weight": bits,
            "config": serde_json::to_value(source.config())?,
            "chat_template": source.chat_template(),
            "notes": source.notes(),
            "tensors": tensors,
        });
        return Ok(out::print_json(&document)?);
    }
    let mut rows = vec![
        ("source", format!("{}", args.file.display())),
        (
            "kind",
            format!(
                "{}, not converted yet: `chaski convert` makes a .chaski file of it",
                source.kind()
            ),
        ),
        (
            "size",
            format!(
                "{} in {} file{}",
                out::bytes(bytes),
                files.len(),
                if files.len() == 1 { "" } else { "s" }
            ),
        ),
        (
            "weights",
            format!("{n}, {bits:.3} bits each, {}", out::bytes(weight_bytes)),
        ),
        ("types", types(&*source)),
    ];
    rows.extend(config_rows(source.config()));
    rows.push((
        "chat template",
        yes_or_none(source.chat_template().is_some()),
    ));
    rows.extend(source.notes().iter().map(|note| ("note", note.clone())));
    out::print(&lines(&rows))?;
    if args.tensors {
        let columns = ["name", "type", "shape", "bytes"];
        out::print(&format!("\n{}", tensor_table(&columns, &tensors)))?;
    }
    Ok(())
}

/// The element types of a source and how many tensors have each.
fn types(source: &dyn Source) -> String {
    let mut n_of = std::collections::BTreeMap::new();
    for t in source.tensors() {
        *n_of.entry(t.dtype.as_str()).or_insert(0) += 1;
    }
    let each: Vec<String> = n_of
        .iter()
        .map(|(dtype, n)| format!("{n} {dtype}"))
        .collect();
    each.join(", ")
}

fn source_tensor(t: &SourceTensor) -> Value {
    let shape = if t.vector {
        t.cols.to_string()
    } else {
        format!("{} x {}", t.rows, t.cols)
    };
    json!({"name": t.name, "type": t.dtype, "shape": shape, "bytes": t.bytes})
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

fn yes_or_none(yes: bool) -> String {
    if yes { "yes" } else { "none" }.to_owned()
}

/// Names on the left, values on the right.
fn lines(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    let line =
        |(name, value): &(&str, String)| format!("{name:<width$}  {}\n", out::escaped(value, ""));
    rows.iter().map(line).collect()
}

/// What the model is.
fn config_rows(c: &Config) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("architecture", c.arch.to_string()),
        (
            "layers",
            format!(
                "{} of width {}, feed-forward {}",
                c.n_layers, c.dim, c.ffn_dim
            ),
        ),
        (
            "attention",
            format!(
                "{} heads of {}, {} KV heads",
                c.n_heads, c.head_dim, c.n_kv_heads
            ),
        ),
        ("vocabulary", c.vocab_size.to_string()),
        ("context", format!("{} positions", c.max_seq_len)),
    ];
    let scaling = serde_json::to_string(&c.rope_scaling).unwrap_or_default();
    rows.push(("rope", format!("theta {}, scaling {scaling}", c.rope_theta)));
    if let Some(window) = c.sliding_window {
        rows.push(("sliding window", window.to_string()));
    }
    let output = if c.tied_embeddings {
        "the embeddings"
    } else {
        "its own"
    };
    rows.push(("output matrix", output.to_owned()));
    rows
}

/// What the file says of its quality.
fn certificate_rows(weights: &Weights, m: &ModelMetadata) -> Vec<(&'static str, String)> {
    let certificate = match certify::read(weights.container(), m) {
        Certified::Yes(certificate) => certificate,
        Certified::No => return vec![("certificate", "none".to_owned())],
        Certified::OfOthers => {
            let told = "of other tensors: they were exchanged after it was written";
            return vec![("certificate", told.to_owned())];
        }
        Certified::Unreadable(why) => return vec![("certificate", format!("unreadable: {why}"))],
    };
    let (text, reference) = (&certificate.text, &certificate.reference);
    let figure = |f: &Figure, unit: f64, digits: usize| {
        format!("{:.digits$} ± {:.digits$}", unit * f.value, unit * f.error)
    };
    let files: Vec<_> = reference
        .files
        .iter()
        .map(|f| format!("{} {}", f.name, &f.sha256))
        .collect();
    let mut rows = vec![
        (
            "certificate",
            format!(
                "on {} ({} bytes, SHA-256 {}), {} chunk{} of {}, {} positions, {} KV cache, by {}",
                text.name,
                text.bytes,
                text.sha256,
                text.chunks,
                if text.chunks == 1 { "" } else { "s" },
                text.chunk,
                certificate.positions,
                certificate.kv,
                certificate.measured_by,
            ),
        ),
        (
            "  against",
            format!("{} of {}", reference.main_type, files.join(", ")),
        ),
        ("  mean KLD", figure(&certificate.kl_divergence, 1.0, 6)),
        ("  same top", figure(&certificate.same_top, 100.0, 3) + " %"),
        ("  perplexity", figure(&certificate.perplexity, 1.0, 4)),
        ("  its ratio", figure(&certificate.perplexity_ratio, 1.0, 5)),
    ];
    for (role, kld) in &certificate.roles {
        rows.push(("  KLD of", format!("{role} alone: {}", figure(kld, 1.0, 6))));
    }
    rows
}

/// The types that a role's tensors have in the file: one, or each with its number.
fn types_of(role: Role, m: &ModelMetadata, weights: &Weights) -> String {
    let mut found: BTreeMap<QuantType, usize> = BTreeMap::new();
    let table = tensors::tensor_table(&m.config);
    for spec in table.iter().filter(|spec| spec.role == role) {
        let tensors = weights.container().tensors();
        if let Some(tensor) = tensors.iter().find(|t| t.name == spec.name)
            && let TensorKind::Matrix(layout) = tensor.kind
        {
            *found.entry(layout.qtype()).or_default() += 1;
        }
    }
    match found.len() {
        0 => QuantType::F32.to_string(),
        1 => found.keys().map(ToString::to_string).collect(),
        _ => {
            let each = found.iter().map(|(qtype, n)| format!("{qtype} ({n})"));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

fn text(args: &InspectArgs, m: &ModelMetadata, weights: &Weights) -> String {
    let n = weights.n_params();
    let bits = bits_per_weight(weights);
    let mut rows = vec![
        ("file", format!("{}", args.file.display())),
        ("size", out::bytes(weights.container().file_len())),
        (
            "weights",
            format!("{n}, {bits:.3} bits each, {}", out::bytes(weights.bytes())),
        ),
    ];
    rows.extend(config_rows(&m.config));
    rows.push(("chat template", yes_or_none(m.chat_template.is_some())));
    let recipe = &m.recipe;
    rows.push((
        "recipe",
        format!("{} version {}", recipe.name, recipe.version),
    ));
    rows.push(("converted by", m.provenance.converter.clone()));
    rows.push(("source", m.provenance.source.clone()));
    for file in &m.provenance.files {
        let (name, bytes) = (&file.name, file.bytes);
        rows.push((
            "source file",
            format!("{name}, {bytes} bytes, SHA-256 {}", file.sha256),
        ));
    }
    for (option, value) in &m.provenance.options {
        rows.push(("option", format!("{option} {value}")));
    }
    rows.push((
        "self-test",
        yes_or_none(m.extensions.contains_key(SELF_TEST)),
    ));
    rows.extend(certificate_rows(weights, m));
    rows.extend(m.provenance.notes.iter().map(|note| ("note", note.clone())));
    let mut text = lines(&rows);
    if !m.report.is_empty() {
        let mut table = vec![
            ["role", "type", "weights", "bytes", "error dB"]
                .map(String::from)
                .to_vec(),
        ];
        for (role, error) in &m.report {
            let qtype = types_of(*role, m, weights);
            let db = error.sqnr_db();
            table.push(vec![
                role.to_string(),
                qtype,
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
