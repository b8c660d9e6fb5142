//! What a file says of itself: its self-test and its certificate.

use std::{fs, sync::Arc};

use chaski::{
    Model, ModelOptions,
    certify::{self, Certified},
    self_test,
};
use chaski_kernels_simd::Kernels;
use chaski_models::{ModelMetadata, testing::Variant};
use chaski_quant::container::{Container, rewrite_metadata};
use serde_json::{Value, json};

use crate::{cli::Place, tiny};

/// Changes the metadata of a file.
fn edit(path: &std::path::Path, change: impl FnOnce(&mut Value)) {
    let container = Container::open(path).unwrap();
    let mut metadata: Value = serde_json::from_str(container.metadata()).unwrap();
    drop(container);
    change(&mut metadata);
    rewrite_metadata(path, &metadata.to_string()).unwrap();
}

#[test]
fn a_converted_file_passes_its_self_test_on_every_level() {
    for variant in [Variant::Llama, Variant::Qwen3] {
        let place = Place::new(variant);
        place.ok(&["convert", "tiny", "--quant", "q4", "-o", "m.chaski"]);
        for kernels in Kernels::available() {
            let mut command = place.command(&["verify", "--self-test", "--json", "m.chaski"]);
            let out = command.env("CHASKI_SIMD", kernels.name()).output().unwrap();
            assert!(out.status.success(), "{}: {out:?}", kernels.name());
            let said: Value = serde_json::from_slice(&out.stdout).unwrap();
            let want = json!({"texts": 10, "chats": 6, "positions": 24});
            assert_eq!(said["files"][0]["self_test"], want, "{}", kernels.name());
        }
        let said = place.ok(&["verify", "--self-test", "m.chaski"]);
        assert!(
            said.contains("10 texts, 6 chats, logits at 24 positions"),
            "{said}"
        );
        assert!(place.ok(&["inspect", "m.chaski"]).contains("self-test"));
    }
}

#[test]
fn every_level_makes_the_same_self_test() {
    for variant in Variant::ALL {
        let bytes = tiny::container(variant, None);
        let mut first = None;
        for kernels in Kernels::available() {
            let made = self_test::make(&tiny::model(&bytes, kernels)).unwrap();
            let logits = made.logits.as_ref().unwrap();
            assert_eq!((logits.prompt.len(), logits.top.len()), (24, 24));
            let first = first.get_or_insert_with(|| made.clone());
            assert_eq!(*first, made, "{} {}", variant.name(), kernels.name());
        }
    }
}

#[test]
fn what_differs_from_the_self_test_is_told() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let (whole, path) = (place.path().join("m.chaski"), place.path().join("n.chaski"));
    for (pointer, value, says) in [
        (
            "/extensions/self_test/texts/1/ids/2",
            json!(7),
            "from token 2 on",
        ),
        (
            "/extensions/self_test/chats/3/rendered",
            json!("x"),
            "conversation 4",
        ),
        (
            "/extensions/self_test/chats/0/rendered",
            json!(null),
            "conversation 1",
        ),
        (
            "/extensions/self_test/logits/top/5",
            json!(1),
            "at position 5",
        ),
        (
            "/extensions/self_test/logits/sha256",
            json!("0".repeat(64)),
            "though the likeliest tokens are",
        ),
        (
            "/extensions/self_test/logits/prompt/0",
            json!(99_999),
            "cannot be read",
        ),
        (
            "/extensions/self_test/logits/prompt",
            json!([]),
            "cannot be read",
        ),
        (
            "/extensions/self_test/logits/prompt",
            json!(vec![1; 5000]),
            "5000 tokens, at most 4096",
        ),
        ("/extensions/self_test/version", json!(2), "version 2"),
        ("/extensions/self_test/texts", json!(3), "expected form"),
        ("/extensions/self_test", json!([]), "expected form"),
        ("/extensions", json!({}), "convert it again"),
    ] {
        fs::copy(&whole, &path).unwrap();
        edit(&path, |m| *m.pointer_mut(pointer).unwrap() = value);
        place.ok(&["verify", "n.chaski"]);
        let out = place.run(&["verify", "--self-test", "n.chaski"]);
        let said = String::from_utf8(out.stdout).unwrap();
        assert_eq!(out.status.code(), Some(1), "{pointer}: {said}");
        assert!(
            said.contains(says) && said.contains("BAD"),
            "{pointer}: {said}"
        );
    }
}

