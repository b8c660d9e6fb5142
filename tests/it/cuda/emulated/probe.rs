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
