//! `chaski convert`: what is left behind, and types for a size.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use chaski_models::testing::{Rng, Variant};
use chaski_quant::container::Container;
use serde_json::Value;

use super::Place;

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
    // Types are shown as the tensors have them, of which a role may have several.
    let tensors = place.json(&["inspect", "m.chaski", "--json"])["tensors"].clone();
    let shown = place.ok(&["inspect", "m.chaski"]);
    for role in ["token_embd", "attn_q", "attn_v", "attn_output", "ffn_down"] {
        let of_role = |t: &&Value| t["name"].as_str().unwrap().ends_with(role);
        let own = tensors.as_array().unwrap().iter().filter(of_role);
        let mut types: Vec<&str> = own.map(|t| t["type"].as_str().unwrap()).collect();
        types.sort_unstable();
        types.dedup();
        let line = shown.lines().find(|l| l.starts_with(role)).unwrap();
        for name in &types {
            assert!(line.contains(name), "{name} in {line}");
        }
        assert_eq!(line.contains('('), types.len() > 1, "{line}");
    }
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
