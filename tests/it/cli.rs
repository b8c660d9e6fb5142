//! The command, as a user runs it.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use chaski_models::testing::{CheckpointOptions, FloatType, Rng, Variant, write_checkpoint};
use chaski_quant::container::Container;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a checkpoint in it, and a cache of its own.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = CheckpointOptions {
            float_type: FloatType::BF16,
            n_shards: 1,
            tokenizer: true,
        };
        write_checkpoint(&dir.path().join("tiny"), variant, &options).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chaski"));
        command
            .args(args)
            .current_dir(self.path())
            .env("CHASKI_CACHE", self.path().join("cache"))
            .env_remove("CHASKI_THREADS")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {}\n{err}", out.status);
        String::from_utf8(out.stdout).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Standard error of a command that must fail with `status`.
    pub(crate) fn fails(&self, args: &[&str], status: i32) -> String {
        let out = self.run(args);
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(status), "{args:?}\n{err}");
        assert!(!err.contains("panicked"), "{args:?}\n{err}");
        err
    }
}

#[test]
fn a_checkpoint_is_converted_verified_inspected_and_run() {
    let place = Place::new(Variant::Llama);
    let report = place.json(&[
        "convert", "tiny", "--quant", "q4", "-o", "m.chaski", "--json", "-t", "1",
    ]);
    assert_eq!(report["recipe"]["name"], "q4");
    place.ok(&[
        "convert", "tiny", "--quant", "q4", "-o", "n.chaski", "-t", "2",
    ]);
    let bytes = fs::read(place.path().join("m.chaski")).unwrap();
    assert_eq!(
        bytes,
        fs::read(place.path().join("n.chaski")).unwrap(),
        "threads change bytes"
    );
    assert!(place.ok(&["verify", "m.chaski"]).contains("ok"));
    let shown = place.json(&["inspect", "m.chaski", "--json"]);
    assert_eq!(shown["metadata"]["recipe"]["name"], "q4");
    assert!(
        place
            .ok(&["inspect", "m.chaski", "--tensors"])
            .contains("blk.0.attn_q")
    );
    let plan = place.json(&["plan", "m.chaski", "-c", "128", "--json"]);
    assert_eq!(plan["context_len"], 128);
    assert!(plan["kv_cache"].as_u64().unwrap() > 0);

    let run = [
        "run",
        "m.chaski",
        "ab",
        "--raw",
        "-n",
        "6",
        "--json",
        "--logprobs=2",
        "-s",
        "5",
    ];
    let first = place.json(&run);
    assert_eq!(first["token_ids"].as_array().unwrap().len(), 6, "{first}");
    let top = &first["tokens"][0]["top"];
    assert_eq!(top.as_array().unwrap().len(), 2);
    assert!(
        top[0]["text"].is_string() && top[0]["logprob"].is_number(),
        "{top}"
    );
    assert_eq!(first["seed"], 5);
    let value_less = [
        "run",
        "m.chaski",
        "--json",
        "--logprobs",
        "ab",
        "--raw",
        "-n",
        "1",
        "--temp",
        "0",
    ];
    let value_less = place.json(&value_less);
    assert_eq!(
        value_less["prompt_tokens"], first["prompt_tokens"],
        "the prompt is the prompt"
    );
    assert!(value_less["tokens"][0]["logprob"].is_number());
    assert!(value_less["seed"].is_null(), "nothing is drawn");
    assert_eq!(
        place.json(&run)["token_ids"],
        first["token_ids"],
        "a seed reproduces"
    );
    let text = place.ok(&["run", "m.chaski", "ab", "--raw", "-n", "6", "-s", "5", "-q"]);
    assert_eq!(
        text.trim_end_matches('\n'),
        first["text"].as_str().unwrap().trim_end_matches('\n')
    );
    let unlimited = place.json(&[
        "run", "m.chaski", "ab", "--raw", "-n", "-1", "-c", "16", "--temp", "0", "--json",
    ]);
    assert_ne!(unlimited["finish_reason"], "length", "{unlimited}");
    // A chat prompt goes through the template.
    let chat = place.json(&["run", "m.chaski", "ab", "-n", "2", "--temp", "0", "--json"]);
    assert!(chat["prompt_tokens"].as_u64() > first["prompt_tokens"].as_u64());
}

