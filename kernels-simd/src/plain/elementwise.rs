//! Norm, rotation, activation and merge: the oracle's steps, for a compiler to vectorise.

use chaski_quant::scalar::tree16;

/// See [`chaski_quant::scalar::exp`].
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p.mul_add(r, c);
    }
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// See [`chaski_quant::scalar::rms_norm`].
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0_f32; 16];
    for x in x.chunks(16) {
        for (lane, v) in lanes.iter_mut().zip(x) {
            *lane = v.mul_add(*v, *lane);
        }
    }
    let inverse = 1.0 / (tree16(lanes) / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = (x * inverse) * w;
    }
}

/// See [`chaski_quant::scalar::rope`].
#[inline(always)]
pub(crate) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x0, x1) = (*a, *b);
        *a = x0.mul_add(*cos, -(x1 * sin));
        *b = x1.mul_add(*cos, x0 * sin);
    }
}

/// See [`chaski_quant::scalar::swiglu`].
#[inline(always)]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
        *out = (g / (1.0 + exp(-g))) * u;
    }
}

/// How a later attention state's sums enter an earlier one's; see
/// [`chaski_quant::scalar::attention::merge`].
pub(crate) struct MergeWeights {
    /// `exp(m_into - m)` and `exp(m_from - m)`, or nothing where the earlier state is empty.
    pub(crate) ab: Option<(f32, f32)>,
    pub(crate) m: f32,
    pub(crate) l: f32,
}

impl MergeWeights {
    /// Of an empty state, into an empty one.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const EMPTY: Self = Self {
        ab: None,
        m: f32::NEG_INFINITY,
        l: 0.0,
    };

    /// Weights for the earlier state `into` and a later one's maximum and sum; `exp` of a pair.
    #[inline(always)]
    pub(crate) fn new(
        into: &[f32],
        m_from: f32,
        l_from: f32,
        exp: impl Fn(f32, f32) -> (f32, f32),
    ) -> Self {
        let (m_into, l_into) = (into[into.len() - 2], into[into.len() - 1]);
        if l_into == 0.0 {
            return Self {
                ab: None,
                m: m_from,
                l: l_from,
            };
        }
        let m = if m_from > m_into { m_from } else { m_into };
        let (a, b) = exp(m_into - m, m_from - m);
        Self {
            ab: Some((a, b)),
            m,
            l: l_from.mul_add(b, l_into * a),
        }
    }

    /// One channel.
    #[inline(always)]
    pub(crate) fn merge(&self, into: f32, from: f32) -> f32 {
        self.ab.map_or(from, |(a, b)| from.mul_add(b, into * a))
    }

    /// Writes maximum and sum.
    #[inline(always)]
    pub(crate) fn finish(&self, into: &mut [f32]) {
        let n = into.len() - 2;
        (into[n], into[n + 1]) = (self.m, self.l);
    }
}

/// See [`chaski_quant::scalar::attention::merge`].
#[inline(always)]
pub(crate) fn merge(into: &mut [f32], from: &[f32]) {
    let n = into.len() - 2;
    if from[n + 1] == 0.0 {
        return;
    }
    let weights = MergeWeights::new(into, from[n], from[n + 1], |a, b| (exp(a), exp(b)));
    for (into, from) in into[..n].iter_mut().zip(from) {
        *into = weights.merge(*into, *from);
    }
    weights.finish(into);
}
