//! `chaski models`.

use chaski::catalog::Catalog;
use serde_json::json;

use super::{args::ModelsArgs, out};

/// Lists the catalogue.
pub(crate) fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    let catalog = Catalog::built_in()?;
    if args.json {
        let entries: Vec<_> = catalog
            .entries()
            .map(|(name, e)| {
                json!({
                    "name": name,
                    "description": e.description,
                    "licence": e.licence,
                    "quant": e.quant.name(),
                    "note": e.note,
                    "sources": e.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "bytes": e.sources.first().map(chaski::catalog::Source::bytes),
                })
            })
            .collect();
        return Ok(out::print_json(&json!({"schema": 1, "models": entries}))?);
    }
    let mut rows = vec![
        ["name", "type", "licence", "description"]
            .map(String::from)
            .to_vec(),
    ];
    for (name, e) in catalog.entries() {
        rows.push(vec![
            name.to_owned(),
            e.quant.to_string(),
            e.licence.clone(),
            e.description.clone(),
        ]);
    }
    Ok(out::print(&out::table_of(&rows, 4))?)
}