#[test]
fn a_file_without_tokenizer_has_a_fingerprint_all_the_same() {
    let place = Place::new(Variant::Llama);
    fs::remove_file(place.path().join("tiny/tokenizer.json")).unwrap();
    place.ok(&[
        "convert",
        "tiny",
        "--quant",
        "q4",
        "--no-tokenizer",
        "-o",
        "m.chaski",
    ]);
    let said = place.json(&["verify", "--self-test", "m.chaski", "--json"]);
    let want = json!({"texts": 0, "chats": 0, "positions": 24});
    assert_eq!(said["files"][0]["self_test"], want);
}

#[test]
fn a_certificate_is_written_shown_and_bound_to_its_tensors() {
    let place = Place::new(Variant::Llama);
    let text = "ab ba abba baab ".repeat(40);
    fs::write(place.path().join("text"), &text).unwrap();
    place.ok(&["convert", "tiny", "--quant", "q4", "-o", "m.chaski"]);
    let shown = place.ok(&["inspect", "m.chaski"]);
    let mut lines = shown.lines().filter(|l| l.starts_with("certificate"));
    assert!(
        lines.next().is_some_and(|l| l.ends_with(" none")),
        "{shown}"
    );
    let path = place.path().join("m.chaski");
    let before = fs::read(&path).unwrap();
    let eval = [
        "eval",
        "m.chaski",
        "--text",
        "text",
        "--against",
        "tiny",
        "--chunk",
        "32",
        "--chunks",
        "10",
        "--certify",
        "--json",
    ];
    let measured = place.json(&eval)["comparison"].clone();
    let after = fs::read(&path).unwrap();
    let container = Container::from_bytes(after.clone()).unwrap();
    let data = container.data_range();
    assert_eq!(after[data.clone()], before[data], "no tensor is touched");
    place.ok(&["verify", "--self-test", "m.chaski"]);

    let metadata = ModelMetadata::from_json(container.metadata()).unwrap();
    let Certified::Yes(c) = certify::read(&container, &metadata) else {
        panic!("{:?}", metadata.extensions);
    };
    let value = |f: chaski_models::certificate::Figure| json!({"value": f.value, "error": f.error});
    assert_eq!(value(c.kl_divergence), measured["kl_divergence"]["mean"]);
    assert_eq!(value(c.same_top), measured["token_probability"]["same_top"]);
    assert_eq!(value(c.perplexity_ratio), measured["perplexity"]["ratio"]);
    assert_eq!(
        (c.text.name.as_str(), c.text.bytes),
        ("text", text.len() as u64)
    );
    assert_eq!((c.text.chunk, c.text.chunks, c.positions), (32, 10, 150));
    assert_eq!(
        (c.reference.main_type.as_str(), c.kv.as_str()),
        ("bf16", "f16")
    );
    // The reference is the source itself.
    assert_eq!(c.reference.files, metadata.provenance.files);
    let roles: Vec<&str> = c.roles.keys().map(String::as_str).collect();
    let want = [
        "attn_k",
        "attn_output",
        "attn_q",
        "attn_v",
        "ffn_down",
        "ffn_gate, ffn_up",
        "token_embd",
    ];
    assert_eq!((roles, c.role_positions), (want.to_vec(), 120));
    let shown = place.ok(&["inspect", "m.chaski"]);
    for says in [
        "on text (640 bytes",
        "mean KLD",
        "same top",
        "ffn_down alone",
    ] {
        assert!(shown.contains(says), "{says}: {shown}");
    }

    // The same figures at conversion.
    let n = ["convert", "tiny", "--quant", "q4", "-o", "n.chaski"];
    place.ok(&n);
    fs::write(place.path().join("text"), text.repeat(4)).unwrap();
    let certify = |text| [&n[..], &["--force", "--certify", text, "-q"]].concat();
    let err = place.fails(&certify("absent"), 1);
    assert!(err.contains("absent") && path.exists(), "{err}");
    place.ok(&certify("text"));
    let shown = place.json(&["inspect", "n.chaski", "--json"]);
    let certificate = &shown["metadata"]["extensions"]["certificate"];
    assert_eq!(certificate["text"]["chunk"], 512);
    assert_eq!(certificate["tensors_sha256"], json!(c.tensors_sha256));

    // A certificate that was carried to another file is of no worth there.
    place.ok(&["convert", "tiny", "--quant", "q5", "-o", "o.chaski"]);
    let other = place.path().join("o.chaski");
    edit(&other, |m| {
        m["extensions"]["certificate"] = certificate.clone()
    });
    assert!(
        place
            .ok(&["inspect", "o.chaski"])
            .contains("of other tensors")
    );
    assert!(
        certify::write(&other, &c)
            .unwrap_err()
            .to_string()
            .contains("changed")
    );
    edit(&other, |m| {
        m["extensions"]["certificate"] = json!({"version": "x"})
    });
    assert!(place.ok(&["inspect", "o.chaski"]).contains("unreadable"));
    let opened = Model::open(&other, &ModelOptions::default()).unwrap();
    self_test::check(&Arc::new(opened)).unwrap();

    let err = place.fails(&["eval", "m.chaski", "--text", "text", "--certify"], 2);
    assert!(err.contains("--against"), "{err}");
}

