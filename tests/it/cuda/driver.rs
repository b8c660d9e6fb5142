//! The driver's side, over a library that has the driver's functions and no device: `fake/cuda.c`, compiled by the test.
//!
//! The library must be there before the process starts, so each test runs commands, or itself, in another one.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use chaski::{
    Session, SessionOptions,
    backend::{
        GpuLayers,
        cuda::{
            args::{Kernel, ReadProbeArgs, Shape},
            device::{DeviceError, Launch},
            open,
        },
    },
};
use chaski_kernels_simd::Kernels;
use chaski_models::testing::Variant;
use chaski_quant::QuantType;

use crate::{cli::Place, tiny};

/// Says that the fake driver is there.
const INNER: &str = "CHASKI_TEST_FAKE_CUDA";

/// The folder with the library, if there is a C compiler.
fn fake() -> Option<&'static Path> {
    static DIR: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cuda/fake/cuda.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .arg(dir.path().join("libcuda.so"))
            .arg(source)
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
        assert!(compiled.status.success(), "{said}");
        let path = dir.path().to_owned();
        Some((dir, path))
    });
    made.as_ref().map(|made| made.1.as_path())
}

/// Whether this can be tested here; says why not.
#[expect(clippy::print_stdout, reason = "what is not tested is to be seen")]
fn is_testable() -> bool {
    let why = if !cfg!(feature = "cuda") {
        "the feature `cuda` is not built"
    } else if !cfg!(target_os = "linux") || env::var_os("CHASKI_TEST_BRIEF").is_some() {
        "libraries are looked for in another way"
    } else if fake().is_none() {
        "there is no `cc`"
    } else {
        return true;
    };
    println!("skipped: {why}");
    false
}

/// `command`, which finds the fake driver.
fn with_fake<'c>(command: &'c mut Command, fault: &str, says: &[(&str, &str)]) -> &'c mut Command {
    command
        .env("LD_LIBRARY_PATH", fake().unwrap())
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env("FAKE_CUDA_FAULT", fault)
        .envs(says.iter().copied())
}

/// Runs the test `name` of this module in a process that has the fake driver.
fn inner(name: &str, fault: &str) {
    let mut command = Command::new(env::current_exe().unwrap());
    let name = format!("cuda::driver::{name}");
    command
        .args([&name, "--exact", "--nocapture"])
        .env(INNER, "1");
    let out = with_fake(&mut command, fault, &[]).output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
    assert!(!said.contains("leaked"), "{said}");
}

fn is_inner() -> bool {
    env::var_os(INNER).is_some()
}

fn numbers(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * i / 7 + i / 251) as u8).collect()
}

#[test]
fn copies_are_whole_however_long_they_are() {
    if !is_inner() {
        if is_testable() {
            inner("copies_are_whole_however_long_they_are", "");
        }
        return;
    }
    let device = open().unwrap().device;
    let info = device.info();
    assert_eq!((&info.name[..], info.capability), ("Fake GPU 0", (9, 0)));
    assert_eq!((info.multiprocessors, info.shared), (4, 101_376));
    // Longer than several of the pieces that copies are made of.
    let n = (70 << 20) + 13;
    let bytes = numbers(n + 100);
    let buffer = device.alloc(n + 100).unwrap();
    device.upload(&buffer, 0, &bytes).unwrap();
    device.upload(&buffer, 50, &bytes[..n]).unwrap();
    let mut back = vec![0; n + 100];
    device.download(&buffer, 0, &mut back).unwrap();
    assert!(back[..50] == bytes[..50] && back[50..n + 50] == bytes[..n]);
    assert!(back[n + 50..] == bytes[n + 50..]);
    // Short ones in quick succession, from memory that changes at once.
    let mut short = vec![0_u8; 100];
    for i in 0..40 {
        short.fill(i);
        device
            .upload(&buffer, 100 * usize::from(i), &short)
            .unwrap();
        short.fill(0xee);
    }
    device.download(&buffer, 0, &mut back[..4000]).unwrap();
    assert!((0..4000).all(|i| usize::from(back[i]) == i / 100));
    let other = device.alloc(64).unwrap();
    device.fill(&other, 9).unwrap();
    device.copy((&other, 8), (&buffer, 210), 16).unwrap();
    let mut back = [0; 64];
    device.download(&other, 0, &mut back).unwrap();
    assert_eq!(
        back,
        std::array::from_fn(|i| if (8..24).contains(&i) { 2 } else { 9 })
    );
    // What a buffer does not have.
    let out_of = |r: Result<(), DeviceError>| matches!(r, Err(DeviceError::Range { .. }));
    assert!(out_of(device.upload(&other, 60, &[0; 5])));
    assert!(out_of(device.download(&other, usize::MAX, &mut [0; 5])));
    assert!(out_of(device.copy((&other, 0), (&other, 63), 2)));
}

