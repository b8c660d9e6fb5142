//! `chaski eval`.

use std::fs;

use chaski_models::testing::{CheckpointOptions, Variant, write_checkpoint};
use serde_json::{Value, json};

use super::Place;

#[test]
fn perplexity_is_printed_as_llama_perplexity_does() {
    let place = Place::new(Variant::Qwen3);
    fs::write(place.path().join("text"), "ab ba abba baab ".repeat(40)).unwrap();
    let args = [
        "eval", "tiny", "--quant", "f32", "--text", "text", "--chunk", "32", "--chunks", "3",
    ];
    assert!(place.ok(&args).starts_with("PPL = "));
    let json = place.json(&[&args[..], &["--json"]].concat());
    // The last half of each chunk but its last position.
    assert_eq!(json["scored"], 45);
    // Chunks that are longer than the context.
    fs::write(place.path().join("long"), "ab ba abba baab ".repeat(600)).unwrap();
    let told = |chunk: &str| {
        let args = ["eval", "tiny", "--quant", "f32", "--text", "long"];
        let out = place.run(&[&args[..], &["--chunk", chunk, "--chunks", "1"]].concat());
        assert!(out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stderr).contains("more than the 2048 positions")
    };
    assert!(told("2049") && !told("2048"));
}

#[test]
fn a_model_is_compared_with_its_source() {
    let place = Place::new(Variant::Qwen3);
    fs::write(place.path().join("text"), "ab ba abba baab ".repeat(40)).unwrap();
    let eval = |model: &[&str], threads: &str| {
        let rest = [
            "--text", "text", "--chunk", "32", "--chunks", "3", "--json", "-t", threads,
        ];
        let mut json = place.json(&[&["eval"], model, &["--against", "tiny"], &rest].concat());
        json["seconds"].take();
        json
    };
    let q4 = eval(&["tiny", "--quant", "q4"], "1");
    assert_eq!(q4["scored"], 45);
    assert!(q4["reference"].as_str().unwrap().contains("tiny-bf16-"));
    let comparison = &q4["comparison"];
    let kld = comparison["kl_divergence"]["mean"]["value"]
        .as_f64()
        .unwrap();
    assert!(kld > 1e-4, "{comparison}");
    let q8 = eval(&["tiny", "--quant", "q8"], "1");
    let smaller = q8["comparison"]["kl_divergence"]["mean"]["value"].as_f64();
    assert!(smaller.unwrap() < kld / 10.0, "{q8}");
    assert_eq!(
        eval(&["tiny", "--quant", "q4"], "3"),
        q4,
        "threads change figures"
    );

    // Against itself: nothing differs, and perplexity is that of `eval` alone.
    let same = eval(&["tiny", "--quant", "bf16"], "2");
    let comparison = &same["comparison"];
    assert_eq!(comparison["kl_divergence"]["maximum"], 0.0);
    assert_eq!(comparison["kl_divergence"]["minimum"], 0.0);
    assert_eq!(comparison["token_probability"]["same_top"]["value"], 1.0);
    let alone = place.json(&[
        "eval", "tiny", "--quant", "bf16", "--text", "text", "--chunk", "32", "--chunks", "3",
        "--json",
    ]);
    let ppl = |json: &Value| json["ppl"].as_f64().unwrap();
    assert!((ppl(&same) / ppl(&alone) - 1.0).abs() < 1e-12);
    let text = place.ok(&[
        "eval",
        "tiny",
        "--text",
        "text",
        "--against",
        "tiny",
        "--chunk",
        "32",
        "--chunks",
        "3",
    ]);
    for block in [
        "Perplexity statistics",
        "KL divergence statistics",
        "Same top p:",
    ] {
        assert!(text.contains(block), "{text}");
    }

    // Each role and each layer by itself, beside the whole.
    let by_part = place.json(&[
        "eval",
        "tiny",
        "--quant",
        "q4",
        "--text",
        "text",
        "--against",
        "tiny",
        "--chunk",
        "32",
        "--chunks",
        "3",
        "--per-layer",
        "--json",
    ]);
    assert_eq!(by_part["comparison"], q4["comparison"]);
    let parts = by_part["parts"].as_array().unwrap();
    let names: Vec<_> = parts.iter().map(|p| p["part"].as_str().unwrap()).collect();
    let want = [
        "token_embd",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate, ffn_up",
        "ffn_down",
        "output",
        "layer 0",
        "layer 1",
    ];
    assert_eq!(names, want);
    let mean = |part: &Value| part["comparison"]["kl_divergence"]["mean"]["value"].as_f64();
    for part in parts {
        let mean = mean(part).unwrap();
        assert!(mean > 0.0 && mean < kld, "{part}");
    }
    let bytes: u64 = parts.iter().map(|p| p["bytes"].as_u64().unwrap()).sum();
    // The embeddings and the output matrix are in no layer.
    let ends: u64 = [0, 7]
        .map(|i: usize| parts[i]["bytes"].as_u64().unwrap())
        .iter()
        .sum();
    let inspected = place.json(&["inspect", q4["model"].as_str().unwrap(), "--json"]);
    let tensors = inspected["tensors"].as_array().unwrap().iter();
    let matrices = tensors.filter(|t| t["shape"].as_str().unwrap().contains('x'));
    let all: u64 = matrices.map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, 2 * all - ends, "roles, and layers once more");

    let other = place.path().join("other");
    write_checkpoint(&other, Variant::Qwen3, &CheckpointOptions::default()).unwrap();
    let file = other.join("tokenizer.json");
    let tokenizer: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (pointer, value, says) in [
        ("/added_tokens/5/content", json!("<|x|>"), "token 317 is"),
        ("/model/merges", json!([]), "cut the text into others"),
    ] {
        let mut changed = tokenizer.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(&file, changed.to_string()).unwrap();
        let err = place.fails(
            &[
                "eval",
                "tiny",
                "--text",
                "text",
                "--against",
                "other",
                "--chunk",
                "32",
            ],
            1,
        );
        assert!(err.contains(says), "{err}");
    }
    // Another has 330 tokens, not 320.
    fs::remove_dir_all(&other).unwrap();
    write_checkpoint(&other, Variant::LlamaUntied, &CheckpointOptions::default()).unwrap();
    let err = place.fails(
        &[
            "eval",
            "tiny",
            "--text",
            "text",
            "--against",
            "other",
            "--chunk",
            "32",
        ],
        1,
    );
    assert!(err.contains("a vocabulary of"), "{err}");
}

