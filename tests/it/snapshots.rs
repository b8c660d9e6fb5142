//! What the command prints, whole: a newcomer reads these texts.
//!
//! The texts are in `tests/it/snapshots/`. `CHASKI_UPDATE_SNAPSHOTS=1 cargo test snapshots` writes
//! them anew; read the difference before it is committed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use chaski_models::testing::Variant;

use super::cli::Place;

/// Compares `text` with the file `name`.
fn check(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/snapshots")
        .join(name);
    if env::var_os("CHASKI_UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        return;
    }
    let want = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == want,
        "{} differs.\n--- want\n{want}\n--- got\n{text}\n(CHASKI_UPDATE_SNAPSHOTS=1 accepts it)",
        file.display()
    );
}

/// Paths become `DIR`, and numbers that differ between runs and machines `N`.
fn filtered(place: &Place, text: &str) -> String {
    let dirs: Vec<PathBuf> = [
        Some(place.path().to_owned()),
        place.path().canonicalize().ok(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut text = text.to_owned();
    for dir in dirs {
        text = text.replace(&dir.display().to_string(), "DIR");
    }
    text = text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let mut out = String::new();
    for line in text.lines() {
        // "in 0.1 s" and hashes of sources, which name their time of change.
        let words: Vec<String> = line
            .split(' ')
            .map(|word| {
                let seconds = word.parse::<f64>().is_ok() && word.contains('.');
                if seconds && line.ends_with(" s") && line.ends_with(&format!("{word} s")) {
                    "N".to_owned()
                } else {
                    word.to_owned()
                }
            })
            .collect();
        out += words.join(" ").trim_end();
        out.push('\n');
    }
    out
}

/// Both outputs and the status of a command.
fn shown(place: &Place, args: &[&str]) -> String {
    // The width of the help must not come from a terminal.
    let out = place.command(args).env("COLUMNS", "100").output().unwrap();
    let part = |bytes: &[u8]| filtered(place, &String::from_utf8_lossy(bytes));
    let mut text = format!("$ chaski {}\n", args.join(" "));
    text += &part(&out.stdout);
    let err = part(&out.stderr);
    if !err.is_empty() {
        text += &format!("--- on standard error\n{err}");
    }
    if out.status.code() != Some(0) {
        text += &format!("--- exit status {}\n", out.status.code().unwrap_or(-1));
    }
    text
}

#[test]
fn snapshots_of_help() {
    let place = Place::new(Variant::Llama);
    check("help.txt", &shown(&place, &["--help"]));
    for command in [
        "run",
        "convert",
        "inspect",
        "verify",
        "plan",
        "eval",
        "bench",
        "models",
        "completions",
    ] {
        check(
            &format!("help-{command}.txt"),
            &shown(&place, &[command, "--help"]),
        );
    }
}

#[test]
fn snapshots_of_reports() {
    let place = Place::new(Variant::Llama);
    let convert = ["convert", "tiny", "--quant", "q4", "-o", "m.chaski"];
    check(
        "dry-run.txt",
        &shown(&place, &[&convert[..], &["--dry-run"]].concat()),
    );
    check("convert.txt", &shown(&place, &convert));
    check("inspect.txt", &shown(&place, &["inspect", "m.chaski"]));
    check(
        "inspect-source.txt",
        &shown(&place, &["inspect", "tiny", "--tensors"]),
    );
    check("verify.txt", &shown(&place, &["verify", "m.chaski"]));
    check(
        "plan.txt",
        &shown(&place, &["plan", "m.chaski", "-c", "128", "-t", "2"]),
    );
    check("models.txt", &shown(&place, &["models"]));
}

#[test]
fn snapshots_of_errors() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    fs::write(place.path().join("zeros"), [0; 64]).unwrap();
    fs::write(place.path().join("text.txt"), "ab").unwrap();
    fs::write(place.path().join("cut.chaski"), {
        let whole = fs::read(place.path().join("m.chaski")).unwrap();
        whole[..whole.len() / 2].to_vec()
    })
    .unwrap();
    fs::create_dir(place.path().join("empty")).unwrap();
    let mut text = String::new();
    for args in [
        &[][..],
        &["run"],
        &["rnu", "m.chaski"],
        &["run", "smolm2", "x"],
        &["run", "./absent.chaski", "x"],
        &["run", "owner/name", "x"],
        &["run", "-m", "m.chaski", "-p", "x"],
        &["run", "m.chaski", "-ngl", "-1", "x"],
        &["run", "m.chaski", "-ctk", "q3", "x"],
        &["chat", "m.chaski"],
        &["run", "text.txt", "x"],
        &["run", "zeros", "x"],
        &["run", "cut.chaski", "x"],
        &["run", "empty", "x"],
        &["run", "m.chaski", "--quant", "q4", "x"],
        &["run", "m.chaski", "--quant", "q2", "x"],
        &["run", "m.chaski"],
        &["run", "m.chaski", "-f", "absent"],
        &["run", "m.chaski", "-c", "0", "x"],
        &["run", "m.chaski", "-c", "2", "--raw", "ab ab ab ab"],
        &["run", "m.chaski", "-t", "0", "x"],
        &["run", "m.chaski", "--temp", "-1", "x"],
        &["run", "m.chaski", "--top-p", "2", "x"],
        &["run", "m.chaski", "--logprobs=2", "x"],
        &["convert", "tiny"],
        &["convert", "tiny", "--quant", "q8", "-o", "m.chaski"],
        &["convert", "tiny", "--quant", "q8", "-t", "0"],
        &["convert", "m.chaski", "--quant", "q4"],
        &["convert", "empty", "--quant", "q4"],
        &["inspect", "absent"],
        &["inspect", "text.txt"],
        &["verify", "cut.chaski", "m.chaski"],
        &["verify", "absent", "m.chaski"],
        &["bench", "m.chaski", "--quants", "q4"],
        &["convert", "tiny", "--quant", "q8", "-o", "absent/x.chaski"],
        &["plan", "m.chaski", "-c", "99999999999"],
        &["eval", "m.chaski", "--text", "absent"],
        &["eval", "m.chaski", "--text", "text.txt"],
        &["bench", "m.chaski", "-r", "0"],
        &["bench", "m.chaski", "-p", "0", "-n", "0"],
    ] {
        text += &shown(&place, args);
        text.push('\n');
    }
    check("errors.txt", &text);
}
