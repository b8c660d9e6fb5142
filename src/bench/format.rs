//! Rows of results as text.

use super::Row;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// llama-bench's Markdown table.
    Markdown,
    /// One JSON array.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    JsonLines,
}

/// All rows as one text that ends with a line break.
///
/// # Errors
///
/// If a number cannot be written as JSON, which measured ones always can.
pub fn render(rows: &[Row], format: Format) -> Result<String, serde_json::Error> {
    let mut text = match format {
        Format::Markdown => markdown(rows),
        Format::Json => serde_json::to_string_pretty(rows)?,
        Format::JsonLines => rows
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<Vec<_>, _>>()?
            .join("\n"),
        Format::Csv => csv(rows)?,
    };
    if !text.ends_with('\n') && !text.is_empty() {
        text.push('\n');
    }
    Ok(text)
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if mib < 1024.0 {
        format!("{mib:.2} MiB")
    } else {
        format!("{:.2} GiB", mib / 1024.0)
    }
}

fn params(n: u64) -> String {
    let millions = n as f64 / 1e6;
    if millions < 1000.0 {
        format!("{millions:.2} M")
    } else {
        format!("{:.2} B", millions / 1e3)
    }
}

/// The share of what the machine can do: `92 % of 31.4 GB/s`.
fn limit(row: &Row) -> Option<String> {
    let (share, limit, unit) = if row.read_share > 0.0 {
        (row.read_share, row.read_gb_per_s, "GB/s")
    } else {
        (row.int_share, row.int_peak_gmac_per_s, "GMAC/s")
    };
    let digits = if limit < 100.0 { 1 } else { 0 };
    (share > 0.0).then(|| format!("{:.0} % of {limit:.digits$} {unit}", 100.0 * share))
}

fn markdown(rows: &[Row]) -> String {
    let depths_differ = rows.iter().any(|r| r.n_ubatch != rows[0].n_ubatch);
    let kv = rows.iter().any(|r| r.type_k != "f16");
    let mut columns: Vec<(&str, usize, bool)> = vec![
        ("model", 30, false),
        ("size", 10, true),
        ("params", 10, true),
        ("backend", 10, false),
        ("threads", 7, true),
    ];
    if rows.iter().any(|r| r.n_gpu_layers > 0) {
        columns.push(("ngl", 3, true));
    }
    if depths_differ {
        columns.push(("n_ubatch", 8, true));
    }
    if kv {
        columns.push(("type_kv", 7, true));
    }
    columns.extend([("test", 15, true), ("t/s", 20, true)]);
    let generates = rows.iter().any(|r| r.weight_gb_per_s > 0.0);
    if generates {
        columns.push(("GB/s", 7, true));
    }
    if rows.iter().any(|r| limit(r).is_some()) {
        columns.push(("of the machine", 20, true));
    }
    let value = |row: &Row, name: &str| match name {
        "model" => row.model_type.clone(),
        "size" => size(row.model_size),
        "params" => params(row.model_n_params),
        "backend" => row.backends.clone(),
        "ngl" => row.n_gpu_layers.to_string(),
        "threads" => row.n_threads.to_string(),
        "n_ubatch" => row.n_ubatch.to_string(),
        "type_kv" => row.type_k.clone(),
        "test" => row.test(),
        "GB/s" if row.weight_gb_per_s > 0.0 => format!("{:.1}", row.weight_gb_per_s),
        "GB/s" => String::new(),
        "of the machine" => limit(row).unwrap_or_default(),
        _ => format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts),
    };
    // A column is as wide as llama-bench has it, or as its widest cell.
    for (name, width, _) in &mut columns {
        let widest = rows
            .iter()
            .map(|row| value(row, name).chars().count())
            .max();
        *width = widest.unwrap_or(0).max(*width);
    }
    let cell = |text: &str, width: usize, right: bool| {
        if right {
            format!("{text:>width$}")
        } else {
            format!("{text:<width$}")
        }
    };
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(columns.iter().map(|&(n, w, r)| cell(n, w, r)).collect());
    text += &line(
        columns
            .iter()
            .map(|&(_, w, r)| {
                if r {
                    format!("{}:", "-".repeat(w - 1))
                } else {
                    "-".repeat(w)
                }
            })
            .collect(),
    );
    for row in rows {
        text += &line(
            columns
                .iter()
                .map(|&(name, width, right)| cell(&value(row, name), width, right))
                .collect(),
        );
    }
    if let Some(row) = rows.iter().find(|r| !r.gpu_info.is_empty()) {
        text += &format!("\nGPU: {}\n", row.gpu_info);
    }
    if let Some(row) = rows.first() {
        text += &format!("\nbuild: chaski {}\n", row.build_commit);
    }
    text
}

fn csv(rows: &[Row]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let serde_json::Value::Object(fields) = serde_json::to_value(row)? else {
            continue;
        };
        // The samples are lists: they are in the JSON forms.
        let fields = || fields.iter().filter(|(_, v)| !v.is_array());
        if i == 0 {
            text += &fields()
                .map(|(k, _)| k.clone())
                .collect::<Vec<_>>()
                .join(",");
            text.push('\n');
        }
        let value = |v: &serde_json::Value| match v {
            serde_json::Value::String(s) => format!("\"{}\"", s.replace('"', "\"\"")),
            v => format!("\"{v}\""),
        };
        text += &fields()
            .map(|(_, v)| value(v))
            .collect::<Vec<_>>()
            .join(",");
        text.push('\n');
    }
    Ok(text)
}

