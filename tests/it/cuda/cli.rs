//! `-ngl` where no GPU is to be had: the devices that there may be are hidden.

use std::process::Output;

use chaski_models::testing::Variant;

use crate::cli::Place;

fn place() -> Place {
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q4", "-o", "m.chaski"]);
    place
}

/// A command that sees no GPU.
fn blind(place: &Place, args: &[&str]) -> Output {
    let mut command = place.command(args);
    command.env("CUDA_VISIBLE_DEVICES", "").output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What an error says of why there is no GPU.
fn cause() -> &'static str {
    match cfg!(feature = "cuda") {
        true => "CUDA driver",
        false => "without the feature `cuda`",
    }
}

#[test]
fn layers_that_cannot_go_anywhere_are_an_error_that_says_what_to_do() {
    let place = place();
    for args in [
        &["run", "m.chaski", "ab", "--raw", "-n", "2", "-ngl", "all"][..],
        &["run", "m.chaski", "ab", "--raw", "-n", "2", "-ngl=1"],
        &[
            "run",
            "m.chaski",
            "ab",
            "--raw",
            "-n",
            "2",
            "--gpu-layers",
            "2",
        ],
        &[
            "bench", "m.chaski", "-p", "4", "-n", "2", "-r", "1", "-ngl", "9",
        ],
    ] {
        let out = blind(&place, args);
        let err = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains(cause()), "{args:?}: {err}");
        assert!(err.contains("-ngl 0"), "{args:?}: {err}");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
    }
    let out = blind(&place, &["run", "m.chaski", "ab", "-ngl", "some"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("auto or all"));
    for wrong in ["-1", "18446744073709551616", "", "ALL", "1.5"] {
        let out = blind(&place, &["bench", "m.chaski", "-ngl", wrong]);
        let err = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{wrong}: {err}");
        assert!(err.contains("auto or all"), "{wrong}: {err}");
    }
}

#[test]
fn auto_without_a_gpu_says_so_in_one_line_and_uses_the_cpu() {
    let place = place();
    let run = |ngl: &str| {
        let args = [
            "run", "m.chaski", "ab", "--raw", "-n", "6", "--temp", "0", "-ngl", ngl,
        ];
        let out = blind(&place, &args);
        assert!(out.status.success(), "{}", text(&out.stderr));
        out
    };
    let (auto, cpu) = (run("auto"), run("0"));
    assert_eq!(auto.stdout, cpu.stdout);
    let told = |out: &Output| {
        let lines = text(&out.stderr).lines().map(str::to_owned);
        lines
            .filter(|l| l.contains("-ngl auto"))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&cpu), [""; 0]);
    let [line] = &told(&auto)[..] else {
        panic!("{}", text(&auto.stderr));
    };
    assert!(
        line.contains("on the CPU") && line.contains(cause()),
        "{line}"
    );
}

#[test]
fn what_layers_take_on_a_gpu_is_planned_without_one() {
    let place = place();
    let plan = |ngl: &str| -> serde_json::Value {
        let out = blind(
            &place,
            &["plan", "m.chaski", "-c", "128", "-ngl", ngl, "--json"],
        );
        assert!(out.status.success(), "{}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let (none, one, all) = (plan("0"), plan("1"), plan("all"));
    assert!(none.get("gpu").is_none());
    assert_eq!(
        (&one["gpu"]["layers"], &one["gpu"]["head"]),
        (&1.into(), &false.into())
    );
    assert_eq!(
        (&all["gpu"]["layers"], &all["gpu"]["head"]),
        (&2.into(), &true.into())
    );
    let number = |plan: &serde_json::Value, field: &str| plan["gpu"][field].as_u64().unwrap();
    for plan in [&one, &all] {
        let parts = ["weights", "kv_cache", "buffers"].map(|f| number(plan, f));
        assert_eq!(number(plan, "total"), parts.iter().sum::<u64>());
    }
    assert_eq!(number(&all, "kv_cache"), 2 * number(&one, "kv_cache"));
    let auto = plan("auto");
    assert!(auto.get("gpu").is_none());
    assert!(auto["notes"][0].as_str().unwrap().contains("-ngl auto"));
    let shown = place.ok(&["plan", "m.chaski", "-c", "128", "-ngl", "all"]);
    assert!(
        shown.contains("on the GPU: 2 layers and the head"),
        "{shown}"
    );
}
