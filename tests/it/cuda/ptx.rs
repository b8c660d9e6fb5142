//! The PTX that the program carries: made of the sources that are here, and as the kernels' definition needs it.

use std::{collections::BTreeMap, fs};

use chaski::backend::cuda::{args::Kernel, ptx};
use sha2::{Digest, Sha256};

use super::emulated::{args_bytes, files, kernels};

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// An entry of PTX.
struct Entry<'t> {
    name: &'t str,
    parameter_bytes: usize,
    shared_bytes: usize,
    body: &'t str,
}

/// The number behind `name[`, up to the bracket.
fn bracketed(line: &str) -> Option<usize> {
    let (_, rest) = line.rsplit_once('[')?;
    rest.split_once(']')?.0.parse().ok()
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let starts = text.match_indices(".entry ").map(|(at, e)| at + e.len());
    starts
        .map(|at| {
            let rest = &text[at..];
            let (name, rest) = rest.split_once('(').unwrap();
            let (parameters, rest) = rest.split_once(')').unwrap();
            let (body, _) = rest.split_once("\n}").unwrap();
            let shared = body.lines().filter(|l| l.trim().starts_with(".shared"));
            Entry {
                name,
                parameter_bytes: bracketed(parameters).unwrap(),
                // A variable that is no array is of at most 8 bytes, aligned to 16.
                shared_bytes: shared.map(|l| bracketed(l).unwrap_or(16)).sum(),
                body,
            }
        })
        .collect()
}

#[test]
fn it_is_made_of_the_sources_that_are_here() {
    let folder = kernels();
    let headers = files(&folder, "h");
    let sources = files(&folder, "cu");
    let names: Vec<String> = sources.iter().map(|s| file_name(s)).collect();
    let texts: Vec<String> = ptx::MODULES.iter().map(|m| format!("{}.cu", m.0)).collect();
    assert_eq!(texts, names, "the texts of ptx.rs, and the sources");
    for ((name, text), source) in ptx::MODULES.iter().zip(&sources) {
        let mut sources = Sha256::new();
        for path in headers.iter().chain([source]) {
            let bytes = fs::read(path).unwrap();
            sources.update(format!("{}\n{}\n", file_name(path), bytes.len()));
            sources.update(bytes);
        }
        let (first, rest) = text.split_once('\n').unwrap();
        let mut body = Sha256::new();
        body.update(rest);
        let want = format!(
            "// {name}.cu by NVRTC 12.9.86 --gpu-architecture=compute_80 --std=c++17 --fmad=false, sources {}, text {}",
            hex(sources),
            hex(body)
        );
        assert!(
            first == want,
            "{name}.ptx is not made of the source as it is: run scripts/cuda_ptx.py"
        );
    }
}

#[test]
fn every_kernel_is_in_it_once_with_the_parameter_that_it_is_handed() {
    let mut found = BTreeMap::new();
    for (module, text) in ptx::MODULES {
        // The least driver and the least device that chaski takes.
        assert!(text.contains("\n.version 8.0\n.target sm_80\n"), "{module}");
        for entry in entries(text) {
            assert!(ptx::has_entry(text, entry.name));
            let twice = found.insert(entry.name, entry.parameter_bytes);
            assert_eq!(twice, None, "{}", entry.name);
            // What a block has without being asked for more.
            assert!(entry.shared_bytes <= 48 << 10, "{}", entry.name);
        }
    }
    for kernel in Kernel::ALL {
        let bytes = found.remove(kernel.entry());
        assert_eq!(bytes, Some(args_bytes(kernel)), "{}", kernel.entry());
    }
    assert!(found.is_empty(), "{found:?} are no kernels");
    assert!(!ptx::has_entry(".entry chaski_x(", "chaski_"));
    assert!(ptx::has_entry(".entry chaski_x(", "chaski_x"));
}

#[test]
fn nothing_is_contracted_or_estimated() {
    for (module, text) in ptx::MODULES {
        for entry in entries(text) {
            for line in entry.body.lines() {
                let line = line.trim();
                let forbidden = [
                    "mad.f32",
                    "mad.rn.f32",
                    ".approx",
                    ".ftz",
                    ".full.f32",
                    "rcp.",
                    "rsqrt.",
                    "ex2.",
                    "lg2.",
                ];
                assert!(
                    forbidden.iter().all(|f| !line.contains(f)),
                    "{module}: {}: {line}",
                    entry.name
                );
                // Neither of these has a product that is added to something.
                let plain = ["chaski_quantize", "chaski_read_probe"].contains(&entry.name);
                assert!(!plain || !line.starts_with("fma"), "{}: {line}", entry.name);
                // Operations that say no rounding may be contracted by the driver's compiler.
                let operation = line.split_whitespace().next().unwrap_or("");
                assert!(
                    !["add.f32", "sub.f32", "mul.f32"].contains(&operation),
                    "{module}: {}: {line}",
                    entry.name
                );
            }
        }
    }
}
