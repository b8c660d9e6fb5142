//! The command, as a user runs it.

mod convert;
mod eval;
mod refused;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use chaski_models::testing::{CheckpointOptions, FloatType, Variant, write_checkpoint};
use chaski_quant::container::Container;
use serde_json::Value;
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