#[test]
fn the_certificate_of_a_balanced_file_has_its_halves() {
    let place = Place::new(Variant::Llama);
    let text = "ab ba abba baab ".repeat(160);
    fs::write(place.path().join("text"), text).unwrap();
    let convert = ["convert", "tiny", "--quant", "q8", "-o", "m.chaski"];
    place.ok(&[&convert[..], &["--calibrate", "text", "--certify", "text"]].concat());
    let shown = place.json(&["inspect", "m.chaski", "--json"]);
    let roles = &shown["metadata"]["extensions"]["certificate"]["roles"];
    let roles: Vec<&String> = roles.as_object().unwrap().keys().collect();
    assert_eq!(roles, ["attention", "feed-forward", "token_embd"]);
    assert!(
        place
            .ok(&["inspect", "m.chaski"])
            .contains("feed-forward alone")
    );
    let parts = place.ok(&[
        "eval",
        "m.chaski",
        "--text",
        "text",
        "--against",
        "tiny",
        "--chunk",
        "32",
        "--chunks",
        "2",
        "--per-layer",
    ]);
    for part in ["\nattention ", "\nfeed-forward ", "\nlayer 1 "] {
        assert!(parts.contains(part), "{part}: {parts}");
    }
    assert!(!parts.contains("\nffn_down "), "{parts}");
}

