//! What `run` does between a user and a model: what is told, and how it is stopped.

use std::{
    fs,
    io::{Read, Write},
    process::{Child, Stdio},
};

use chaski_models::testing::Variant;
use serde_json::{Value, json};

use super::cli::Place;

/// A place whose checkpoint has `change` made to the JSON of `file`.
fn changed(file: &str, change: impl FnOnce(&mut Value)) -> Place {
    let place = Place::new(Variant::Llama);
    let path = place.path().join("tiny").join(file);
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    place
}

#[test]
fn characters_without_a_token_are_told() {
    // The token of the byte 4, which byte-level vocabularies write as U+0104, becomes another one.
    let place = changed("tokenizer.json", |json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("\u{104}").unwrap();
        vocab.insert("zzz".to_owned(), id);
    });
    let text = "a\u{4}b\u{4}";
    for raw in [&["--raw"][..], &[]] {
        let out = place.run(&[&["run", "tiny", text, "-n", "1"], raw].concat());
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{err}");
        assert!(
            err.contains("2 left out, the first is U+0004 '\\u{4}'"),
            "{err}"
        );
    }
    let out = place.run(&["run", "tiny", "ab", "--raw", "-n", "1"]);
    assert!(!String::from_utf8_lossy(&out.stderr).contains("no token"));
    let unknown = changed("tokenizer.json", |json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("\u{104}").unwrap();
        vocab.insert("zzz".to_owned(), id);
        json["model"]["unk_token"] = json!("zzz");
    });
    let out = unknown.run(&["run", "tiny", text, "--raw", "-n", "1"]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(
        err.contains("2 made its unknown token, the first is U+0004"),
        "{err}"
    );
    fs::write(place.path().join("text"), "ab\u{4} ".repeat(40)).unwrap();
    let out = place.run(&[
        "eval", "tiny", "--text", "text", "--chunk", "16", "--chunks", "1",
    ]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.contains("40 left out"), "{err}");
}

