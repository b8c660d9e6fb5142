//! `chaski plan`.

use chaski::{Model, ModelOptions, plan::plan};
use serde_json::json;

use super::{answer::session_options, args::PlanArgs, out, resolve};

/// Tells the memory that a model needs.
pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let path = resolve::resolve(&args.model.model, args.model.quant)?;
    let model = Model::open(&path, &ModelOptions::default())?;
    let plan = plan(&model, &session_options(&args.session))?;
    if args.json {
        let mut document = json!({"schema": 1, "model": path.display().to_string()});
        if let (Some(to), serde_json::Value::Object(from)) =
            (document.as_object_mut(), serde_json::to_value(plan)?)
        {
            to.extend(from);
        }
        return Ok(out::print_json(&document)?);
    }
    let line = |name: &str, bytes: u64| vec![name.to_owned(), bytes.to_string(), out::bytes(bytes)];
    let rows = [
        vec!["".to_owned(), "bytes".to_owned(), "".to_owned()],
        line(
            "weights, mapped from the file (shared, can be dropped)",
            plan.weights_mapped,
        ),
        line(
            &format!("KV cache, {} positions", plan.context_len),
            plan.kv_cache,
        ),
        line(
            &format!("activations, {} positions at once", plan.ubatch),
            plan.activations,
        ),
        line(
            &format!("scratch of {} threads", plan.threads),
            plan.scratch,
        ),
        line("private memory in all", plan.total_private),
        line("with the weights", plan.total_private + plan.weights_mapped),
    ];
    Ok(out::print(&out::table(&rows))?)
}
