//! `x += y`.

/// See [`chaski_quant::scalar::add`]. The compiler's own vectors do.
#[target_feature(enable = "neon")]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
