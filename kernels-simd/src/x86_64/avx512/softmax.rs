//! Softmax of the scores of several queries over one tile, and how its result enters their states.
//!
//! For one query this is a chain of latencies (a maximum over lanes, an exponential, a sum over lanes,
//! two more exponentials) that takes a fifth of the time of its products. So up to 8 queries go side
//! by side: their maxima and sums are taken over lanes together, and end up in lanes of one vector.

use std::arch::x86_64::{
    __m512, _CMP_EQ_OQ, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_cmp_ps_mask,
    _mm512_fmadd_ps, _mm512_mask_mov_ps, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_movehdup_ps,
    _mm512_moveldup_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpacklo_pd,
};

use chaski_quant::scalar::attention::KV_TILE;

use super::{
    exp::exp,
    load::{lanes_below, load_f32x16, store_f32x16},
};

const LANES: usize = 16;

/// Scores, then probabilities, of one query.
pub(super) type Scores = [f32; KV_TILE];

/// How the tile enters the states of up to 8 queries: element [`lane`]`(n)` of each is query `n`'s.
pub(super) struct Weights {
    a: [f32; LANES],
    b: [f32; LANES],
    m: [f32; LANES],
    l: [f32; LANES],
    /// Lanes of states that were empty.
    empty: u16,
}

impl Weights {
    /// What the earlier sums and those of the tile are multiplied with; nothing where there are no
    /// earlier ones.
    #[inline]
    pub(super) const fn ab(&self, n: usize) -> Option<(f32, f32)> {
        if self.empty >> lane(n) & 1 == 1 {
            None
        } else {
            Some((self.a[lane(n)], self.b[lane(n)]))
        }
    }

    /// Writes maximum and sum.
    #[inline]
    pub(super) fn finish(&self, n: usize, state: &mut [f32]) {
        let last = state.len() - 2;
        (state[last], state[last + 1]) = (self.m[lane(n)], self.l[lane(n)]);
    }
}

/// Where [`across`] leaves the result of vector `n`.
const fn lane(n: usize) -> usize {
    4 * (n % 4) + n / 4 * 2
}

/// The lanes of positions `first..first + 16` that lie in the range.
#[inline]
const fn mask(first: usize, range: [usize; 2]) -> u16 {
    let below_hi = lanes_below(range[1].saturating_sub(first));
    let below_lo = lanes_below(range[0].saturating_sub(first));
    below_hi & !below_lo
}

/// The sum, or the maximum, over the lanes of each of 8 vectors: lane `i` with lane `i + 8`, then
/// `+ 4`, `+ 2`, `+ 1`, as [`chaski_quant::scalar::tree16`]. The result of vector `n` is in [`lane`]`(n)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn across<const MAX: bool>(v: &[__m512; 8]) -> __m512 {
    let mut fours = [_mm512_setzero_ps(); 2];
    for h in 0..2 {
        let mut eights = [_mm512_setzero_ps(); 2];
        for i in 0..2 {
            let (x, y) = (v[4 * h + 2 * i], v[4 * h + 2 * i + 1]);
            eights[i] = combine::<MAX>(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(x, y),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(x, y),
            );
        }
        fours[h] = combine::<MAX>(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(eights[0], eights[1]),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(eights[0], eights[1]),
        );
    }
    let pairs = [_mm512_castps_pd(fours[0]), _mm512_castps_pd(fours[1])];
    let twos = combine::<MAX>(
        _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[0], pairs[1])),
        _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[0], pairs[1])),
    );
    combine::<MAX>(_mm512_moveldup_ps(twos), _mm512_movehdup_ps(twos))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn combine<const MAX: bool>(a: __m512, b: __m512) -> __m512 {
    if MAX {
        _mm512_max_ps(a, b)
    } else {
        _mm512_add_ps(a, b)
    }
}

/// Scores to `exp(score - m)` within the range of each query, with `m` its largest score; and how
/// that enters `states`, each `[head_dim + 2]`. `WHOLE`: every range is the whole tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn softmax<const N: usize, const WHOLE: bool>(
    p: &mut [Scores; N],
    ranges: &[[usize; 2]; N],
    states: &[f32],
) -> Weights {
    const { assert!(N <= 8) };
    let len = states.len() / N;
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut max = [lowest; 8];
    for first in (0..KV_TILE).step_by(LANES) {
        for n in 0..N {
            let mut score = load_f32x16(&p[n], first);
            if !WHOLE {
                score = _mm512_mask_mov_ps(lowest, mask(first, ranges[n]), score);
            }
            // The second operand where the score is NaN: it shows in the probabilities.
            max[n] = _mm512_max_ps(score, max[n]);
        }
    }
    // The zero makes -0 into 0, whichever of the two the order of lanes has left.
    let m = _mm512_add_ps(across::<true>(&max), _mm512_setzero_ps());
    let mut maxima = [0.0; LANES];
    store_f32x16(&mut maxima, 0, m);
    let mut sums = [_mm512_setzero_ps(); 8];
    for first in (0..KV_TILE).step_by(LANES) {
        for n in 0..N {
            let score = load_f32x16(&p[n], first);
            let mut e = exp(_mm512_sub_ps(score, _mm512_set1_ps(maxima[lane(n)])));
            if !WHOLE {
                // Adding the zeros of masked positions changes nothing: no lane is ever -0.
                e = _mm512_maskz_mov_ps(mask(first, ranges[n]), e);
            }
            store_f32x16(&mut p[n], first, e);
            sums[n] = _mm512_add_ps(sums[n], e);
        }
    }
    let l = across::<false>(&sums);
    let (mut m_into, mut l_into) = ([0.0; LANES], [0.0; LANES]);
    for n in 0..N {
        m_into[lane(n)] = states[(n + 1) * len - 2];
        l_into[lane(n)] = states[(n + 1) * len - 1];
    }
    let (m_into, l_into) = (load_f32x16(&m_into, 0), load_f32x16(&l_into, 0));
    let empty = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(l_into, _mm512_setzero_ps());
    // The second operand unless the first is larger.
    let larger = _mm512_max_ps(m, m_into);
    let a = exp(_mm512_sub_ps(m_into, larger));
    let b = exp(_mm512_sub_ps(m, larger));
    let sum = _mm512_fmadd_ps(l, b, _mm512_mul_ps(l_into, a));
    let mut weights = Weights {
        a: [0.0; LANES],
        b: [0.0; LANES],
        m: [0.0; LANES],
        l: [0.0; LANES],
        empty,
    };
    store_f32x16(&mut weights.a, 0, a);
    store_f32x16(&mut weights.b, 0, b);
    store_f32x16(&mut weights.m, 0, _mm512_mask_mov_ps(larger, empty, m));
    store_f32x16(&mut weights.l, 0, _mm512_mask_mov_ps(sum, empty, l));
    weights
}
