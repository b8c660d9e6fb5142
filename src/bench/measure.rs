//! Running the tests of a bench.

use std::{
    error::Error,
    fmt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Instant, SystemTime},
};

use chaski_models::TokenId;
use chaski_quant::scalar::attention::KvType;

use super::{Row, SCHEMA, mean_and_deviation, probe};
use crate::{
    Model, ModelError, ModelOptions, Session, SessionError, SessionOptions,
    backend::{
        GpuLayers,
        cpu::{Team, TeamError},
    },
    os,
    session::MAX_CONTEXT,
};

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Prompt lengths.
    pub n_prompt: Vec<usize>,
    /// Answer lengths.
    pub n_gen: Vec<usize>,
    /// Context depths.
    pub n_depth: Vec<usize>,
    /// Repetitions of each.
    pub repetitions: usize,
    /// Numbers of threads; empty: the default one.
    pub threads: Vec<usize>,
    /// Type of the KV cache.
    pub kv_type: KvType,
    /// Positions computed at once.
    pub ubatch: usize,
    /// Processors to bind threads to; empty: the system places them.
    pub cpus: Vec<usize>,
    /// How the model is opened.
    pub model: ModelOptions,
    /// What goes to a GPU.
    pub gpu_layers: GpuLayers,
    /// Set by another thread to break off; see [`Session::set_cancel`].
    pub cancel: Option<Arc<AtomicBool>>,
}

/// Why a bench broke off.
#[derive(Debug)]
#[non_exhaustive]
pub enum BenchError {
    /// There is nothing to measure.
    Nothing,
    /// A test needs more positions than a session can have.
    TooLong {
        /// Length of the prompt.
        n_prompt: usize,
        /// Length of the answer.
        n_gen: usize,
        /// Depth of the context.
        n_depth: usize,
    },
    /// The model could not be opened.
    Model(ModelError),
    /// A session failed.
    Session(SessionError),
    /// A probe of the machine failed.
    Probe(TeamError),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str(
                "there is nothing to measure: give -p or -n a number above 0, and -r at least 1",
            ),
            Self::TooLong {
                n_prompt,
                n_gen,
                n_depth,
            } => write!(
                f,
                "a prompt of {n_prompt} and an answer of {n_gen} tokens at depth {n_depth} need more \
                 than the {MAX_CONTEXT} positions that a context may have"
            ),
            Self::Model(_) => f.write_str("the model could not be opened"),
            Self::Session(_) => f.write_str("the measurement broke off"),
            Self::Probe(_) => f.write_str("the machine could not be measured"),
        }
    }
}

impl Error for BenchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Model(e) => Some(e),
            Self::Session(e) => Some(e),
            Self::Probe(e) => Some(e),
            Self::Nothing | Self::TooLong { .. } => None,
        }
    }
}

/// Called before each repetition: the test's name, the repetition (0 is the unmeasured one), how
/// many there are.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Measures one file.
///
/// # Errors
///
/// [`BenchError`].
pub fn run(
    path: &Path,
    options: &BenchOptions,
    progress: Progress<'_>,
) -> Result<Vec<Row>, BenchError> {
    let positive = |list: &[usize]| list.iter().copied().filter(|&n| n > 0).collect::<Vec<_>>();
    let tests: Vec<(usize, usize)> = positive(&options.n_prompt)
        .into_iter()
        .map(|p| (p, 0))
        .chain(positive(&options.n_gen).into_iter().map(|g| (0, g)))
        .collect();
    if tests.is_empty() || options.n_depth.is_empty() || options.repetitions == 0 {
        return Err(BenchError::Nothing);
    }
    for &n_depth in &options.n_depth {
        for &(n_prompt, n_gen) in &tests {
            positions(n_prompt, n_gen, n_depth)?;
        }
    }
    let model = Model::open(path, &options.model).map_err(BenchError::Model)?;
    let model = Arc::new(model);
    let threads = match &options.threads[..] {
        [] if options.cpus.is_empty() => vec![os::default_threads()],
        [] => vec![options.cpus.len()],
        list => list.to_vec(),
    };
    let mut rows = Vec::new();
    for &n_threads in &threads {
        let ttft_ms = time_to_first_token(&model, options, n_threads)?;
        let first = rows.len();
        let before = Limits::probe(&model, options, n_threads)?;
        for &n_depth in &options.n_depth {
            for &(n_prompt, n_gen) in &tests {
                let mut row = describe(&model, options, n_threads, ttft_ms);
                (row.n_prompt, row.n_gen, row.n_depth) = (n_prompt, n_gen, n_depth);
                measure(&model, options, &mut row, progress)?;
                rows.push(row);
            }
        }
        let limits = before.max(Limits::probe(&model, options, n_threads)?);
        rows[first..].iter_mut().for_each(|row| limits.compare(row));
    }
    Ok(rows)
}

