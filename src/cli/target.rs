//! `chaski convert` for a size, a divergence or a memory instead of a type.

use std::{cell::RefCell, io::Write, ops::ControlFlow, path::Path, str::FromStr};

use anyhow::Context;
use chaski::{
    backend::cpu::{CpuBackend, PassLimits},
    session::DEFAULT_CONTEXT,
};
use chaski_convert::{
    Allocation, ConvertOptions, Event, Sensitivities, Target, allocate, allocate_with,
    source::Source,
};
use chaski_models::tensors::tensor_name;
use chaski_quant::{container::AtomicFile, scalar::attention::KvType};
use indicatif::ProgressBar;

use super::{args::ConvertArgs, interrupt, out, plot, progress, resolve};

/// Positions computed at once, in the memory that is reckoned with.
const UBATCH: usize = 256;

/// Lines of the front that are printed.
const LINES: usize = 12;

/// A number of bytes: `734003200`, `700MB`, `0.7GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

/// Units: a power of 1000 or of 1024.
const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{}`: expected bytes, as 734003200, 700MB or 0.7GiB are",
                s.escape_debug()
            )
        };
        let lower = s.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find(|u| lower.ends_with(u.0));
        let (number, unit) = match unit {
            Some(&(name, bytes)) => (&lower[..lower.len() - name.len()], bytes),
            None => (&lower[..], 1),
        };
        let number = number.trim();
        if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(expected());
        }
        let value: f64 = number.parse().map_err(|_| expected())?;
        let bytes = value * unit as f64;
        // Beyond this a number is not exact any more, and no file is that large.
        if !(1.0..=9e15).contains(&bytes) {
            return Err(expected());
        }
        Ok(Self(bytes as u64))
    }
}

/// What a model is to fit into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit(pub(crate) u64);

impl FromStr for Fit {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let lower = s.trim().to_ascii_lowercase();
        let Some(ram) = lower.strip_suffix("-ram") else {
            return Err(format!(
                "`{}`: expected bytes of memory with -ram behind them, as in 1GiB-ram",
                s.escape_debug()
            ));
        };
        ram.parse().map(|Bytes(bytes)| Self(bytes))
    }
}

/// Measures what errors of each matrix matter, where there is a text for that.
pub(crate) fn measure(
    source: &dyn Source,
    options: &ConvertOptions,
) -> anyhow::Result<Option<Sensitivities>> {
    let Some(text) = &options.calibration else {
        return Ok(None);
    };
    interrupt::reset();
    let bar = RefCell::new(ProgressBar::hidden());
    let events = |event: Event<'_>| {
        if let Event::Measure { done, of, memory } = event {
            if done == 0 {
                out::note(format_args!(
                    "measuring what errors of each matrix matter: at most {} of memory beside the conversion's own",
                    out::bytes(memory)
                ));
                *bar.borrow_mut() = progress::share_bar(of, "measuring");
            }
            bar.borrow().set_position(done);
        }
        match interrupt::asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let mut runner = resolve::runner(options.threads)?;
    let measured = chaski_convert::measure(source, text, options.threads, &mut runner, &events);
    bar.borrow().finish_and_clear();
    let measured = measured?;
    for (role, layer, kld) in measured.all() {
        let name = tensor_name(role, layer);
        out::detail(format_args!("{name} alone in q4: mean KLD {kld:.7}"));
    }
    Ok(Some(measured))
}

/// Chooses the types that the arguments ask for.
///
/// * `measured`: what errors of each matrix matter, if that is known.
/// * `correction`: how many times the prediction a divergence was found to be.
pub(crate) fn choose(
    args: &ConvertArgs,
    source: &dyn Source,
    options: &ConvertOptions,
    measured: Option<&Sensitivities>,
    correction: f64,
) -> anyhow::Result<Allocation> {
    let target = match (args.size, args.max_kld, args.fit) {
        (Some(Bytes(bytes)), ..) => Target::Bytes(bytes),
        (_, Some(kld), _) => Target::Kld { kld, correction },
        (.., Some(Fit(ram))) => Target::Bytes(within(source, ram, args.threads)?),
        _ => anyhow::bail!("one of --quant, --size, --max-kld and --fit is needed"),
    };
    Ok(match measured {
        Some(measured) => allocate_with(source, options, measured, target)?,
        None => allocate(source, options, target)?,
    })
}

/// The bytes of a file that runs within `ram`: less what a session of the default context takes on so many
/// threads.
fn within(source: &dyn Source, ram: u64, threads: Option<usize>) -> anyhow::Result<u64> {
    let config = source.config();
    let available = || std::thread::available_parallelism().map_or(1, Into::into);
    let limits = PassLimits {
        rows: UBATCH,
        n_seqs: 1,
        context_len: config.max_seq_len.min(DEFAULT_CONTEXT),
        threads: threads.unwrap_or_else(available),
        kv_type: KvType::F16,
    };
    let bytes = CpuBackend::bytes(config, &limits);
    let own = bytes.kv_cache + bytes.activations + bytes.scratch + 4 * config.vocab_size as u64;
    let left = ram
        .checked_sub(own)
        .filter(|&left| left > 0)
        .with_context(|| {
            format!(
                "--fit {}: keys, values and activations of {} positions alone take {}",
                out::bytes(ram),
                limits.context_len,
                out::bytes(own)
            )
        })?;
    out::note(format_args!(
        "{} of {} are for the file: a session of {} positions takes {}",
        out::bytes(left),
        out::bytes(ram),
        limits.context_len,
        out::bytes(own)
    ));
    Ok(left)
}

/// Draws the front and what was chosen of it into a file.
///
/// * `force`: whether a file of that name may be replaced.
pub(crate) fn plot(path: &Path, allocation: &Allocation, force: bool) -> anyhow::Result<()> {
    let points: Vec<_> = allocation
        .front
        .iter()
        .map(|p| (p.bytes as f64, p.kld))
        .collect();
    let chosen = (allocation.bytes as f64, allocation.kld);
    let svg = plot::front(&points, chosen);
    let mut file = AtomicFile::create(path, force)?;
    file.write_all(svg.as_bytes())
        .with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(file.commit()?)
}

/// The front and what was chosen of it, in words.
pub(crate) fn told(allocation: &Allocation) -> String {
    let front = &allocation.front;
    let mut rows = vec![
        ["bytes", "", "mean KLD, predicted"]
            .map(String::from)
            .to_vec(),
    ];
    let lines = LINES.min(front.len());
    let (first, last) = match (front.first(), front.last()) {
        (Some(first), Some(last)) => (first.bytes as f64, last.bytes as f64),
        _ => return String::new(),
    };
    let mut shown = usize::MAX;
    for line in 0..lines {
        // Evenly by size: steps of small tensors crowd where nothing changes.
        let bytes = first + (last - first) * line as f64 / (lines - 1).max(1) as f64;
        let at = front.partition_point(|p| p.bytes as f64 <= bytes).max(1) - 1;
        if at != shown {
            let point = front[at];
            rows.push(vec![
                point.bytes.to_string(),
                out::bytes(point.bytes),
                format!("{:.5}", point.kld),
            ]);
        }
        shown = at;
    }
    let mut types: Vec<_> = allocation.types.iter().collect();
    types.sort_by(|a, b| a.0.bits_per_weight().total_cmp(&b.0.bits_per_weight()));
    let types: Vec<_> = types
        .into_iter()
        .map(|(qtype, n)| format!("{n} {qtype}"))
        .collect();
    format!(
        "{}chosen: {} bytes ({}), mean KLD {:.5} predicted; matrices: {}\n",
        out::table(&rows),
        allocation.bytes,
        out::bytes(allocation.bytes),
        allocation.kld,
        types.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_of_both_kinds() {
        for (text, bytes) in [
            ("734003200", 734_003_200),
            ("700MB", 700_000_000),
            ("0.7GiB", 751_619_276),
            ("1.5 kib", 1536),
            ("12b", 12),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in [
            "",
            "MB",
            "-1MB",
            "1e9",
            "nan",
            "inf",
            "0",
            "1PB",
            "1..2MB",
            "9e99GiB",
            "99999999TB",
        ] {
            let err = bad.parse::<Bytes>().unwrap_err();
            assert!(err.contains("expected bytes"), "{bad}: {err}");
        }
        assert_eq!("1GiB-ram".parse(), Ok(Fit(1 << 30)));
        assert!("1GiB".parse::<Fit>().unwrap_err().contains("1GiB-ram"));
    }
}