#[test]
fn a_divergence_asked_for_is_kept_to_and_a_failure_leaves_the_old_file() {
    let place = Place::new(Variant::Llama);
    let text = "ab ba abba baab ".repeat(160);
    fs::write(place.path().join("text"), text).unwrap();
    fs::write(place.path().join("short"), "ab").unwrap();
    let names = || {
        let entries = fs::read_dir(place.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let convert = |rest: &[&'static str]| {
        let whole = ["convert", "tiny", "--max-kld", "0.02", "-o", "m.chaski"];
        [&whole[..], rest].concat()
    };
    // What cannot be measured is told before anything is written.
    let before = names();
    let err = place.fails(&convert(&["--check", "absent"]), 1);
    assert!(err.contains("absent") && names() == before, "{err}");
    let said = place.json(&convert(&["--check", "text", "--json"]));
    let found = said["measured"]["kl_divergence"]["mean"]["value"].as_f64();
    assert!(found.is_some_and(|kld| kld > 0.0 && kld <= 0.02), "{said}");
    let first = fs::read(place.path().join("m.chaski")).unwrap();
    let before = names();

    let err = place.fails(&convert(&["--check", "text"]), 1);
    assert!(err.contains("m.chaski") && err.contains("--force"), "{err}");
    // A text that is too short is known to be when the file is measured.
    place.fails(&convert(&["--check", "short", "--force"]), 1);
    assert_eq!(fs::read(place.path().join("m.chaski")).unwrap(), first);
    assert_eq!(names(), before);
    place.ok(&convert(&["--check", "text", "--force"]));
    assert_eq!(fs::read(place.path().join("m.chaski")).unwrap(), first);
    assert_eq!(names(), before);

    // So is one that cannot be measured when the file is made: the source has no place in the cache.
    let without_cache = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("CHASKI_CACHE", place.path().join("text"));
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    without_cache(&convert(&["--check", "text", "--force"]));
    assert_eq!(fs::read(place.path().join("m.chaski")).unwrap(), first);
    assert_eq!(names(), before);
    // A conversion that was not asked for a divergence is told, and stays.
    let plain = ["convert", "tiny", "--quant", "q4", "-o", "n.chaski"];
    let said = without_cache(&[&plain[..], &["--check", "text"]].concat());
    assert!(said.contains("n.chaski: "), "{said}");
    place.ok(&["verify", "n.chaski"]);
    for (flag, name) in [("--check", "short"), ("--certify", "short")] {
        let plain = ["convert", "tiny", "--quant", "q4", "-o", "o.chaski"];
        let err = place.fails(&[&plain[..], &[flag, name]].concat(), 1);
        assert!(err.contains("short: the text has"), "{err}");
        assert!(!place.path().join("o.chaski").exists());
    }
}

#[test]
fn no_file_of_the_source_is_written() {
    let place = Place::new(Variant::Llama);
    let source = |name: &str| fs::read(place.path().join("tiny").join(name)).unwrap();
    let files = ["config.json", "model.safetensors", "tokenizer.json"];
    let before = files.map(source);
    fs::write(place.path().join("old.svg"), "old").unwrap();
    for file in files {
        let name = format!("tiny/{file}");
        let convert = |rest: &[&str]| {
            let args = [&["convert", "tiny", "--force"], rest].concat();
            place.fails(&args, 1)
        };
        for types in [&["--quant", "q4"][..], &["--size", "1MB", "--calibrate"]] {
            let err = convert(&[types, &["-o", &name]].concat());
            assert!(err.contains(file) && err.contains("of the source"), "{err}");
            assert!(!err.contains("measuring"), "{err}");
        }
        let err = place.fails(&["convert", "tiny", "--quant", "q4", "-o", &name], 1);
        assert!(err.contains("of the source"), "{err}");
        let err = convert(&["--size", "1MB", "-o", "m.chaski", "--plot", &name]);
        assert!(err.contains(file) && err.contains("source"), "{err}");
    }
    assert_eq!(files.map(source), before);
    let size = ["convert", "tiny", "--size", "1MB", "-o", "m.chaski"];
    let err = place.fails(&[&size[..], &["--plot", "m.chaski"]].concat(), 1);
    assert!(err.contains("m.chaski") && err.contains("another"), "{err}");
    let err = place.fails(&[&size[..], &["--plot", "old.svg"]].concat(), 1);
    assert!(err.contains("--force"), "{err}");
    assert!(!place.path().join("m.chaski").exists());
    place.ok(&[&size[..], &["--plot", "old.svg", "--force"]].concat());
    let drawn = fs::read_to_string(place.path().join("old.svg")).unwrap();
    assert!(drawn.contains("<svg"), "{drawn}");
}