/// Positions that a test needs.
fn positions(n_prompt: usize, n_gen: usize, n_depth: usize) -> Result<usize, BenchError> {
    n_prompt
        .checked_add(n_gen)
        .and_then(|n| n.checked_add(n_depth))
        .filter(|&n| n <= MAX_CONTEXT)
        .ok_or(BenchError::TooLong {
            n_prompt,
            n_gen,
            n_depth,
        })
}

/// What the machine can do.
#[derive(Clone, Copy, Debug)]
struct Limits {
    read_gb_per_s: f64,
    int_gmac_per_s: f64,
}

impl Limits {
    fn probe(model: &Model, options: &BenchOptions, threads: usize) -> Result<Self, BenchError> {
        let team = if options.cpus.is_empty() {
            Team::new(threads, os::n_cpus())
        } else {
            Team::pinned(threads, &options.cpus)
        };
        let mut team = team.map_err(BenchError::Probe)?;
        let container = model.weights().container();
        let data = &container.bytes()[container.data_range()];
        let level = model.kernels().name();
        Ok(Self {
            read_gb_per_s: probe::read_bandwidth(&mut team, data).map_err(BenchError::Probe)?,
            int_gmac_per_s: probe::integer_peak(&mut team, level)
                .map_err(BenchError::Probe)?
                .unwrap_or(0.0),
        })
    }

    fn max(self, other: Self) -> Self {
        Self {
            read_gb_per_s: self.read_gb_per_s.max(other.read_gb_per_s),
            int_gmac_per_s: self.int_gmac_per_s.max(other.int_gmac_per_s),
        }
    }

    /// Writes the limits into a row, and the row's shares of them.
    fn compare(self, row: &mut Row) {
        (row.read_gb_per_s, row.int_peak_gmac_per_s) = (self.read_gb_per_s, self.int_gmac_per_s);
        // Each machine reads what it has, one after the other.
        if row.gpu_read_gb_per_s > 0.0 {
            let (all, gpu) = (
                row.weight_bytes_per_token as f64,
                row.gpu_weight_bytes_per_token as f64,
            );
            let time = (all - gpu).max(0.0) / self.read_gb_per_s + gpu / row.gpu_read_gb_per_s;
            row.read_gb_per_s = all / time;
        }
        row.read_share = row.weight_gb_per_s / row.read_gb_per_s;
        if row.n_gpu_layers > 0 {
            // Where the GPU multiplies, the CPU's peak says nothing.
            row.int_peak_gmac_per_s = 0.0;
        } else if self.int_gmac_per_s > 0.0 {
            row.int_share = row.int_gmac_per_s / self.int_gmac_per_s;
        }
    }
}

fn session(
    model: &Arc<Model>,
    options: &BenchOptions,
    threads: usize,
    context_len: usize,
) -> Result<Session, BenchError> {
    let session_options = SessionOptions {
        context_len: Some(context_len),
        kv_type: options.kv_type,
        ubatch: options.ubatch,
        threads: Some(threads),
        cpus: options.cpus.clone(),
        gpu_layers: options.gpu_layers,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model, &session_options).map_err(BenchError::Session)?;
    session.set_cancel(options.cancel.clone());
    Ok(session)
}

/// Tokens to measure with; speed does not depend on which, but all of one kind would read one row of
/// the embeddings only.
fn tokens(n: usize, vocab_size: usize, seed: u64) -> Vec<TokenId> {
    let mut state = seed;
    let mut next = || {
        // Knuth's linear congruential generator; its upper bits are good enough here.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        TokenId(((state >> 33) % vocab_size as u64) as u32)
    };
    (0..n).map(|_| next()).collect()
}

fn time_to_first_token(
    model: &Arc<Model>,
    options: &BenchOptions,
    threads: usize,
) -> Result<f64, BenchError> {
    let begin = Instant::now();
    let mut session = session(model, options, threads, 64)?;
    let prompt = tokens(8, model.config().vocab_size, 1);
    session.extend(&prompt).map_err(BenchError::Session)?;
    Ok((begin.elapsed() + model.load_time()).as_secs_f64() * 1e3)
}