#[test]
fn launches_run_at_once_or_recorded() {
    if !is_inner() {
        if is_testable() {
            inner("launches_run_at_once_or_recorded", "");
        }
        return;
    }
    let device = open().unwrap().device;
    let shape = ReadProbeArgs::shape(device.info());
    let probe = Launch::new(Kernel::ReadProbe, shape, &ReadProbeArgs::default());
    device.launch(&probe).unwrap();
    let other = Launch {
        kernel: Kernel::Quantize,
        ..probe
    };
    let error = device.launch(&other).unwrap_err().to_string();
    assert!(error.ends_with("it was not prepared"), "{error}");
    device.prepare(&[Kernel::Swiglu, Kernel::Quantize]).unwrap();
    device.launch(&other).unwrap();
    // More shared memory than a kernel has unless it is told.
    let large = Shape {
        shared: 60 << 10,
        ..shape
    };
    let large = Launch {
        shape: large,
        ..probe
    };
    let graph = device.capture(&mut || {
        device.launch(&large)?;
        device.launch(&probe)
    });
    let graph = graph.unwrap();
    graph.replay().unwrap();
    graph.replay().unwrap();
    device.synchronize().unwrap();
    let refused = Launch {
        shape: Shape {
            grid: [1, 70_000, 1],
            ..shape
        },
        ..probe
    };
    let error = device.launch(&refused).unwrap_err();
    let DeviceError::Launch { kernel, message } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*kernel, "chaski_read_probe");
    assert!(message.contains("CUDA_ERROR_INVALID_VALUE"), "{message}");
    // An error while recording ends the recording.
    let failed = device.capture(&mut || device.launch(&refused)).unwrap_err();
    assert_eq!(failed, error);
    device.launch(&probe).unwrap();
    device.synchronize().unwrap();
}

#[test]
fn a_session_goes_through_all_calls() {
    if !is_inner() {
        if is_testable() {
            inner("a_session_goes_through_all_calls", "");
        }
        return;
    }
    let model = tiny::model(
        &tiny::container(Variant::LlamaUntied, Some(QuantType::Q4)),
        Kernels::best(),
    );
    let text = tiny::text(model.config(), 90);
    let options = SessionOptions {
        sequences: 2,
        gpu_layers: GpuLayers::All,
        ..SessionOptions::default()
    };
    for _ in 0..2 {
        let mut session = Session::new(&model, &options).unwrap();
        assert_eq!(session.device().unwrap().name, "Fake GPU 0");
        session.extend(&text[..70]).unwrap();
        session.fork(1).unwrap();
        for i in 70..80 {
            session.step(&[(0, text[i]), (1, text[i + 1])]).unwrap();
        }
        // Kernels that do nothing leave zeros.
        assert!(session.logits().unwrap().iter().all(|l| *l == 0.0));
        assert!(session.device_read_bandwidth().unwrap().unwrap() > 0.0);
    }
}

fn run(place: &Place, fault: &str, says: &[(&str, &str)], args: &[&str]) -> Output {
    with_fake(&mut place.command(args), fault, says)
        .output()
        .unwrap()
}

