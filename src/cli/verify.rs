//! `chaski verify`.

use std::{path::Path, sync::Arc};

use anyhow::bail;
use chaski::{
    Model, ModelOptions,
    self_test::{self, Checked},
};
use chaski_models::ModelMetadata;
use chaski_quant::container::Container;
use serde_json::json;

use super::{args::VerifyArgs, out, resolve};

/// Checks every byte of some files; all are checked before the exit status tells.
pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let (mut failed, mut unread) = (0, 0);
    let mut results = Vec::new();
    for file in &args.files {
        let verdict = check(file, args.self_test);
        let causes: Vec<String> = match &verdict {
            Ok(_) => Vec::new(),
            Err(e) => e.chain().map(ToString::to_string).collect(),
        };
        // What is not there, or cannot be read, is neither sound nor damaged.
        let is_unread = verdict.as_ref().is_err_and(|e| {
            let io = |cause: &(dyn std::error::Error + 'static)| cause.is::<std::io::Error>();
            e.chain().any(io)
        });
        unread += usize::from(is_unread);
        failed += usize::from(verdict.is_err() && !is_unread);
        let name = file.display().to_string();
        if args.json {
            let mut result = json!({"file": name, "ok": verdict.is_ok(), "errors": causes});
            if let Ok((_, Some(c))) = &verdict {
                result["self_test"] =
                    json!({"texts": c.texts, "chats": c.chats, "positions": c.positions});
            }
            results.push(result);
        } else {
            match verdict {
                Ok((bytes, checked)) => {
                    let bytes = out::bytes(bytes);
                    let self_test = checked.map_or_else(String::new, |c| {
                        format!(
                            ", self-test passed: {} texts, {} chats, logits at {} positions",
                            c.texts, c.chats, c.positions
                        )
                    });
                    out::print_line(format_args!("{name}: ok, {bytes}{self_test}"))?;
                }
                Err(_) if is_unread => {
                    out::error_line(format_args!("chaski: {name}: {}", causes.join(": ")));
                }
                Err(_) => out::print_line(format_args!("{name}: BAD: {}", causes.join(": ")))?,
            }
        }
    }
    if args.json {
        out::print_json(&json!({"schema": 1, "files": results}))?;
    }
    let n = args.files.len();
    match (failed, unread) {
        (0, 0) => {}
        (0, _) => bail!("{unread} of {n} files cannot be read"),
        (_, 0) => bail!("{failed} of {n} files are not sound"),
        _ => bail!("{failed} of {n} files are not sound, {unread} cannot be read"),
    }
    Ok(())
}

/// The file's length if every byte is as it was written and the tensors are those of the model; and
/// what its self-test checked, if it was asked for.
fn check(file: &Path, self_test: bool) -> anyhow::Result<(u64, Option<Checked>)> {
    std::fs::metadata(file)?;
    let container = Container::open(file)?;
    resolve::verify(&container)?;
    let metadata = ModelMetadata::from_json(container.metadata())?;
    let bytes = container.file_len();
    let model = Model::from_container(container, file, &ModelOptions::default())?;
    chaski::model::check_tokenizer(model.weights().container(), &metadata)?;
    let checked = match self_test {
        true => Some(self_test::check(&Arc::new(model))?),
        false => None,
    };
    Ok((bytes, checked))
}
