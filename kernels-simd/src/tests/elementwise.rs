//! Quantising activations, norm, rotation, activation function, addition.

use chaski_quant::{Acts, BLOCK, scalar};

use super::assert_same;
use crate::{Kernels, testing::Rng};

/// Lengths around the widths of vectors.
const LENGTHS: [usize; 16] = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 80, 576, 2049];

/// Magnitudes that `f32` rows may have: zero, subnormal, ordinary, huge.
const LIMITS: [f32; 6] = [0.0, 1e-40, 1e-20, 1.0, 30.0, 1e18];

/// Rows of every length and magnitude, with zeros of both signs in between.
fn rows() -> impl Iterator<Item = (Vec<f32>, Vec<f32>, String)> {
    LENGTHS.into_iter().flat_map(|n| {
        LIMITS.into_iter().map(move |limit| {
            let mut rng = Rng::new(n as u64);
            let (mut x, y) = (rng.floats(n, limit), rng.floats(n, 1.5));
            for v in x.iter_mut().filter(|_| rng.below(7) == 0) {
                *v = if *v < 0.0 { -0.0 } else { 0.0 };
            }
            (x, y, format!("{n} elements up to {limit:e}"))
        })
    })
}

#[test]
fn quantised_rows_are_the_oracles() {
    let limits = LIMITS
        .into_iter()
        .chain([scalar::ACT_AMAX_MIN, 1e-30, f32::MAX]);
    for (i, limit) in limits.enumerate() {
        for n_blocks in [0, 1, 2, 5] {
            let mut rng = Rng::new(i as u64);
            let mut want = Acts::new(1, n_blocks);
            for x in want.floats_mut(0) {
                // Halves of the step now and then: ties.
                let v = if rng.below(3) == 0 {
                    rng.int(127) as f32 / 254.0
                } else {
                    rng.float()
                };
                *x = v * limit;
            }
            for (b, block) in want.floats_mut(0).chunks_exact_mut(BLOCK).enumerate() {
                block[b % BLOCK] = if b % 2 == 0 { limit } else { -limit };
            }
            let input = want.clone();
            scalar::quantize_row(&mut want.row_mut(0));
            for kernels in Kernels::available() {
                let mut got = input.clone();
                {
                    let row = got.row_mut(0);
                    row.codes.fill(-128);
                    row.scales.fill(f32::NAN);
                    row.sums.fill([i16::MIN; 2]);
                }
                kernels.quantize_row(got.row_mut(0));
                let (got, want) = (got.rows(1), want.rows(1));
                let what = format!("{}: {n_blocks} blocks up to {limit:e}", kernels.name());
                assert_eq!(got.codes(0), want.codes(0), "{what}");
                assert_eq!(got.sums(0), want.sums(0), "{what}");
                assert_same(got.scales(0), want.scales(0), what);
            }
        }
    }
}

#[test]
fn norms_are_the_oracles() {
    for (x, weight, what) in rows() {
        for eps in [1e-5, 0.0, 1e-12] {
            let mut want = vec![f32::NAN; x.len()];
            scalar::rms_norm(&x, &weight, eps, &mut want);
            for kernels in Kernels::available() {
                let mut got = vec![f32::NAN; x.len()];
                kernels.rms_norm(&x, &weight, eps, &mut got);
                assert_same(
                    &got,
                    &want,
                    format_args!("{}: {what}, eps {eps:e}", kernels.name()),
                );
            }
        }
    }
}

#[test]
fn rotations_are_the_oracles() {
    for (x, angles, what) in rows() {
        for h in [x.len() / 2, x.len() / 4] {
            let (sin, cos): (Vec<_>, Vec<_>) = angles[..h].iter().map(|a| a.sin_cos()).unzip();
            let mut want = x.clone();
            scalar::rope(&mut want, &cos, &sin);
            for kernels in Kernels::available() {
                let mut got = x.clone();
                kernels.rope(&mut got, &cos, &sin);
                assert_same(
                    &got,
                    &want,
                    format_args!("{}: {what}, {h} pairs", kernels.name()),
                );
            }
        }
    }
}

#[test]
fn activation_functions_are_the_oracles() {
    for (gate, up, what) in rows() {
        for factor in [1.0, 100.0] {
            let gate: Vec<_> = gate.iter().map(|g| g * factor).collect();
            let mut want = vec![f32::NAN; gate.len()];
            scalar::swiglu(&gate, &up, &mut want);
            for kernels in Kernels::available() {
                let mut got = vec![f32::NAN; gate.len()];
                kernels.swiglu(&gate, &up, &mut got);
                assert_same(&got, &want, format_args!("{}: {what}", kernels.name()));
            }
        }
    }
}

#[test]
fn the_exponential_is_the_oracles_over_its_whole_range() {
    // Through swiglu with up = 1, from beyond one clamp to beyond the other.
    let gate: Vec<f32> = (0..40_000)
        .map(|i| (i - 20_000) as f32 * 0.005_03)
        .collect();
    let up = vec![1.0; gate.len()];
    let mut want = vec![f32::NAN; gate.len()];
    scalar::swiglu(&gate, &up, &mut want);
    for kernels in Kernels::available() {
        let mut got = vec![f32::NAN; gate.len()];
        kernels.swiglu(&gate, &up, &mut got);
        assert_same(&got, &want, kernels.name());
    }
}

#[test]
fn sums_are_the_oracles() {
    for (x, y, what) in rows() {
        let mut want = x.clone();
        scalar::add(&mut want, &y);
        for kernels in Kernels::available() {
            let mut got = x.clone();
            kernels.add(&mut got, &y);
            assert_same(&got, &want, format_args!("{}: {what}", kernels.name()));
        }
    }
}

#[test]
fn nan_is_never_lost() {
    for kernels in Kernels::available() {
        let mut x = [1.0; 21];
        x[17] = f32::NAN;
        let mut out = [0.0; 21];
        kernels.swiglu(&x, &[1.0; 21], &mut out);
        assert!(
            out[17].is_nan() && out[16].is_finite(),
            "{}: swiglu",
            kernels.name()
        );
        kernels.rms_norm(&x, &[1.0; 21], 1e-5, &mut out);
        assert!(
            out.iter().all(|v| v.is_nan()),
            "{}: rms_norm",
            kernels.name()
        );
    }
}
