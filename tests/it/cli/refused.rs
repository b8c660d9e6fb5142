//! Wrong use, and what is outside the program and fails.

use std::{
    fs,
    process::{Command, Stdio},
};

use chaski_models::testing::Variant;

use super::Place;

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
