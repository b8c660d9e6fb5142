//! Both in turn, round by round, so that what else the machine does falls on both.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use chaski::{
    ModelOptions,
    bench::{self, BenchOptions, Row, mean_and_deviation},
    os,
};
use ggml_sys_bindgen::ContextOptions;
use serde_json::json;

use crate::{
    args::CompareArgs,
    machine, needed_folder,
    opponent::{Bench, Library, Opponent, Test},
};

/// So long threads of the one may spin before they sleep, which would slow the other.
const PAUSE: Duration = Duration::from_millis(300);

/// What a test gave, a pair a round: tokens per second of the peer and of chaski.
struct Measured {
    test: Test,
    pairs: Vec<(f64, f64)>,
    weight_bytes_per_token: u64,
}

impl Measured {
    /// Of chaski's speed to the peer's in a round: smallest, median, largest.
    fn ratios(&self) -> [f64; 3] {
        let mut ratios: Vec<f64> = self.pairs.iter().map(|(peer, ours)| ours / peer).collect();
        ratios.sort_by(f64::total_cmp);
        let n = ratios.len();
        let median = (ratios[(n - 1) / 2] + ratios[n / 2]) / 2.0;
        [ratios[0], median, ratios[n - 1]]
    }

    /// Mean and deviation of the peer's speed and of chaski's.
    fn speeds(&self) -> [(f64, f64); 2] {
        let (peer, ours): (Vec<f64>, Vec<f64>) = self.pairs.iter().copied().unzip();
        [mean_and_deviation(&peer), mean_and_deviation(&ours)]
    }
}

pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let tests: Vec<Test> = [(args.n_prompt, 0), (0, args.n_gen)]
        .into_iter()
        .filter(|&(p, n)| p + n > 0)
        .map(|(n_prompt, n_gen)| Test {
            n_prompt,
            n_gen,
            n_depth: args.n_depth,
        })
        .collect();
    ensure!(
        !tests.is_empty(),
        "there is nothing to measure: give -p or -n a number above 0"
    );
    let threads = args.threads.unwrap_or_else(os::default_threads);
    let options = ContextOptions {
        context_len: args.n_depth + args.n_prompt.max(args.n_gen),
        threads,
        ubatch: args.ubatch,
    };
    let mut peer: Box<dyn Opponent> = match &args.llama_bench {
        Some(command) => Box::new(Bench::new(command, &args.gguf, options)?),
        None => {
            let dir = needed_folder()?;
            Box::new(Library::open(
                &dir,
                args.cpu.as_deref(),
                &args.gguf,
                options,
            )?)
        }
    };
    let before = [1, threads].map(machine::read_bandwidth);
    let mut ours = String::new();
    let mut all = Vec::new();
    for test in tests {
        let mut measured = Measured {
            test,
            pairs: Vec::new(),
            weight_bytes_per_token: 0,
        };
        for round in 1..=args.rounds {
            thread::sleep(PAUSE);
            let theirs = peer.measure(test)?;
            thread::sleep(PAUSE);
            let row = chaski_speed(args, test, threads)?;
            ours = format!(
                "chaski {}, {} ({})",
                row.build_commit, row.model_type, row.backends
            );
            measured.weight_bytes_per_token = row.weight_bytes_per_token;
            measured.pairs.push((theirs, row.avg_ts));
            let mut stderr = io::stderr().lock();
            let (name, ratio) = (test.name(), row.avg_ts / theirs);
            writeln!(
                stderr,
                "{name}, round {round} of {}: {theirs:.2} and {:.2} t/s, ratio {ratio:.3}",
                args.rounds, row.avg_ts
            )?;
        }
        all.push(measured);
    }
    let after = [1, threads].map(machine::read_bandwidth);
    let text = if args.json {
        json_report(&peer.name(), &ours, threads, [before, after], &all)
    } else {
        report(&peer.name(), &ours, threads, [before, after], &all)
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// One measurement of chaski, as `chaski bench` makes it.
fn chaski_speed(args: &CompareArgs, test: Test, threads: usize) -> anyhow::Result<Row> {
    let options = BenchOptions {
        gpu_layers: chaski::backend::GpuLayers::NONE,
        n_prompt: vec![test.n_prompt],
        n_gen: vec![test.n_gen],
        n_depth: vec![test.n_depth],
        repetitions: 1,
        threads: vec![threads],
        kv_type: chaski_quant::scalar::attention::KvType::F16,
        ubatch: args.ubatch,
        cpus: Vec::new(),
        model: ModelOptions::default(),
        cancel: None,
    };
    let rows = bench::run(&args.chaski, &options, &mut |_, _, _| {})
        .with_context(|| format!("chaski could not measure {}", args.chaski.display()))?;
    rows.into_iter().next().context("chaski measured nothing")
}

fn report(
    peer: &str,
    ours: &str,
    threads: usize,
    bandwidth: [[f64; 2]; 2],
    all: &[Measured],
) -> String {
    let [[one, many], [one_after, many_after]] = bandwidth;
    let mut text = format!(
        "{}, {threads} threads; memory read at {one:.1} GB/s by one thread, {many:.1} by all ({one_after:.1} and \
         {many_after:.1} afterwards)\npeer: {peer}\nours: {ours}\n\n\
         | test | rounds | peer t/s | chaski t/s | ratio: median (smallest to largest) |\n\
         | ---: | ---: | ---: | ---: | ---: |\n",
        os::cpu_name()
    );
    for m in all {
        let [(peer, peer_dev), (ours, ours_dev)] = m.speeds();
        let [low, median, high] = m.ratios();
        text += &format!(
            "| {} | {} | {peer:.2} ± {peer_dev:.2} | {ours:.2} ± {ours_dev:.2} | {median:.3} ({low:.3} to {high:.3}) |\n",
            m.test.name(),
            m.pairs.len()
        );
        if m.test.n_gen > 0 {
            let rate = ours * m.weight_bytes_per_token as f64 / 1e9;
            text += &format!(
                "\nchaski reads {rate:.1} GB/s of weights while it answers, {:.0} % of what the machine can.\n",
                100.0 * rate / many.max(many_after)
            );
        }
    }
    text
}

fn json_report(
    peer: &str,
    ours: &str,
    threads: usize,
    bandwidth: [[f64; 2]; 2],
    all: &[Measured],
) -> String {
    let tests: Vec<_> = all
        .iter()
        .map(|m| {
            let [(peer, peer_dev), (ours, ours_dev)] = m.speeds();
            let [low, median, high] = m.ratios();
            json!({
                "test": m.test.name(),
                "n_prompt": m.test.n_prompt, "n_gen": m.test.n_gen, "n_depth": m.test.n_depth,
                "peer_ts": peer, "peer_stddev_ts": peer_dev,
                "chaski_ts": ours, "chaski_stddev_ts": ours_dev,
                "ratio": median, "ratio_min": low, "ratio_max": high,
                "pairs": m.pairs,
                "weight_bytes_per_token": m.weight_bytes_per_token,
            })
        })
        .collect();
    let report = json!({
        "schema": 1,
        "cpu": os::cpu_name(),
        "threads": threads,
        "read_gb_per_s": {"before": bandwidth[0], "after": bandwidth[1]},
        "peer": peer,
        "chaski": ours,
        "tests": tests,
    });
    format!("{report:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(pairs: &[(f64, f64)]) -> Measured {
        Measured {
            test: Test {
                n_prompt: 0,
                n_gen: 8,
                n_depth: 0,
            },
            pairs: pairs.to_vec(),
            weight_bytes_per_token: 1_000_000_000,
        }
    }

    #[test]
    fn ratios_are_those_of_the_rounds() {
        assert_eq!(measured(&[(2.0, 3.0)]).ratios(), [1.5; 3]);
        assert_eq!(
            measured(&[(2.0, 4.0), (2.0, 2.0)]).ratios(),
            [1.0, 1.5, 2.0]
        );
        assert_eq!(
            measured(&[(1.0, 4.0), (1.0, 1.0), (1.0, 2.0)]).ratios(),
            [1.0, 2.0, 4.0]
        );
    }

    #[test]
    fn the_report_has_every_test() {
        let all = [measured(&[(2.0, 4.0), (2.0, 2.0)])];
        let text = report("theirs", "ours", 2, [[10.0, 20.0], [11.0, 30.0]], &all);
        assert!(
            text.contains("| tg8 | 2 | 2.00 ± 0.00 | 3.00 ± 1.41 | 1.500 (1.000 to 2.000) |"),
            "{text}"
        );
        assert!(
            text.contains("3.0 GB/s of weights while it answers, 10 %"),
            "{text}"
        );
        let json = json_report("theirs", "ours", 2, [[10.0, 20.0], [11.0, 30.0]], &all);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&json["schema"], &json["tests"][0]["ratio"]),
            (&json!(1), &json!(1.5))
        );
    }
}
