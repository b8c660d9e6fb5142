//! Tokens per second, measured and printed the way llama-bench does.
//!
//! A *test* is a prompt length (`pp512`) or an answer length (`tg128`) at a context depth. Each is
//! run once unmeasured and then `repetitions` times; tokenising and sampling are left out, the KV
//! cache is emptied (or filled to the depth) before each repetition, outside the clock.
//!
//! Beside the speed stands its share of what the machine can do, measured in the same run with the same
//! threads: generating reads all weights for each token, so it is compared with reading the same
//! file from memory; reading a prompt multiplies integers, so it is compared with a loop of nothing
//! but the level's instruction for that. What is counted is the work that must be done (weights once a
//! token; the products of quantised matrices), so attention, norms and all else lower the share. A GPU's reading
//! is measured by a kernel that reads the weights it has; what it multiplies is compared with nothing.

mod format;
mod measure;
mod peak;
mod probe;

pub use format::{Format, render};
pub use measure::{BenchError, BenchOptions, Progress, run};

use serde::Serialize;

/// The version of the JSON and CSV fields.
pub const SCHEMA: u32 = 4;

/// One line of the table: one test of one model. Field names up to `stddev_ts` are llama-bench's.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Version of chaski.
    pub build_commit: String,
    /// Always 0: chaski has no build numbers.
    pub build_number: u32,
    /// The processor's name.
    pub cpu_info: String,
    /// The GPU's name; empty where none took part.
    pub gpu_info: String,
    /// `CPU`, and the SIMD level; `CUDA` before it where a GPU takes part, alone where it has everything.
    pub backends: String,
    /// The file.
    pub model_filename: String,
    /// Architecture, parameters and type, such as `llama 1B q4`.
    pub model_type: String,
    /// Bytes of all weights.
    pub model_size: u64,
    /// Number of weights.
    pub model_n_params: u64,
    /// Positions computed at once.
    pub n_batch: usize,
    /// The same.
    pub n_ubatch: usize,
    /// Threads.
    pub n_threads: usize,
    /// Type of the keys in the KV cache.
    pub type_k: String,
    /// Type of the values in the KV cache.
    pub type_v: String,
    /// Layers on a GPU, the head counted as one.
    pub n_gpu_layers: usize,
    /// Tokens of the prompt, or 0.
    pub n_prompt: usize,
    /// Tokens generated, or 0.
    pub n_gen: usize,
    /// Positions in the KV cache before the test.
    pub n_depth: usize,
    /// When the test began, UTC.
    pub test_time: String,
    /// Mean time of a repetition in nanoseconds.
    pub avg_ns: u64,
    /// Sample deviation of it.
    pub stddev_ns: u64,
    /// Mean tokens per second.
    pub avg_ts: f64,
    /// Sample deviation of it.
    pub stddev_ts: f64,
    /// Every repetition's nanoseconds.
    pub samples_ns: Vec<u64>,
    /// Every repetition's tokens per second.
    pub samples_ts: Vec<f64>,
    /// Milliseconds to open the model.
    pub load_ms: f64,
    /// Milliseconds from an empty session to the first token of an 8-token prompt.
    pub ttft_ms: f64,
    /// Resident memory after the test, bytes.
    pub resident_bytes: u64,
    /// Of which the map of the file, bytes.
    pub resident_file_bytes: u64,
    /// Bytes of weights read for one token.
    pub weight_bytes_per_token: u64,
    /// Weights read while generating, 10^9 bytes per second; 0 for prompts.
    pub weight_gb_per_s: f64,
    /// What the threads read of the same file at once, each one part of it from start to end, 10^9
    /// bytes per second; the best of several rounds before and after the tests. Where a GPU has some of
    /// the weights: at which rate all are read, each part by the machine that has it, one after the
    /// other.
    pub read_gb_per_s: f64,
    /// The one divided by the other; 0 for prompts.
    pub read_share: f64,
    /// Products of quantised weights while a prompt is read, 10^9 per second; 0 for answers.
    pub int_gmac_per_s: f64,
    /// What the threads reach in a loop of the level's instruction for such products; 0 where the
    /// level has none.
    pub int_peak_gmac_per_s: f64,
    /// The one divided by the other; 0 for answers.
    pub int_share: f64,
    /// Bytes of weights that the GPU reads for one token.
    pub gpu_weight_bytes_per_token: u64,
    /// What a kernel that does nothing else reads of them, 10^9 bytes per second; the best of several
    /// rounds.
    pub gpu_read_gb_per_s: f64,
    /// How fast they were copied there, once, before anything is measured, 10^9 bytes per second.
    pub gpu_copy_gb_per_s: f64,
    /// Version of these fields.
    pub schema: u32,
}

impl Row {
    /// `pp512`, `tg128`, with ` @ d4096` at a depth.
    pub fn test(&self) -> String {
        let name = match (self.n_prompt, self.n_gen) {
            (p, 0) => format!("pp{p}"),
            (0, g) => format!("tg{g}"),
            (p, g) => format!("pp{p}+tg{g}"),
        };
        if self.n_depth == 0 {
            name
        } else {
            format!("{name} @ d{}", self.n_depth)
        }
    }
}

/// Mean and sample deviation (n - 1); the deviation of a single sample is 0.
pub fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    if samples.is_empty() {
        return (0.0, 0.0);
    }
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    if samples.len() == 1 {
        return (mean, 0.0);
    }
    let square = samples.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>();
    (mean, (square / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::mean_and_deviation;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 2.0, 3.0]), (2.0, 1.0));
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
        assert_eq!(mean_and_deviation(&[]), (0.0, 0.0));
    }
}