fn measure(
    model: &Arc<Model>,
    options: &BenchOptions,
    row: &mut Row,
    progress: Progress<'_>,
) -> Result<(), BenchError> {
    let (n_prompt, n_gen, n_depth) = (row.n_prompt, row.n_gen, row.n_depth);
    let vocab_size = model.config().vocab_size;
    let context = positions(n_prompt, n_gen, n_depth)?;
    let mut session = session(model, options, row.n_threads, context)?;
    describe_gpu(&mut session, row)?;
    let name = row.test();
    row.test_time = utc(SystemTime::now());
    let depth = tokens(n_depth, vocab_size, 2);
    for repetition in 0..=options.repetitions {
        progress(&name, repetition, options.repetitions);
        // The unmeasured round shows the code and the weights to the caches: one token is enough
        // where an answer is measured.
        let warm_up = repetition == 0;
        session.truncate(n_depth);
        if session.tokens().len() < n_depth {
            session.clear();
            session.extend(&depth).map_err(BenchError::Session)?;
        }
        let prompt = tokens(n_prompt, vocab_size, 3 + repetition as u64);
        let answer = tokens(if warm_up { n_gen.min(1) } else { n_gen }, vocab_size, 5);
        let begin = Instant::now();
        if !prompt.is_empty() {
            session.extend(&prompt).map_err(BenchError::Session)?;
        }
        for token in answer {
            session.extend(&[token]).map_err(BenchError::Session)?;
        }
        if !warm_up {
            row.samples_ns.push(begin.elapsed().as_nanos() as u64);
        }
    }
    let n = (n_prompt + n_gen) as f64;
    row.samples_ts = row
        .samples_ns
        .iter()
        .map(|&ns| n * 1e9 / ns.max(1) as f64)
        .collect();
    (row.avg_ts, row.stddev_ts) = mean_and_deviation(&row.samples_ts);
    let ns: Vec<f64> = row.samples_ns.iter().map(|&ns| ns as f64).collect();
    let (avg, deviation) = mean_and_deviation(&ns);
    (row.avg_ns, row.stddev_ns) = (avg as u64, deviation as u64);
    if n_gen > 0 && n_prompt == 0 {
        row.weight_gb_per_s = row.avg_ts * row.weight_bytes_per_token as f64 / 1e9;
    }
    if n_prompt > 0 && n_gen == 0 {
        // The head is computed for the last token alone.
        let products = model.weights().integer_products();
        let all = n_prompt as f64 * products.layers as f64 + products.head as f64;
        row.int_gmac_per_s = all * row.avg_ts / n_prompt as f64 / 1e9;
    }
    let memory = os::memory().unwrap_or_default();
    (row.resident_bytes, row.resident_file_bytes) = (memory.resident, memory.file);
    Ok(())
}

/// Writes what a GPU has, and how fast it reads it, into a row.
fn describe_gpu(session: &mut Session, row: &mut Row) -> Result<(), BenchError> {
    let rate = session.device_read_bandwidth();
    let (Some(rate), Some(device)) = (rate.map_err(BenchError::Session)?, session.device()) else {
        return Ok(());
    };
    row.gpu_read_gb_per_s = rate;
    row.gpu_info.clone_from(&device.name);
    row.gpu_weight_bytes_per_token = device.bytes.weights;
    row.gpu_copy_gb_per_s =
        device.bytes.weights as f64 / device.upload.as_secs_f64().max(1e-9) / 1e9;
    let placement = session.placement();
    row.n_gpu_layers = placement.count();
    row.backends = match placement.gpu_head {
        true => "CUDA".to_owned(),
        false => format!("CUDA, {}", row.backends),
    };
    Ok(())
}

