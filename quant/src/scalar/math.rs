//! The exponential and the order of sums.

/// `e^x`, for every `x` clamped to -87..=88 first; NaN stays NaN.
///
/// With `n = round_ties_even(x * log2 e)` and `r = x - n ln 2` (two fused steps), a polynomial of
/// degree 6 in `r` (the coefficients of Cephes' `expf`), scaled by `2^n` through the exponent bits.
/// Relative error below 1.2e-7.
pub fn exp(x: f32) -> f32 {
    // Not `clamp` or `max`: a comparison gives the same bits on every instruction set. NaN passes
    // both, so that a broken score cannot come out as a small probability.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p.mul_add(r, c);
    }
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Adds 16 partial sums in a fixed tree: lane `i` with lane `i + 8`, then `+ 4`, `+ 2`, `+ 1`.
pub fn tree16(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Sum in the fixed order: element `i` is added to lane `i % 16`, the lanes by [`tree16`].
pub fn sum16(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    for (i, v) in x.iter().enumerate() {
        lanes[i % 16] += v;
    }
    tree16(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_over_its_range() {
        let mut worst = 0.0_f64;
        let mut x = -86.9_f32;
        while x < 87.9 {
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
            x += 0.000_731;
        }
        assert!(worst < 1.2e-7, "relative error {worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), exp(-87.0));
        assert_eq!(exp(1e30), exp(88.0));
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.0).is_finite() && exp(-87.0).is_normal());
    }
}
