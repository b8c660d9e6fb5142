//! `chaski plan`.

use chaski::{
    Model, ModelOptions,
    plan::{MemoryPlan, plan, plan_config},
};
use serde_json::json;

use super::{
    answer::session_options,
    args::PlanArgs,
    out,
    resolve::{self, Resolved},
};

/// Tells the memory that a model needs. What is not converted yet is not converted for that: the
/// plan of the conversion tells as much.
pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let options = session_options(&args.session, &args.gpu);
    let (path, plan, converted): (_, MemoryPlan, _) = match resolve::look_up(
        &args.model.model,
        args.model.quant,
    )? {
        Resolved::File(path) => {
            let model = Model::open(&path, &ModelOptions::default())?;
            let plan = plan(&model, &options)?;
            (path, plan, true)
        }
        Resolved::Source(source) => {
            let file = resolve::planned(&source)?;
            out::note(format_args!(
                "note: {} is not converted yet: this is for {}, but for the tokenizer, which adds \
                     some megabytes to the file",
                source.name, source.quant
            ));
            if !args.gpu.gpu_layers.is_none() {
                out::note("note: what layers take on a GPU is told of a converted model only");
            }
            let plan = plan_config(&file.config, file.file_bytes, &options)?;
            (source.path, plan, false)
        }
    };
    plan.notes.iter().for_each(out::note);
    if args.json {
        let mut document = json!({
            "schema": 1,
            "model": path.display().to_string(),
            "converted": converted,
        });
        if let (Some(to), serde_json::Value::Object(from)) =
            (document.as_object_mut(), serde_json::to_value(&plan)?)
        {
            to.extend(from);
        }
        return Ok(out::print_json(&document)?);
    }
    let line = |name: &str, bytes: u64| vec![name.to_owned(), bytes.to_string(), out::bytes(bytes)];
    let mut rows = vec![
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
    if let Some(gpu) = &plan.gpu {
        let head = if gpu.head { " and the head" } else { "" };
        let mut line = |name: &str, bytes: u64| {
            rows.push(vec![name.to_owned(), bytes.to_string(), out::bytes(bytes)]);
        };
        line(
            &format!("on the GPU: {} layers{head}, weights", gpu.layers),
            gpu.bytes.weights,
        );
        line("on the GPU: KV cache", gpu.bytes.kv_cache);
        line("on the GPU: buffers", gpu.bytes.buffers);
        line("on the GPU in all", gpu.total);
        if let Some(free) = gpu.free {
            let name = gpu.name.as_deref().unwrap_or("the GPU");
            line(&format!("free on {name}"), free);
        }
    }
    Ok(out::print(&out::table(&rows))?)
}
