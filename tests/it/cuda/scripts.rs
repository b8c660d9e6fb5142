//! The scripts for a machine with a card, as far as they go without one.

use std::{fs, path::Path, process::Command};

use serde_json::json;

fn scripts() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"))
}

/// A command's output, if there is such a program.
#[expect(clippy::print_stdout, reason = "what is not tested is to be seen")]
fn output(command: &mut Command) -> Option<String> {
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}: {said}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            println!("skipped: {command:?}: {error}");
            None
        }
    }
}

#[test]
fn the_shell_can_read_them() {
    let mut n = 0;
    for entry in fs::read_dir(scripts()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sh") {
            output(Command::new("bash").arg("-n").arg(&path));
            n += 1;
        }
    }
    assert!(n > 0 && scripts().join("gpu-check.sh").exists());
}

#[test]
fn the_report_sets_results_beside_what_the_card_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: serde_json::Value| {
        fs::write(dir.path().join(name), value.to_string()).unwrap();
    };
    write(
        "card.json",
        json!({
            "name": "a card", "major": 9, "minor": 0, "multiprocessors": 132, "clock_khz": 2_000_000,
            "memory_gb_per_s": 4000.0, "int8_tops": 2000.0, "f32_tflops": 60.0,
            "to_card_gb_per_s": 50.0, "from_card_gb_per_s": 40.0,
        }),
    );
    // 100,000 bytes of keys and values a position: at 1000 + 100 / 2 of them 105 MB a token, 21 GB/s.
    write(
        "m-ngl-all.plan.json",
        json!({ "kv_cache": 0, "context_len": 1000, "gpu": { "kv_cache": 100_000_000_u64 } }),
    );
    let row = |n_prompt: usize, n_gen: usize, rates: [f64; 2]| {
        json!({
            "model_filename": "a/m.chaski", "n_gpu_layers": 17, "backends": "CUDA", "type_k": "f16", "n_ubatch": 512, "n_prompt": n_prompt, "n_gen": n_gen,
            "n_depth": 1000, "avg_ts": 200.0, "stddev_ts": 1.5, "weight_gb_per_s": rates[0], "read_gb_per_s": 3000.0,
            "int_gmac_per_s": rates[1], "gpu_copy_gb_per_s": 25.0,
        })
    };
    write(
        "m-ngl-all.bench.json",
        json!([row(512, 0, [0.0, 400_000.0]), row(0, 100, [1479.0, 0.0])]),
    );
    let mut command = Command::new("python3");
    command
        .arg(scripts().join("gpu_report.py"))
        .arg("table")
        .arg(dir.path());
    let Some(report) = output(&mut command) else {
        return;
    };
    for line in [
        "a card, compute capability 9.0, 132 multiprocessors",
        "| m.chaski | 17 | f16 | 512 | pp512 @ d1000 | 200.0 | 1.5 |  |  |  |  | 800.0 | 40 % | 25.0 | 50 % |",
        "| m.chaski | 17 | f16 | 512 | tg100 @ d1000 | 200.0 | 1.5 | 1479.0 | 1500.0 | 50 % | 38 % |  |  | 25.0 | 50 % |",
    ] {
        assert!(report.lines().any(|l| l == line), "{line}\n{report}");
    }
}