#[test]
fn a_checkpoint_folder_runs_and_is_kept_in_the_cache() {
    let place = Place::new(Variant::Qwen2);
    let run = ["run", "tiny", "ab", "--raw", "-n", "3", "--temp", "0"];
    let first = place.run(&run);
    assert!(
        String::from_utf8_lossy(&first.stderr).contains("converting"),
        "{first:?}"
    );
    let again = place.run(&run);
    assert!(!String::from_utf8_lossy(&again.stderr).contains("converting"));
    assert_eq!(first.stdout, again.stdout);
    for entry in fs::read_dir(place.path().join("cache/models")).unwrap() {
        fs::write(entry.unwrap().path(), "cut").unwrap();
    }
    let mended = place.run(&run);
    assert!(
        String::from_utf8_lossy(&mended.stderr).contains("is damaged and is made again"),
        "{mended:?}"
    );
    assert_eq!(first.stdout, mended.stdout);
    // A bit of a weight, which no answer would show to be wrong.
    let models = fs::read_dir(place.path().join("cache/models")).unwrap();
    let mut models = models.map(|entry| entry.unwrap().path());
    let cached = models.find(|path| path.extension().is_some_and(|e| e == "chaski"));
    let cached = cached.unwrap();
    let sound = fs::read(&cached).unwrap();
    let container = Container::open(&cached).unwrap();
    let at = container.data_range().end - 100;
    drop(container);
    let mut damaged = sound.clone();
    damaged[at as usize] ^= 1;
    fs::write(&cached, &damaged).unwrap();
    assert!(Container::open(&cached).is_ok(), "the header tells already");
    let mended = place.run(&run);
    assert!(
        String::from_utf8_lossy(&mended.stderr).contains("is damaged and is made again"),
        "{mended:?}"
    );
    assert_eq!(first.stdout, mended.stdout);
    assert!(fs::read(&cached).unwrap() == sound);
    let table = place.ok(&[
        "bench", "tiny", "--quants", "q4,q8", "-p", "8", "-n", "4", "-r", "2",
    ]);
    assert!(
        table.contains("pp8") && table.contains("tg4") && table.contains(" q8 "),
        "{table}"
    );
    let rows = place.json(&[
        "bench", "tiny", "-p", "8", "-n", "0", "-r", "2", "-o", "json",
    ]);
    assert_eq!(rows[0]["n_prompt"], 8);
    assert_eq!(rows[0]["samples_ns"].as_array().unwrap().len(), 2);
    let note = |depth: &str| {
        let out = place.run(&[
            "bench", "tiny", "-p", "0", "-n", "1", "-r", "1", "-d", depth,
        ]);
        assert!(out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stderr).contains("positions are more than")
    };
    let trained = Variant::Llama.config().max_seq_len;
    assert!(!note(&(trained - 1).to_string()));
    assert!(note(&trained.to_string()), "of {trained} positions");
}

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

