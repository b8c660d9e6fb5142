//! llama.cpp as what is measured against: its library, or its own benchmark.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use chaski_models::testing::Rng;
use ggml_sys_bindgen::{ContextOptions, LlamaContext, LlamaCpp};
use serde_json::Value;

/// What is measured: tokens of a prompt or of an answer, at a depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) n_prompt: usize,
    pub(crate) n_gen: usize,
    pub(crate) n_depth: usize,
}

impl Test {
    /// As llama-bench names it.
    pub(crate) fn name(self) -> String {
        let name = match self.n_gen {
            0 => format!("pp{}", self.n_prompt),
            n => format!("tg{n}"),
        };
        match self.n_depth {
            0 => name,
            depth => format!("{name} @ d{depth}"),
        }
    }
}

/// Who is measured against.
pub(crate) trait Opponent {
    /// Release and backend.
    fn name(&self) -> String;

    /// Runs the test once unmeasured (an answer's first token only) and once measured; tokens per second.
    fn measure(&mut self, test: Test) -> anyhow::Result<f64>;
}

/// The library.
pub(crate) struct Library {
    context: LlamaContext,
    name: String,
}

impl Library {
    pub(crate) fn open(
        dir: &Path,
        cpu: Option<&str>,
        model: &Path,
        options: ContextOptions,
    ) -> anyhow::Result<Self> {
        let peer = LlamaCpp::open(dir, cpu)?;
        let model = peer.load(model)?;
        // Only what this machine and the backend have in common.
        let system = peer.system_info();
        let features: Vec<&str> = system
            .split('|')
            .filter_map(|part| part.trim().strip_suffix(" = 1"))
            .map(|part| part.rsplit(' ').next().unwrap_or(part))
            .collect();
        let name = format!(
            "llama.cpp {}, {} ({})",
            peer.version(),
            model.description(),
            features.join(" ")
        );
        let context = model.context(options)?;
        Ok(Self { context, name })
    }
}

/// Tokens to measure with; speed does not depend on which.
fn tokens(n: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n)
        .map(|_| rng.below(vocab_size as u64) as u32)
        .collect()
}

impl Opponent for Library {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn measure(&mut self, test: Test) -> anyhow::Result<f64> {
        let vocab_size = self.context.model().vocab_size();
        let depth = tokens(test.n_depth, vocab_size, 1);
        let mut seconds = 0.0;
        for n_gen in [test.n_gen.min(1), test.n_gen] {
            let prompt = tokens(test.n_prompt, vocab_size, 2);
            self.context.truncate(test.n_depth);
            if self.context.len() < test.n_depth {
                self.context.clear();
                self.context.extend(&depth)?;
            }
            let begin = Instant::now();
            if !prompt.is_empty() {
                self.context.extend(&prompt)?;
            }
            for token in tokens(n_gen, vocab_size, 3) {
                self.context.extend(&[token])?;
            }
            seconds = begin.elapsed().as_secs_f64();
        }
        Ok((test.n_prompt + test.n_gen) as f64 / seconds)
    }
}

/// A `llama-bench` that is started for each measurement.
pub(crate) struct Bench {
    command: Vec<String>,
    model: PathBuf,
    options: ContextOptions,
    name: String,
}

impl Bench {
    /// * `command`: words with spaces between them.
    pub(crate) fn new(
        command: &str,
        model: &Path,
        options: ContextOptions,
    ) -> anyhow::Result<Self> {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(!command.is_empty(), "--llama-bench names no command");
        Ok(Self {
            command,
            model: model.to_owned(),
            options,
            name: "llama-bench".to_owned(),
        })
    }
}

impl Opponent for Bench {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn measure(&mut self, test: Test) -> anyhow::Result<f64> {
        let program = &self.command[0];
        let number = |n: usize| n.to_string();
        let output = Command::new(program)
            .args(&self.command[1..])
            .arg("-m")
            .arg(&self.model)
            .args(["-p", &number(test.n_prompt), "-n", &number(test.n_gen)])
            .args([
                "-d",
                &number(test.n_depth),
                "-t",
                &number(self.options.threads),
            ])
            .args([
                "-ub",
                &number(self.options.ubatch),
                "-ngl",
                "0",
                "-r",
                "1",
                "-o",
                "json",
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("could not run {program}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            bail!("{program}: {}: {last:?}", output.status);
        }
        let (speed, name) = result(&output.stdout, test)?;
        self.name = name;
        Ok(speed)
    }
}

/// Tokens per second and a name from llama-bench's JSON.
fn result(json: &[u8], test: Test) -> anyhow::Result<(f64, String)> {
    let rows: Value = serde_json::from_slice(json).context("llama-bench printed no JSON")?;
    let is_test = |row: &&Value| {
        row["n_prompt"] == test.n_prompt
            && row["n_gen"] == test.n_gen
            && row["n_depth"] == test.n_depth
    };
    let row = rows.as_array().into_iter().flatten().find(is_test);
    let row = row.with_context(|| format!("llama-bench did not measure {}", test.name()))?;
    let speed = row["avg_ts"].as_f64().filter(|&x| x > 0.0);
    let speed = speed.context("llama-bench's avg_ts is no number above 0")?;
    let text = |key: &str| row[key].as_str().unwrap_or("?").to_owned();
    let name = format!(
        "llama.cpp {} ({}), {}",
        row["build_number"],
        text("build_commit"),
        text("model_type")
    );
    Ok((speed, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: Test = Test {
        n_prompt: 0,
        n_gen: 128,
        n_depth: 256,
    };

    #[test]
    fn the_row_of_the_test_is_taken() {
        let json = br#"[
            {"n_prompt": 512, "n_gen": 0, "n_depth": 256, "avg_ts": 1.0},
            {"n_prompt": 0, "n_gen": 128, "n_depth": 256, "avg_ts": 12.5, "build_number": 7, "build_commit": "ab",
             "model_type": "llama 1B Q8_0"}]"#;
        let (speed, name) = result(json, TEST).unwrap();
        assert_eq!((speed, &*name), (12.5, "llama.cpp 7 (ab), llama 1B Q8_0"));
        for (json, says) in [
            ("", "no JSON"),
            ("{}", "did not measure tg128 @ d256"),
            ("[]", "did not measure"),
            (
                r#"[{"n_prompt": 0, "n_gen": 128, "n_depth": 256, "avg_ts": 0.0}]"#,
                "above 0",
            ),
            (
                r#"[{"n_prompt": 0, "n_gen": 128, "n_depth": 256, "avg_ts": "1"}]"#,
                "above 0",
            ),
        ] {
            let got = result(json.as_bytes(), TEST).unwrap_err().to_string();
            assert!(got.contains(says), "{json}: {got}");
        }
    }

    #[test]
    fn a_command_that_fails_is_told() {
        let options = ContextOptions {
            context_len: 512,
            threads: 1,
            ubatch: 512,
        };
        let run = |command: &str| {
            let mut bench = Bench::new(command, Path::new("m.gguf"), options).unwrap();
            format!("{:#}", bench.measure(TEST).unwrap_err())
        };
        assert!(
            run("false").contains("false: exit status: 1"),
            "{}",
            run("false")
        );
        assert!(run("/nonexistent/llama-bench -x").contains("could not run"));
        assert!(run("echo [] #").contains("no JSON"), "{}", run("echo [] #"));
        assert!(Bench::new("  ", Path::new("m.gguf"), options).is_err());
    }
}