fn describe(model: &Arc<Model>, options: &BenchOptions, threads: usize, ttft_ms: f64) -> Row {
    let weights = model.weights();
    let n_params = weights.n_params();
    let size = if n_params >= 1_000_000_000 {
        format!("{:.1}B", n_params as f64 / 1e9)
    } else {
        format!("{}M", n_params.div_ceil(1_000_000))
    };
    let kv_type = match options.kv_type {
        KvType::F32 => "f32",
        KvType::F16 => "f16",
        KvType::Q8 => "q8",
    };
    let recipe = &model.metadata().recipe.name;
    let type_name = if recipe.is_empty() {
        weights.main_type().name()
    } else {
        recipe.as_str()
    };
    Row {
        build_commit: env!("CARGO_PKG_VERSION").to_owned(),
        build_number: 0,
        cpu_info: os::cpu_name(),
        gpu_info: String::new(),
        backends: format!("CPU {}", model.kernels().name()),
        model_filename: model.path().display().to_string(),
        model_type: format!("{} {size} {type_name}", model.config().arch),
        model_size: weights.bytes(),
        model_n_params: n_params,
        n_batch: options.ubatch,
        n_ubatch: options.ubatch,
        n_threads: threads,
        type_k: kv_type.to_owned(),
        type_v: kv_type.to_owned(),
        n_gpu_layers: 0,
        n_prompt: 0,
        n_gen: 0,
        n_depth: 0,
        test_time: String::new(),
        avg_ns: 0,
        stddev_ns: 0,
        avg_ts: 0.0,
        stddev_ts: 0.0,
        samples_ns: Vec::new(),
        samples_ts: Vec::new(),
        load_ms: model.load_time().as_secs_f64() * 1e3,
        ttft_ms,
        resident_bytes: 0,
        resident_file_bytes: 0,
        weight_bytes_per_token: weights.bytes_per_token(),
        weight_gb_per_s: 0.0,
        read_gb_per_s: 0.0,
        read_share: 0.0,
        int_gmac_per_s: 0.0,
        int_peak_gmac_per_s: 0.0,
        int_share: 0.0,
        gpu_weight_bytes_per_token: 0,
        gpu_read_gb_per_s: 0.0,
        gpu_copy_gb_per_s: 0.0,
        schema: SCHEMA,
    }
}

/// `2026-01-31T12:34:56Z`; days to dates by the civil calendar of the proleptic Gregorian year.
fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year}-{:02}-{:02}T{hour:02}:{minute:02}:{:02}Z",
        month + 1,
        day + 1,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(
                utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                want
            );
        }
    }

    #[test]
    fn shares_are_of_the_limits() {
        let limits = Limits {
            read_gb_per_s: 30.0,
            int_gmac_per_s: 0.0,
        };
        let other = Limits {
            read_gb_per_s: 20.0,
            int_gmac_per_s: 400.0,
        };
        let mut row = super::super::format::test_row();
        (row.weight_gb_per_s, row.int_gmac_per_s) = (27.0, 0.0);
        limits.compare(&mut row);
        assert_eq!((row.read_share, row.int_share), (0.9, 0.0));
        (row.weight_gb_per_s, row.int_gmac_per_s) = (0.0, 100.0);
        limits.max(other).compare(&mut row);
        assert_eq!((row.read_share, row.int_share), (0.0, 0.25));
        assert_eq!((row.read_gb_per_s, row.int_peak_gmac_per_s), (30.0, 400.0));
    }

    #[test]
    fn two_machines_read_one_after_the_other() {
        let limits = Limits {
            read_gb_per_s: 30.0,
            int_gmac_per_s: 400.0,
        };
        let mut row = super::super::format::test_row();
        (row.weight_bytes_per_token, row.gpu_weight_bytes_per_token) = (9_000, 6_000);
        (row.gpu_read_gb_per_s, row.n_gpu_layers) = (600.0, 3);
        row.weight_gb_per_s = 40.9;
        limits.compare(&mut row);
        // 3 kB at 30 GB/s and 6 kB at 600 GB/s.
        assert!((row.read_gb_per_s - 9.0 / 0.11).abs() < 1e-6);
        assert!((row.read_share - 0.5).abs() < 1e-2);
        assert_eq!((row.int_peak_gmac_per_s, row.int_share), (0.0, 0.0));
    }

    #[test]
    fn positions_beyond_a_context_are_refused() {
        assert_eq!(positions(512, 0, 8).unwrap(), 520);
        assert_eq!(positions(0, 1, MAX_CONTEXT - 1).unwrap(), MAX_CONTEXT);
        for (p, g, d) in [(0, 1, MAX_CONTEXT), (1, 0, usize::MAX), (usize::MAX, 1, 0)] {
            let err = positions(p, g, d).unwrap_err().to_string();
            assert!(err.contains("16777216"), "{err}");
        }
    }

    #[test]
    fn tokens_are_in_the_vocabulary_and_differ() {
        let t = tokens(100, 50, 1);
        assert!(t.iter().all(|t| t.0 < 50));
        assert!(t.iter().any(|x| *x != t[0]));
    }
}