#[test]
fn whatever_the_driver_says_is_an_error_that_names_it() {
    if is_inner() || !is_testable() {
        return;
    }
    let place = Place::new(Variant::Llama);
    place.ok(&["convert", "tiny", "--quant", "q4", "-o", "m.chaski"]);
    let all = ["run", "m.chaski", "ab", "--raw", "-n", "3", "-ngl", "all"];
    let out = run(&place, "", &[], &all);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !err.contains("leaked"), "{err}");
    for (fault, says, want) in [
        ("cuInit:1:100", ("", ""), "CUDA_ERROR_NO_DEVICE"),
        ("", ("FAKE_CUDA_DEVICES", "0"), "it counts none"),
        (
            "",
            ("FAKE_CUDA_VERSION", "11040"),
            "is of version 11.4: expected 12.0",
        ),
        (
            "",
            ("FAKE_CUDA_CAPABILITY", "75"),
            "Fake GPU 0 has compute capability 7.5: expected 8.0",
        ),
        (
            "",
            ("FAKE_CUDA_MULTIPROCESSORS", "0"),
            "Fake GPU 0 has 0 multiprocessors",
        ),
        (
            "",
            ("FAKE_CUDA_MULTIPROCESSORS", "-1"),
            "Fake GPU 0 has 0 multiprocessors",
        ),
        (
            "",
            ("FAKE_CUDA_MULTIPROCESSORS", "2147483647"),
            "Fake GPU 0 has 2147483647 multiprocessors",
        ),
        (
            "",
            ("FAKE_CUDA_SHARED", "65536"),
            "Fake GPU 0 has 65536 bytes of shared memory for a block",
        ),
        (
            "cuDevicePrimaryCtxRetain:1:2",
            ("", ""),
            "Fake GPU 0 failed at making a context",
        ),
        (
            "cuModuleLoadData:1:222",
            ("", ""),
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        ),
        (
            "cuModuleLoadData:3:200",
            ("", ""),
            "the device failed (cuModuleLoadData): `rope_store`",
        ),
        ("cuModuleGetFunction:4:500", ("", ""), "chaski_swiglu"),
        ("cuMemHostAlloc:2:2", ("", ""), "host memory"),
        (
            "",
            ("FAKE_CUDA_FREE", "1000"),
            "Fake GPU 0 has 1000 free: -ngl 0 fits",
        ),
        ("cuMemAlloc_v2:1:2", ("", ""), "allocating the KV cache"),
        ("cuMemAlloc_v2:5:2", ("", ""), "allocating buffers"),
        (
            "cuMemAlloc_v2:14:2",
            ("", ""),
            "copying the weights of layer 0",
        ),
        (
            "cuMemcpyHtoDAsync_v2:12:700",
            ("", ""),
            "the device is lost",
        ),
        (
            "cuLaunchKernel:1:1",
            ("", ""),
            "the device did not run `chaski_norm_quantize`",
        ),
        (
            "cuLaunchKernel:20:719",
            ("", ""),
            "Fake GPU 0 failed: the device is lost (cuLaunchKernel)",
        ),
        (
            "cuMemcpyDtoHAsync_v2:1:700",
            ("", ""),
            "CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        (
            "cuStreamEndCapture:1:901",
            ("", ""),
            "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        ),
        (
            "cuGraphInstantiateWithFlags:1:2",
            ("", ""),
            "cuGraphInstantiate",
        ),
        (
            "cuGraphLaunch:1:214",
            ("", ""),
            "CUDA_ERROR_ECC_UNCORRECTABLE",
        ),
    ] {
        let says = [says];
        let says: Vec<_> = says.into_iter().filter(|s| !s.0.is_empty()).collect();
        let out = run(&place, fault, &says, &all);
        let err = String::from_utf8_lossy(&out.stderr);
        let what = format!("{fault} {says:?}: {err}");
        assert_eq!(out.status.code(), Some(1), "{what}");
        assert!(err.contains(want), "expected {want} of {what}");
        assert!(err.contains("-ngl 0"), "{what}");
        assert!(!err.contains("panicked"), "{what}");
        // A device that is lost takes nothing back.
        let code = fault.rsplit(':').next().and_then(|code| code.parse().ok());
        let is_lost = code.is_some_and(|code: u32| code >= 700);
        assert!(is_lost || !err.contains("leaked"), "{what}");
    }
    let out = run(&place, "", &[("FAKE_CUDA_DEVICES", "3")], &all);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(err.contains("one of 3 GPUs is used, Fake GPU 0"), "{err}");
    // `auto` says what it chose, or why it chose nothing.
    let auto = ["run", "m.chaski", "ab", "--raw", "-n", "3", "-ngl", "auto"];
    let err = run(&place, "", &[], &auto).stderr;
    let err = String::from_utf8_lossy(&err);
    assert!(
        err.contains("Fake GPU 0: all 2 layers and the head on the GPU"),
        "{err}"
    );
    let out = run(&place, "", &[("FAKE_CUDA_FREE", "1000")], &auto);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && err.contains("no layer fits on Fake GPU 0"),
        "{err}"
    );
    let bench = [
        "bench", "m.chaski", "-p", "8", "-n", "4", "-r", "2", "-t", "1", "-ngl", "all",
    ];
    let out = run(&place, "", &[], &bench);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(
        said.contains("GPU: Fake GPU 0") && said.contains("| CUDA "),
        "{said}"
    );
}