/// A row to test with.
#[cfg(test)]
pub(super) fn test_row() -> Row {
    Row {
        build_commit: "0.1.0".into(),
        build_number: 0,
        cpu_info: "a \"cpu\"".into(),
        gpu_info: String::new(),
        backends: "CPU".into(),
        model_filename: "m.chaski".into(),
        model_type: "llama 1B q4".into(),
        model_size: 700 << 20,
        model_n_params: 1_236_000_000,
        n_batch: 512,
        n_ubatch: 512,
        n_threads: 2,
        type_k: "f16".into(),
        type_v: "f16".into(),
        n_gpu_layers: 0,
        n_prompt: 512,
        n_gen: 0,
        n_depth: 0,
        test_time: "2026-01-01T00:00:00Z".into(),
        avg_ns: 1,
        stddev_ns: 0,
        avg_ts: 123.456,
        stddev_ts: 1.0,
        samples_ns: vec![1],
        samples_ts: vec![123.456],
        load_ms: 1.0,
        ttft_ms: 2.0,
        resident_bytes: 3,
        resident_file_bytes: 2,
        weight_bytes_per_token: 7,
        weight_gb_per_s: 0.0,
        read_gb_per_s: 0.0,
        read_share: 0.0,
        int_gmac_per_s: 0.0,
        int_peak_gmac_per_s: 0.0,
        int_share: 0.0,
        gpu_weight_bytes_per_token: 0,
        gpu_read_gb_per_s: 0.0,
        gpu_copy_gb_per_s: 0.0,
        schema: super::SCHEMA,
    }
}

#[cfg(test)]
mod tests {
    use super::{test_row as row, *};

    #[test]
    fn the_markdown_table_has_llama_benchs_columns() {
        let text = render(&[row()], Format::Markdown).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "| model                          |       size |     params | backend    | threads |            test |                  t/s |"
        );
        assert!(lines[1].starts_with("| ------------------------------ | ---------: |"));
        assert!(lines[2].contains("700.00 MiB |     1.24 B | CPU        |       2 |           pp512 |        123.46 ± 1.00 |"), "{text}");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut rows = [row(), row()];
        rows[1].backends = "CPU avx512vbmi".into();
        let text = render(&rows, Format::Markdown).unwrap();
        let bars = |line: &str| -> Vec<usize> {
            let chars = line.chars().enumerate();
            chars.filter(|&(_, c)| c == '|').map(|(i, _)| i).collect()
        };
        let lines: Vec<&str> = text.lines().take(4).collect();
        assert!(lines.iter().all(|l| bars(l) == bars(lines[0])), "{text}");
    }

    #[test]
    fn the_share_of_the_machine_is_a_column_after_those() {
        let mut rows = [row(), row(), row()];
        (rows[0].int_share, rows[0].int_peak_gmac_per_s) = (0.613, 455.2);
        (rows[1].n_prompt, rows[1].n_gen) = (0, 128);
        (rows[1].weight_gb_per_s, rows[1].read_gb_per_s) = (28.9, 31.44);
        rows[1].read_share = 0.919;
        let text = render(&rows, Format::Markdown).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("|                  t/s |    GB/s |       of the machine |"));
        assert!(
            lines[2].ends_with("|         |   61 % of 455 GMAC/s |"),
            "{text}"
        );
        assert!(
            lines[3].ends_with("|    28.9 |    92 % of 31.4 GB/s |"),
            "{text}"
        );
        assert!(
            lines[4].ends_with("|         |                      |"),
            "{text}"
        );
        let head = render(&rows, Format::Csv).unwrap();
        let head = head.lines().next().unwrap();
        let own = "weight_gb_per_s,read_gb_per_s,read_share,int_gmac_per_s,int_peak_gmac_per_s,int_share,gpu_weight_bytes_per_token,gpu_read_gb_per_s,gpu_copy_gb_per_s,schema";
        assert!(head.ends_with(own), "{head}");
    }

    #[test]
    fn a_gpu_has_its_layers_in_a_column_and_its_name_below() {
        let mut rows = [row(), row()];
        (rows[1].n_gpu_layers, rows[1].gpu_info) = (17, "a card".into());
        let text = render(&rows, Format::Markdown).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("| threads | ngl |"), "{text}");
        assert!(lines[3].contains("|       2 |  17 |"), "{text}");
        assert_eq!(lines[5], "GPU: a card");
    }

    #[test]
    fn csv_quotes_and_leaves_the_samples_out() {
        let text = render(&[row(), row()], Format::Csv).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].contains("n_prompt,n_gen,n_depth,test_time,avg_ns,stddev_ns,avg_ts,stddev_ts")
        );
        assert!(!lines[0].contains("samples"));
        assert!(lines[1].contains("\"a \"\"cpu\"\"\""));
    }

    #[test]
    fn json_forms_hold_every_row() {
        let rows = [row(), row()];
        let array: serde_json::Value =
            serde_json::from_str(&render(&rows, Format::Json).unwrap()).unwrap();
        assert_eq!(array.as_array().unwrap().len(), 2);
        for line in render(&rows, Format::JsonLines).unwrap().lines() {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(v["n_prompt"], 512);
        }
    }

    #[test]
    fn test_names_say_prompt_answer_and_depth() {
        let mut r = row();
        assert_eq!(r.test(), "pp512");
        (r.n_prompt, r.n_gen, r.n_depth) = (0, 128, 4096);
        assert_eq!(r.test(), "tg128 @ d4096");
        r.n_prompt = 8;
        assert_eq!(r.test(), "pp8+tg128 @ d4096");
    }
}