#[test]
fn a_broken_template_is_told_when_it_is_converted_and_raw_goes_without_it() {
    let place = changed("tokenizer_config.json", |json| {
        json["chat_template"] = json!("{% for m in messages %}\n  {{ m. }}");
    });
    let out = place.run(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{err}");
    assert!(
        err.contains("chat template does not compile at line 2, column"),
        "{err}"
    );
    assert!(
        place
            .ok(&["inspect", "m.chaski", "--json"])
            .contains("line 2")
    );
    let err = place.fails(&["run", "m.chaski", "x"], 1);
    assert!(err.contains("--raw") && err.contains("line 2"), "{err}");
    place.ok(&["run", "m.chaski", "x", "--raw", "-n", "2"]);
}

#[test]
fn a_special_token_in_a_message_is_text_wherever_the_template_writes_it() {
    let n_prompt = |template: &str, prompt: &str| {
        let place = changed("tokenizer_config.json", |json| {
            json["chat_template"] = json!(template);
        });
        let run = ["run", "tiny", prompt, "-n", "1", "--json"];
        place.json(&run)["prompt_tokens"].as_u64().unwrap()
    };
    let own = "<|turn|>x<|eot|>";
    // `<|eot|>` has no merges: seven bytes, seven tokens.
    let once = n_prompt("{{ messages[0].content }}", "<|eot|>");
    assert!(once > 1, "{once}");
    let twice = "{{ messages[0].content }}<|turn|>{{ messages[0].content }}";
    assert_eq!(n_prompt(twice, "<|eot|>"), 2 * once + 1);
    let text = n_prompt("{{ messages[0].content }}", own);
    let after_itself = format!("{own}{{{{ messages[0].content }}}}");
    assert_eq!(n_prompt(&after_itself, own), 3 + text);
}

#[test]
fn standard_input_is_the_prompt_and_an_empty_one_is_none() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let with_input = |text: &str| {
        let mut child = place
            .command(&[
                "run", "m.chaski", "--raw", "--temp", "0", "-n", "4", "--json",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    };
    let piped: Value = serde_json::from_slice(&with_input("ab\n").stdout).unwrap();
    let given = place.json(&[
        "run", "m.chaski", "ab", "--raw", "--temp", "0", "-n", "4", "--json",
    ]);
    assert_eq!(piped["token_ids"], given["token_ids"]);
    let out = with_input("\n");
    assert_eq!(out.status.code(), Some(1));
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(err.contains("standard input is empty"), "{err}");
}

#[test]
fn a_prompt_and_standard_input_are_joined_where_that_is_asked_for_and_else_told() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let args = |more: &[&'static str]| {
        let own = [
            "run", "m.chaski", "--raw", "--temp", "0", "-n", "4", "--json",
        ];
        [&own[..], more].concat()
    };
    let start = |more: &[&'static str]| {
        let mut command = place.command(&args(more));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let with_input = |more: &[&'static str], text: &str| {
        let mut child = start(more);
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    };
    let ids = |out: &std::process::Output| {
        let json: Value = serde_json::from_slice(&out.stdout).unwrap();
        json["token_ids"].clone()
    };
    let said = |out: &std::process::Output| String::from_utf8_lossy(&out.stderr).into_owned();
    let joined = with_input(&["ab", "-f", "-"], "cd\n");
    let whole = place.run(&args(&["ab\n\ncd"]));
    assert_eq!(ids(&joined), ids(&whole), "{}", said(&joined));
    fs::write(place.path().join("text"), "cd").unwrap();
    assert_eq!(ids(&place.run(&args(&["ab", "-f", "text"]))), ids(&whole));
    let alone = place.run(&args(&["ab"]));
    assert!(!said(&alone).contains("standard input"), "{}", said(&alone));
    // A pipe that nobody writes to and nobody closes.
    let mut silent = start(&["ab"]);
    let _open = silent.stdin.take().unwrap();
    let silent = silent.wait_with_output().unwrap();
    assert_eq!(ids(&silent), ids(&alone));
    assert!(
        !said(&silent).contains("standard input"),
        "{}",
        said(&silent)
    );
    let unread = with_input(&["ab"], "cd\n");
    assert_eq!(ids(&unread), ids(&alone));
    if cfg!(target_os = "linux") {
        let n_told = said(&unread).matches("standard input is not read").count();
        assert_eq!(n_told, 1, "{}", said(&unread));
        let file = fs::File::open(place.path().join("text")).unwrap();
        let out = place.command(&args(&["ab"])).stdin(file).output().unwrap();
        assert!(
            said(&out).contains("standard input is not read"),
            "{}",
            said(&out)
        );
    }
}

#[test]
fn the_end_at_a_stop_text_is_told() {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let run = ["run", "m.chaski", "ab", "--raw", "-n", "8", "--temp", "0"];
    let text = place.json(&[&run[..], &["--json"]].concat())["text"].clone();
    let stop: String = text.as_str().unwrap().chars().skip(1).take(1).collect();
    let out = place.run(&[&run[..], &["--stop", &stop]].concat());
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(
        err.contains("ended at a stop text (--stop)"),
        "{text} {err}"
    );
}

#[test]
fn a_checkpoint_whose_files_contradict_themselves_is_refused() {
    let place = changed("generation_config.json", |json| {
        json["repetition_penalty"] = json!(0);
    });
    let err = place.fails(&["convert", "tiny", "--quant", "q8"], 1);
    assert!(
        err.contains("repetition_penalty") && err.contains("above 0"),
        "{err}"
    );
    let place = Place::new(Variant::Llama);
    let config = place.path().join("tiny/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen('{', "{\"hidden_size\": 64,", 1)).unwrap();
    let err = place.fails(&["convert", "tiny", "--quant", "q8"], 1);
    assert!(err.contains("`hidden_size` stands twice"), "{err}");
}

/// `script` of util-linux gives the command a terminal.
#[cfg(target_os = "linux")]
#[test]
fn an_answer_on_a_terminal_steers_nothing() {
    let has_script = std::process::Command::new("script")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !has_script.is_ok_and(|status| status.success()) {
        println!("skipped: there is no `script` to make a terminal with");
        return;
    }
    // The end tokens are others, so that the answer goes on.
    let place = changed("generation_config.json", |json| {
        json["eos_token_id"] = json!([300]);
    });
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let run = [
        "run", "m.chaski", "ab", "--raw", "-n", "200", "-s", "1", "--temp", "100", "--top-k", "0",
        "--top-p", "1", "--min-p", "0", "-q",
    ];
    let steers = |c: char| c.is_control() && !"\n\t\r".contains(c);
    let piped = place.ok(&run);
    assert!(
        piped.contains(steers),
        "the model says nothing of the kind: {piped:?}"
    );
    let command = format!("{} {}", env!("CARGO_BIN_EXE_chaski"), run.join(" "));
    let out = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(place.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&out.stdout);
    // The terminal itself answers the end of the input.
    let shown = shown.trim_start_matches("^D\u{8}\u{8}");
    assert!(
        shown.contains("\\u{") && !shown.contains(steers),
        "{shown:?}"
    );
}

/// Whether a process has a handler for Ctrl-C, as far as the system tells.
#[cfg(unix)]
fn catches_interrupts(process: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) else {
        return true;
    };
    let mut lines = status.lines();
    let caught = lines.find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & 2 != 0)
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer_with_what_was_said_and_status_130() {
    let interrupt = |child: &Child| {
        let id = child.id().to_string();
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args(["-INT", &id]).status().unwrap().success());
    };
    // The end tokens are others, so that the answer goes on until the context is full.
    let place = changed("generation_config.json", |json| {
        json["eos_token_id"] = json!([300]);
    });
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    for json in [&[][..], &["--json"]] {
        let args = ["run", "m.chaski", "ab", "--raw", "-c", "1000000", "-s", "1"];
        let mut child = place
            .command(&[&args[..], json].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut text = vec![0; 1];
        if json.is_empty() {
            out.read_exact(&mut text).unwrap();
        } else {
            // Nothing shows that the answer has begun; that the signal is waited for comes before.
            while !catches_interrupts(child.id()) {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            std::thread::sleep(std::time::Duration::from_millis(1500));
            text.clear();
        }
        interrupt(&child);
        out.read_to_end(&mut text).unwrap();
        let done = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(130), "{err}");
        assert!(err.contains("stopped by Ctrl-C"), "{err}");
        if !json.is_empty() {
            let document: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(document["finish_reason"], "cancelled");
        }
    }
}

/// `script` of util-linux gives the command a terminal.
#[cfg(target_os = "linux")]
#[test]
fn a_chat_on_a_terminal_follows_its_commands() {
    if !std::process::Command::new("script")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("skipped: there is no `script` to make a terminal with");
        return;
    }
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q8", "-o", "m.chaski"]);
    let chat = |lines: &str| {
        let command = format!(
            "{} run m.chaski -n 3 -s 1 --system brief",
            env!("CARGO_BIN_EXE_chaski")
        );
        let mut child = std::process::Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .current_dir(place.path())
            .env("CHASKI_CACHE", place.path().join("cache"))
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        // A line for each prompt, which begins by switching bracketed paste on; what is typed before
        // it is not kept.
        let mut lines = lines.split_inclusive('\n');
        let mut n_sent = 0;
        loop {
            let n = stdout.read(&mut buffer).unwrap_or(0);
            if n == 0 {
                break;
            }
            text.extend_from_slice(&buffer[..n]);
            let prompt = b"\x1b[?2004h";
            while n_sent < text.windows(prompt.len()).filter(|w| w == prompt).count() {
                // At the end of the lines: Ctrl-D.
                let line = lines.next().unwrap_or("\x04");
                stdin.write_all(line.as_bytes()).unwrap();
                n_sent += 1;
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(child.wait().unwrap().success(), "{text}");
        text
    };
    let turns = |file: &str| {
        let json: Value =
            serde_json::from_slice(&fs::read(place.path().join(file)).unwrap()).unwrap();
        json["turns"].as_array().unwrap().clone()
    };
    let text = chat(concat!(
        "ab\n/stats\n/save one.json\n/regen\n/clear\n/stats\n/save none.json\n/load one.json\n",
        "/load absent.json\n/nonsense\nba\n/save two.json\n/save two.json\n/save! two.json\n",
        "/exit\n"
    ));
    for want in [
        "3 messages,",
        "positions used, seed 1",
        "saved 3 messages",
        "forgotten",
        "1 message, 0 of",
        "two.json exists already: /save! two.json replaces it",
        "saved 5 messages",
        "saved 1 message\r\n",
        "absent.json",
        "there is no /nonsense",
        "answer 3 tokens",
    ] {
        assert!(text.contains(want), "{want}:\n{text}");
    }
    let (one, two) = (turns("one.json"), turns("two.json"));
    assert_eq!(one.len(), 3);
    assert_eq!(turns("none.json"), one[..1], "the system message stays");
    assert_eq!(two[..3], one[..], "what was loaded is continued");
    assert_eq!(two[3]["content"], "ba");
    assert_eq!(two.len(), 5);
    // The second chat finds the first one's history: the key for the line before brings /exit back.
    assert!(chat("\x1b[A\n").contains("/exit"), "no history");
}