#[test]
fn wrong_use_and_failures_have_their_exit_status_and_say_what_to_do() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    for (args, status, says) in [
        (&["run"][..], 2, "MODEL"),
        (&["convert", "tiny", "--quant", "q2"], 2, "q2"),
        (
            &["convert", "tiny", "--quant", "q8", "-o", "m.chaski"],
            1,
            "m.chaski",
        ),
        (
            &[
                "convert",
                "tiny",
                "--quant",
                "q4",
                "--tensor-type",
                "attn_v=q6,attn_v=q8",
            ],
            1,
            "`attn_v` is to be q6 and q8",
        ),
        (
            &["convert", "tiny", "--max-kld", "-1"],
            1,
            "expected a positive number",
        ),
        (&["convert", "tiny", "--size", "-1"], 2, "expected bytes"),
        (&["convert", "m.chaski", "--quant", "q4"], 1, "already"),
        (&["convert", "absent", "--quant", "q4"], 1, "smollm2"),
        (&["run", "./absent.chaski", "x"], 1, "no such file"),
        (&["run", "m.chaski", "--quant", "q4", "x"], 1, "fixed"),
        (&["run", "m.chaski", "x", "--temp", "-1"], 2, "--temp"),
        (&["run", "m.chaski", "x", "--temp", "nan"], 2, "from 0"),
        (&["run", "m.chaski", "x", "--top-p", "2"], 2, "from 0 to 1"),
        (&["run", "m.chaski", "x", "--min-p", "-1"], 2, "from 0 to 1"),
        (&["run", "m.chaski", "x", "--repeat-penalty", "0"], 2, "0"),
        (&["run", "m.chaski", "x", "--stop", ""], 2, "--stop"),
        (&["run", "m.chaski", "x", "-n", "-2"], 2, "-1 for no limit"),
        (&["run", "m.chaski", "x", "-c", "0"], 2, "--ctx-size"),
        (&["run", "m.chaski", "x", "--ubatch-size", "0"], 2, "65536"),
        (
            &["eval", "m.chaski", "--text", "t", "--chunk", "0"],
            2,
            "4..=16777216",
        ),
        (
            &["eval", "m.chaski", "--text", "t", "--chunks", "0"],
            2,
            "--chunks",
        ),
        (
            &["run", "m.chaski", "ab ab ab ab", "--raw", "-c", "2"],
            1,
            "2: shorten",
        ),
        (&["run", "m.chaski", "x", "-t", "0"], 2, "--threads"),
        (&["bench", "m.chaski", "-t", "1,0"], 2, "--threads"),
        (&["run", "m.chaski", "-f", "absent"], 1, "absent"),
        (&["eval", "m.chaski", "--text", "absent"], 1, "absent"),
        (
            &["bench", "m.chaski", "-d", "18446744073709551615"],
            2,
            "16777216",
        ),
        (
            &["bench", "m.chaski", "-r", "18446744073709551615"],
            2,
            "10000",
        ),
        (&["bench", "m.chaski", "-r", "0"], 2, "1..=10000"),
        (&["bench", "m.chaski", "-d", "16777216"], 1, "positions"),
        (&["verify", "tiny/config.json"], 1, "sound"),
        (
            &["verify", "m.chaski", "absent"],
            1,
            "1 of 2 files cannot be read",
        ),
        (
            &["bench", "m.chaski", "--quants", "q4"],
            1,
            "--quants: m.chaski",
        ),
        (
            &["convert", "tiny", "--quant", "q4", "-o", "absent/x"],
            1,
            "there is no folder absent",
        ),
        (&["run", "tiny/config.json", "x"], 1, "neither"),
    ] {
        let err = place.fails(args, status);
        assert!(err.contains(says), "{args:?} should say {says}:\n{err}");
    }
    let mut file = fs::read(place.path().join("m.chaski")).unwrap();
    let middle = file.len() / 2;
    file[middle] ^= 4;
    fs::write(place.path().join("bad.chaski"), file).unwrap();
    let out = place.run(&["verify", "m.chaski", "bad.chaski"]);
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.contains("m.chaski: ok") && text.contains("bad.chaski: BAD"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn a_text_without_an_end_is_refused() {
    let place = Place::new(Variant::Llama);
    for args in [
        &["eval", "tiny", "--text", "/dev/zero"][..],
        &["run", "tiny", "-f", "/dev/zero"],
    ] {
        let err = place.fails(args, 1);
        assert!(err.contains("it is longer than"), "{args:?}: {err}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_an_error_and_not_a_wait() {
    let place = Place::new(Variant::Llama);
    let fifo = |name: &str| {
        let path = place.path().join(name);
        let _ = fs::remove_file(&path);
        let made = Command::new("mkfifo").arg(&path).status();
        made.is_ok_and(|made| made.success())
    };
    if !fifo("m.chaski") {
        println!("skipped: there is no mkfifo here");
        return;
    }
    for args in [
        &["run", "m.chaski", "x"][..],
        &["plan", "m.chaski"],
        &["eval", "m.chaski", "--text", "tiny/config.json"],
        &["bench", "m.chaski"],
        &["inspect", "m.chaski"],
        &["convert", "m.chaski", "--quant", "q4"],
    ] {
        let err = place.fails(args, 1);
        assert!(err.contains("regular file"), "{args:?}: {err}");
    }
    for name in [
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
        "config.json",
    ] {
        assert!(fifo(&format!("tiny/{name}")));
        let err = place.fails(&["convert", "tiny", "--quant", "q4"], 1);
        assert!(err.contains("regular file"), "{name}: {err}");
    }
}

#[test]
fn an_unknown_simd_level_names_the_levels_there_are() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let out = place
        .command(&["run", "m.chaski", "x"])
        .env("CHASKI_SIMD", "mmx")
        .output()
        .unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(err.contains("mmx") && err.contains("scalar"), "{err}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let mut child = place
        .command(&["inspect", "m.chaski", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_standard_output_that_is_full_is_named() {
    let place = Place::new(Variant::Llama);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let out = place.command(&["models"]).stdout(full).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(err.contains("standard output"), "{err}");
}

#[test]
fn what_is_not_converted_is_planned_and_shown_without_converting_it() {
    let place = Place::new(Variant::Llama);
    let plan = [
        "plan", "tiny", "--quant", "q8", "-c", "128", "-t", "2", "--json",
    ];
    let before = place.json(&plan);
    assert_eq!(before["converted"], false);
    let models = place.path().join("cache/models");
    assert_eq!(
        fs::read_dir(&models).unwrap().count(),
        0,
        "something was made"
    );
    let shown = place.ok(&["inspect", "tiny", "--tensors"]);
    for want in ["chaski convert", "BF16", "model.layers.0.", "vocabulary"] {
        assert!(shown.contains(want), "{want}:\n{shown}");
    }
    let json = place.json(&["inspect", "tiny", "--json"]);
    assert_eq!(json["kind"], "safetensors");
    assert_eq!(json["bits_per_weight"], 16.0);
    place.ok(&["run", "tiny", "ab", "--quant", "q8", "-n", "1"]);
    let after = place.json(&plan);
    assert_eq!(after["converted"], true);
    for field in [
        "kv_cache",
        "activations",
        "scratch",
        "total_private",
        "context_len",
    ] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let bytes = |plan: &Value| plan["weights_mapped"].as_u64().unwrap();
    let tokenizer = bytes(&after) - bytes(&before);
    assert!(tokenizer < 64 << 10, "{tokenizer}");
    // What a conversion says of the bits of a weight, the file and its source say, too.
    let report = place.json(&[
        "convert", "tiny", "--quant", "q8", "-o", "m.chaski", "--json",
    ]);
    let file = place.json(&["inspect", "m.chaski", "--json"]);
    assert_eq!(report["bits_per_weight"], file["bits_per_weight"]);
    // The cache's own conversion allows what nobody asked for; here it made no difference.
    let cached = fs::read_dir(&models)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for file in cached.filter(|path| path.extension().is_some_and(|e| e == "chaski")) {
        let shown = place.json(&["inspect", file.to_str().unwrap(), "--json"]);
        assert!(shown["metadata"]["provenance"]["options"]["no-tokenizer"].is_null());
    }
}

#[test]
fn of_two_first_runs_at_once_one_converts() {
    let place = Place::new(Variant::Llama);
    let start = || {
        let mut command = place.command(&["run", "tiny", "ab", "-n", "1", "--temp", "0"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let both = [start(), start()].map(|child| child.wait_with_output().unwrap());
    let said = both
        .each_ref()
        .map(|out| String::from_utf8_lossy(&out.stderr));
    assert!(both.iter().all(|out| out.status.success()), "{said:?}");
    assert_eq!(both[0].stdout, both[1].stdout);
    let converted = said.iter().filter(|s| s.contains("converting tiny to q4"));
    assert_eq!(converted.count(), 1, "{said:?}");
}

#[test]
fn threads_from_the_environment_may_be_empty_and_too_many_are_told() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let with = |threads: &str| {
        let mut command = place.command(&["plan", "m.chaski"]);
        command.env("CHASKI_THREADS", threads).output().unwrap()
    };
    let said = |out: &Output| String::from_utf8_lossy(&out.stderr).into_owned();
    let empty = with("");
    assert!(empty.status.success(), "{}", said(&empty));
    let wrong = with("x");
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
    let many = with("1024");
    assert!(
        said(&many).contains("-t 1024 is more than the"),
        "{}",
        said(&many)
    );
    assert!(!said(&with("1")).contains("more than"));
}

/// What a killed or failed conversion may leave: nothing that opens.
fn nothing_loads(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            assert!(Container::open(&path).is_err(), "{} loads", path.display());
        }
    }
}

#[test]
fn a_conversion_killed_at_any_moment_leaves_no_file_that_loads() {
    let place = Place::new(Variant::LlamaUntied);
    let target = place.path().join("out");
    fs::create_dir(&target).unwrap();
    let args = [
        "convert",
        "tiny",
        "--quant",
        "q4",
        "-o",
        "out/m.chaski",
        "-q",
    ];
    let begin = Instant::now();
    place.ok(&args);
    let whole = begin.elapsed();
    let want = fs::read(target.join("m.chaski")).unwrap();
    let mut rng = Rng::new(7);
    let mut killed = 0;
    for _ in 0..50 {
        fs::remove_dir_all(&target).unwrap();
        fs::create_dir(&target).unwrap();
        let mut child = place.command(&args).stderr(Stdio::null()).spawn().unwrap();
        let wait = whole.as_micros() as u64 * (rng.next_u64() % 1000) / 1000;
        thread::sleep(Duration::from_micros(wait));
        // It may be done by then.
        let _ = child.kill();
        let done = child.wait().unwrap().success();
        if target.join("m.chaski").exists() {
            // Renamed: then it is whole, even if the process did not get to its end.
            assert_eq!(fs::read(target.join("m.chaski")).unwrap(), want);
            fs::remove_file(target.join("m.chaski")).unwrap();
        } else {
            assert!(!done);
            killed += 1;
        }
        nothing_loads(&target);
    }
    assert!(killed > 0, "no conversion was killed in time");
    place.ok(&[&args[..], &["--force"]].concat());
    assert_eq!(
        fs::read(target.join("m.chaski")).unwrap(),
        want,
        "a repeat gives other bytes"
    );
}

#[test]
fn types_for_a_size_are_chosen_by_what_was_measured_where_a_text_is_read() {
    let place = Place::new(Variant::Llama);
    let told = place.ok(&["convert", "tiny", "--size", "1GB", "--dry-run"]);
    // The smallest and the largest file.
    let number = |line: &str| {
        line.split_whitespace()
            .find_map(|word| word.parse::<u64>().ok())
    };
    let mut numbers = told
        .lines()
        .take_while(|line| !line.starts_with("chosen"))
        .filter_map(number);
    let (smallest, largest) = (numbers.next().unwrap(), numbers.last().unwrap());
    let size = ((smallest + largest) / 2).to_string();
    let args = |calibrate: &'static str, out: &'static str| {
        ["convert", "tiny", "--size", &size, "-o", out, calibrate].map(str::to_owned)
    };
    let sensitivities = |file: &str| {
        let inspected = place.json(&["inspect", file, "--json"]);
        let options = &inspected["metadata"]["provenance"]["options"];
        options["sensitivities"].as_str().map(str::to_owned)
    };
    let run = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = place.run(&args);
        (out.status.success(), String::from_utf8(out.stderr).unwrap())
    };
    let (ok, said) = run(&args("--calibrate=default", "m.chaski"));
    assert!(ok && said.contains("measuring what errors"), "{said}");
    let measured = sensitivities("m.chaski").unwrap();
    assert!(
        measured.starts_with("of matrices, measured on "),
        "{measured}"
    );
    assert!(fs::metadata(place.path().join("m.chaski")).unwrap().len() <= size.parse().unwrap());
    // What can be told before is not measured for.
    let (ok, said) = run(&args("--calibrate=default", "m.chaski"));
    assert!(
        !ok && said.contains("exists") && !said.contains("measuring"),
        "{said}"
    );
    let (ok, said) = run(&args("-v", "r.chaski"));
    assert!(ok && !said.contains("measuring"), "{said}");
    assert_eq!(sensitivities("r.chaski").as_deref(), Some("of roles"));
}

#[cfg(unix)]
#[test]
fn a_conversion_that_is_terminated_leaves_nothing_behind() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find(|line| line.starts_with("SigIgn:"));
    if ignored.is_some_and(|mask| mask.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f'])) {
        println!("skipped: these tests run under nohup");
        return;
    }
    let place = Place::new(Variant::LlamaUntied);
    let target = place.path().join("out");
    let args = [
        "convert",
        "tiny",
        "--quant",
        "q4",
        "-o",
        "out/m.chaski",
        "-q",
    ];
    let mut ended = 0;
    for wait in 0..40 {
        let _ = fs::remove_dir_all(&target);
        fs::create_dir(&target).unwrap();
        let mut child = place.command(&args).stderr(Stdio::null()).spawn().unwrap();
        // The temporary file shows that the handler is there.
        let begin = Instant::now();
        while fs::read_dir(&target).unwrap().next().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing written");
        }
        thread::sleep(Duration::from_micros(wait * 50));
        let signal = ["-TERM", "-HUP", "-INT"][wait as usize % 3];
        let _ = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .stderr(Stdio::null())
            .status();
        let status = child.wait().unwrap();
        let left: Vec<_> = fs::read_dir(&target)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        if status.success() {
            assert_eq!(left, ["m.chaski"]);
        } else {
            assert_eq!(status.code(), Some(130), "{signal}");
            assert!(left.is_empty(), "{signal}: {left:?}");
            ended += 1;
        }
    }
    println!("{ended} of 40 conversions were ended");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_clear_error() {
    let place = Place::new(Variant::Llama);
    let small = place.path().join("small");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"])
        .arg(&small)
        .output();
    if !mount.is_ok_and(|m| m.status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    let err = place.run(&["convert", "tiny", "--quant", "f32", "-o", "small/m.chaski"]);
    let left: Vec<_> = fs::read_dir(&small).unwrap().collect();
    let unmounted = Command::new("umount").arg(&small).status().unwrap();
    let text = String::from_utf8(err.stderr).unwrap();
    assert!(unmounted.success());
    assert_eq!(err.status.code(), Some(1), "{text}");
    assert!(
        text.contains("m.chaski") && !text.contains("panicked"),
        "{text}"
    );
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn threads_are_bound_and_weights_kept_as_asked_or_the_error_says_why_not() {
    let place = Place::new(Variant::Llama);
    fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let run = ["run", "tiny", "--raw", "the", "-n", "4", "--temp", "0"];
        [&run[..], more].concat()
    }
    let want = place.ok(&with(&[]));
    for bad in ["", "x", "3-1"] {
        let err = place.fails(&with(&["--cpu-list", bad]), 2);
        assert!(err.contains("is no list of processors"), "{err}");
    }
    if !cfg!(target_os = "linux") {
        for flags in [&["--cpu-list", "0"][..], &["--mlock"], &["--hugepages"]] {
            let err = place.fails(&with(flags), 1);
            assert!(err.contains("not supported on this system"), "{err}");
        }
        return;
    }
    let allowed = chaski::os::allowed_cpus().unwrap();
    let one = allowed[0].to_string();
    assert_eq!(place.ok(&with(&["--cpu-list", &one])), want);
    assert_eq!(place.ok(&with(&["--cpu-list", &one, "-t", "3"])), want);
    let err = place.fails(&with(&["--cpu-list", &format!("{one},99999")]), 1);
    assert!(
        err.contains("processor 99999 does not exist: there are "),
        "{err}"
    );
    assert_eq!(place.ok(&with(&["--hugepages"])), want);
    let locked = place.run(&with(&["--mlock"]));
    if locked.status.success() {
        assert_eq!(String::from_utf8(locked.stdout).unwrap(), want);
    } else {
        let err = String::from_utf8(locked.stderr).unwrap();
        assert!(err.contains("RLIMIT_MEMLOCK"), "{err}");
    }
    let bench = [
        "bench", "tiny", "-p", "0", "-n", "2", "-r", "1", "-o", "json",
    ];
    let rows = place.json(&[&bench[..], &["--cpu-list", &one, "--hugepages"]].concat());
    assert_eq!(rows[0]["n_threads"], 1);
    assert!(rows[0]["read_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(rows[0]["read_share"].as_f64().unwrap() > 0.0);
}

/// A folder of one's own is not taken for the catalogue entry of the same name, nor for another
/// folder of that name.
#[test]
fn a_folder_with_the_name_of_a_catalogue_entry_is_kept_as_what_it_is() {
    let place = Place::new(Variant::Llama);
    let models = || {
        let mut names: Vec<_> = fs::read_dir(place.path().join("cache/models"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .filter(|name| name.to_string_lossy().ends_with(".chaski"))
            .collect();
        names.sort();
        names
    };
    let mut seen = 0;
    for parent in ["a", "b"] {
        let folder = place.path().join(parent).join("smollm2");
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        fs::create_dir(&folder).unwrap();
        for file in fs::read_dir(place.path().join("tiny")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        place.ok(&["run", folder.to_str().unwrap(), "ab", "-n", "1"]);
        seen += 1;
        assert_eq!(models().len(), seen, "{:?}", models());
    }
    // The catalogue's own file is named after the SHA-256 of its source.
    for name in models() {
        assert!(!name.to_string_lossy().contains("b179c9523d0e"), "{name:?}");
    }
}
