//! The kernel that only reads, and what the emulation itself refuses.

use chaski::backend::cuda::{
    args::{Kernel, ReadProbeArgs, Shape},
    device::Launch,
};

use super::{Case, Random};

const SHAPE: Shape = Shape {
    grid: [3, 1, 1],
    threads: 256,
    shared: 0,
};

fn launch(case: &mut Case, data: &[u32], n: usize) -> Launch {
    let args = ReadProbeArgs {
        data: case.words("data", data),
        n: n as u64,
        out: case.room("out", 12),
    };
    Launch::new(Kernel::ReadProbe, SHAPE, &args)
}

#[test]
fn the_probe_reads_every_word_once() {
    let mut random = Random::new(1);
    for n in [1, 255, 769, 3 * 256 * 8, 3 * 256 * 9 + 17] {
        let Some(mut case) = Case::emulated() else {
            return;
        };
        let data: Vec<u32> = (0..4 * n).map(|_| random.bits() as u32).collect();
        let launch = launch(&mut case, &data, n);
        case.emulate(&launch, n as u64).unwrap();
        let out = case.floats_of("out");
        let got = out.iter().fold(0, |x, w| x ^ w.to_bits());
        assert_eq!(got, data.iter().fold(0, |x, w| x ^ w), "{n} units");
    }
}

#[test]
fn what_a_kernel_must_not_do_is_an_error_that_says_where() {
    let Some(mut case) = Case::emulated() else {
        return;
    };
    // More is read than is there, by far.
    let beyond = launch(&mut case, &[7; 64], 1 << 20);
    let error = case.emulate(&beyond, 0).unwrap_err();
    assert!(
        error.starts_with("chaski_read_probe: block (0, 0, 0), thread ")
            && error.contains(": illegal access at 0x"),
        "{error}"
    );
    // More blocks write than there is room for.
    let mut small = launch(&mut case, &[7; 64], 16);
    small.shape.grid = [5, 1, 1];
    let error = case.emulate(&small, 0).unwrap_err();
    assert!(error.contains("were written"), "{error}");
    let mut much = small;
    much.shape.threads = 512;
    let error = case.emulate(&much, 0).unwrap_err();
    assert!(error.contains("512 threads"), "{error}");
    // The thread goes on, and so does the process.
    let data: Vec<u32> = (1..65).collect();
    let good = launch(&mut case, &data, 16);
    case.emulate(&good, 0).unwrap();
}

#[test]
fn the_emulation_finds_what_is_wrong() {
    let Some(mut case) = Case::emulated() else {
        return;
    };
    let data: Vec<u32> = (0..256).map(|i| i / 4 + 100).collect();
    let launch = Launch::new(
        Kernel::ReadProbe,
        Shape {
            grid: [1, 1, 1],
            threads: 64,
            shared: 64 * 16,
        },
        &ReadProbeArgs {
            data: case.words("data", &data),
            n: 64,
            out: case.room("out", 4 * 64),
        },
    );
    let out = |case: &Case, entry: &str, seed: u64| {
        case.emulate_entry(entry, &launch, seed).unwrap();
        let bits = case.floats_of("out").into_iter().map(f32::to_bits);
        bits.collect::<Vec<_>>()
    };
    for seed in 0..8 {
        let turned: Vec<u32> = (0..64).rev().collect();
        assert_eq!(out(&case, "right", seed), turned);
        // What is not there yet is no number.
        assert!(out(&case, "no_barrier", seed).contains(&u32::MAX), "{seed}");
        assert_eq!(out(&case, "no_wait", seed), [u32::MAX; 64]);
        let copied: Vec<u32> = (100..164).collect();
        assert_eq!(out(&case, "wait", seed), copied);
        for (entry, want) in [
            (
                "barrier_of_some",
                "waits at barrier 0, which 32 of 64 threads reach",
            ),
            (
                "barrier_of_half_a_warp",
                "barrier 1 is reached by the lanes 0xffff",
            ),
            ("barrier_twice", "comes to barrier 1 a second time"),
            ("lanes_that_ended", "exchange"),
            (
                "lane_out_of_the_mask",
                "reads lane 20, which is not in the shuffle's mask",
            ),
            (
                "operations_that_differ",
                "lanes of a warp meet in different operations",
            ),
            ("out_of_line", "an access out of line"),
            ("beyond_shared", "illegal access"),
            ("beyond_an_array", "illegal access"),
            ("far_beyond_an_array", "illegal access"),
        ] {
            let error = case.emulate_entry(entry, &launch, seed).unwrap_err();
            assert!(error.contains(want), "{entry}, order {seed}: {error}");
        }
    }
}