#[test]
fn several_models_beside_one_reference_have_the_figures_that_each_has_alone() {
    let place = Place::new(Variant::Qwen3);
    fs::write(place.path().join("text"), "ab ba abba baab ".repeat(40)).unwrap();
    let files = ["q4.chaski", "q6.chaski", "q8.chaski"];
    for (file, quant) in files.iter().zip(["q4", "q6", "q8"]) {
        place.ok(&["convert", "tiny", "--quant", quant, "-o", file]);
    }
    let rest = [
        "--against",
        "tiny",
        "--text",
        "text",
        "--chunk",
        "32",
        "--chunks",
        "3",
    ];
    let json = |models: &[&str]| {
        let mut json = place.json(&[&["eval"], models, &rest[..], &["--json"]].concat());
        json["seconds"].take();
        json
    };
    let mut all = json(&files);
    assert_eq!(all["schema"], 1);
    let all = all["models"].as_array_mut().unwrap();
    assert_eq!(all.len(), 3);
    for (file, together) in files.iter().zip(&mut *all) {
        together["seconds"].take();
        assert_eq!(*together, json(&[file]), "{file}");
        assert_eq!(together["model"], *file);
    }
    let inspected = place.json(&["inspect", "q8.chaski", "--json"]);
    assert_eq!(all[2]["bytes"], inspected["bytes"]);
    let less = all[2]["bytes_less_tokenizer"].as_u64().unwrap();
    assert!(less > inspected["weight_bytes"].as_u64().unwrap());
    assert!(less < inspected["bytes"].as_u64().unwrap());

    let table = place.ok(&[&["eval"], &files[..], &rest[..]].concat());
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    for (line, of) in lines[1..].iter().zip(&*all) {
        let kld = of["comparison"]["kl_divergence"]["mean"]["value"].as_f64();
        for says in [
            of["model"].as_str().unwrap(),
            &format!("{:.6}", kld.unwrap()),
        ] {
            assert!(line.contains(says), "{says} in {table}");
        }
    }
    let parts = place.ok(&[&["eval"], &files[..2], &rest[..], &["--per-layer"]].concat());
    assert_eq!(parts.matches("\nffn_down").count(), 2, "{parts}");
    let err = place.fails(&["eval", files[0], files[1], "--text", "text"], 2);
    assert!(err.contains("--against"), "{err}");
}
