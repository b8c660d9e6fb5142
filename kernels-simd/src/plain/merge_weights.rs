//! The scalar part of merging two attention states.

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
