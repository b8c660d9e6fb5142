//! `chaski verify`.

use anyhow::bail;
use chaski::weights::Weights;
use chaski_models::ModelMetadata;
use chaski_quant::container::Container;
use serde_json::json;

use super::{args::VerifyArgs, out, progress};

/// Checks every byte of some files; all are checked before the exit status tells.
pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let mut failed = 0;
    let mut results = Vec::new();
    for file in &args.files {
        let verdict = check(file);
        let causes: Vec<String> = match &verdict {
            Ok(_) => Vec::new(),
            Err(e) => e.chain().map(ToString::to_string).collect(),
        };
        failed += usize::from(verdict.is_err());
        let name = file.display().to_string();
        if args.json {
            results.push(json!({"file": name, "ok": verdict.is_ok(), "errors": causes}));
        } else {
            match verdict {
                Ok(bytes) => out::print_line(format_args!("{name}: ok, {}", out::bytes(bytes)))?,
                Err(_) => out::print_line(format_args!("{name}: BAD: {}", causes.join(": ")))?,
            }
        }
    }
    if args.json {
        out::print_json(&json!({"schema": 1, "files": results}))?;
    }
    if failed > 0 {
        bail!("{failed} of {} files are not sound", args.files.len());
    }
    Ok(())
}

/// The file's length if every byte is as it was written and the tensors are those of the model.
fn check(file: &std::path::Path) -> anyhow::Result<u64> {
    let container = Container::open(file)?;
    let bar = progress::bytes_bar(0, "verifying");
    container.verify(|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let metadata = ModelMetadata::from_json(container.metadata())?;
    let bytes = container.file_len();
    let weights = Weights::bind(container, &metadata.config)?;
    chaski::model::check_tokenizer(weights.container(), &metadata)?;
    Ok(bytes)
}
