//! Attention of several queries over one KV tile.
//!
//! ```text
//! keys     lane = position: G groups of 16 positions, N queries, 2 N G = 8 sums in registers
//! softmax  each query alone, 8 positions at a time; positions out of its range are masked out
//! values   lane = channel: C vectors of 8 channels, N queries, N C = 8 sums in registers
//! ```
//!
//! Queries of one group of N may have different ranges: scores out of a query's range are computed
//! and dropped, values out of it are not touched (a stale page may hold anything).

use std::arch::x86_64::{
    __m256, _CMP_GT_OQ, _CMP_LE_OQ, _mm_cvtss_f32, _mm_max_ps, _mm_movehdup_ps, _mm_movehl_ps,
    _mm256_add_ps, _mm256_and_ps, _mm256_blendv_ps, _mm256_castps256_ps128, _mm256_cmp_ps,
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_extractf128_ps,
    _mm256_fmadd_ps, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setr_ps,
    _mm256_setzero_ps, _mm256_sub_ps,
};

use chaski_quant::scalar::attention::{KV_TILE, KvTile, KvType};

use super::{
    exp::exp,
    load::{load_f32x8, load_f32x8_le, load_u8x8, load_u8x16, store_f32x8},
    merge::merge_weights,
    rms_norm::tree16,
};
use crate::plain::elementwise::MergeWeights;

const F32: u8 = KvType::F32 as u8;
const F16: u8 = KvType::F16 as u8;
const Q8: u8 = KvType::Q8 as u8;

/// Positions that a register's lanes, and a group, hold.
const LANES: usize = 8;
const GROUP: usize = 16;

/// Scores, then probabilities, of one query.
type Scores = [f32; KV_TILE];

/// See [`chaski_quant::scalar::attention::attend_tile`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn attend_tile(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    match kv.kv_type {
        KvType::F32 => all_queries::<F32>(kv, q, ranges, scale, states),
        KvType::F16 => all_queries::<F16>(kv, q, ranges, scale, states),
        KvType::Q8 => all_queries::<Q8>(kv, q, ranges, scale, states),
    }
}

/// Cuts the queries into groups of up to four neighbours whose ranges are not empty.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn all_queries<const KV: u8>(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    let (q_len, state_len) = (kv.head_dim, kv.head_dim + 2);
    let mut i = 0;
    while i < ranges.len() {
        let n = ranges[i..]
            .iter()
            .take(4)
            .take_while(|r| r[0] < r[1])
            .count();
        let (q, states) = (&q[i * q_len..], &mut states[i * state_len..]);
        match n {
            0 => {}
            1 => group::<KV, 1, 4, 8>(kv, q, &ranges[i..], scale, states),
            2 => group::<KV, 2, 2, 4>(kv, q, &ranges[i..], scale, states),
            3 => group::<KV, 3, 1, 2>(kv, q, &ranges[i..], scale, states),
            _ => group::<KV, 4, 1, 2>(kv, q, &ranges[i..], scale, states),
        }
        i += n.max(1);
    }
}

/// The first `N` queries.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn group<const KV: u8, const N: usize, const G: usize, const C: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    let n = kv.head_dim;
    let ranges: [[usize; 2]; N] = std::array::from_fn(|i| ranges[i].map(usize::from));
    let lo = ranges.iter().fold(KV_TILE, |lo, r| lo.min(r[0]));
    let hi = ranges.iter().fold(0, |hi, r| hi.max(r[1]));
    let mut p = [[0.0; KV_TILE]; N];
    for first in (lo / (GROUP * G) * G..hi.div_ceil(GROUP)).step_by(G) {
        scores::<KV, N, G>(kv, q, first, scale, &mut p);
    }
    let weights: [MergeWeights; N] = std::array::from_fn(|i| {
        let (m, l) = softmax(&mut p[i], ranges[i]);
        merge_weights(&states[i * (n + 2)..(i + 1) * (n + 2)], m, l)
    });
    let mut c = 0;
    while c + C * LANES <= n {
        values::<KV, N, C>(kv, &p, &ranges, c, &weights, states);
        c += C * LANES;
    }
    while c + LANES <= n {
        values::<KV, N, 1>(kv, &p, &ranges, c, &weights, states);
        c += LANES;
    }
    for (i, weights) in weights.iter().enumerate() {
        let state = &mut states[i * (n + 2)..(i + 1) * (n + 2)];
        last_values::<KV>(kv, &p[i], ranges[i], c, weights, state);
        weights.finish(state);
    }
}

/// Elements `i..i + 8` of a part, times `d` where the type has scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load8<const KV: u8>(part: &[u8], i: usize, d: __m256) -> __m256 {
    match KV {
        F32 => load_f32x8_le(part, 4 * i),
        F16 => _mm256_cvtph_ps(load_u8x16(part, 2 * i)),
        _ => {
            let codes = _mm256_cvtepi8_epi32(load_u8x8(part, i));
            _mm256_mul_ps(_mm256_cvtepi32_ps(codes), d)
        }
    }
}

/// `q . k * scale` of `N` queries and the positions of groups `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores<const KV: u8, const N: usize, const G: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    first: usize,
    scale: f32,
    out: &mut [Scores; N],
) {
    let n = kv.head_dim;
    let q: [&[f32]; N] = std::array::from_fn(|i| &q[i * n..(i + 1) * n]);
    let mut d = [[_mm256_setzero_ps(); 2]; G];
    if KV == Q8 {
        let scales = &kv.keys[KV_TILE * n..];
        for (g, d) in d.iter_mut().enumerate() {
            for (half, d) in d.iter_mut().enumerate() {
                *d = load_f32x8_le(scales, 4 * ((first + g) * GROUP + half * LANES));
            }
        }
    }
    let mut acc = [[[_mm256_setzero_ps(); N]; 2]; G];
    for c in 0..n {
        let q: [__m256; N] = std::array::from_fn(|i| _mm256_set1_ps(q[i][c]));
        for g in 0..G {
            for half in 0..2 {
                let at = (first + g) * GROUP * n + c * GROUP + half * LANES;
                let k = load8::<KV>(kv.keys, at, d[g][half]);
                for i in 0..N {
                    acc[g][half][i] = _mm256_fmadd_ps(q[i], k, acc[g][half][i]);
                }
            }
        }
    }
    for (g, acc) in acc.into_iter().enumerate() {
        for (half, acc) in acc.into_iter().enumerate() {
            for (out, acc) in out.iter_mut().zip(acc) {
                let at = (first + g) * GROUP + half * LANES;
                store_f32x8(out, at, _mm256_mul_ps(acc, _mm256_set1_ps(scale)));
            }
        }
    }
}

/// All bits set in the lanes of positions `first..first + 8` that lie in the range.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mask(first: usize, range: [usize; 2]) -> __m256 {
    let at = first as f32;
    let lane = _mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
    let pos = _mm256_add_ps(lane, _mm256_set1_ps(at));
    let not_before = _mm256_cmp_ps::<_CMP_LE_OQ>(_mm256_set1_ps(range[0] as f32), pos);
    let before_end = _mm256_cmp_ps::<_CMP_GT_OQ>(_mm256_set1_ps(range[1] as f32), pos);
    _mm256_and_ps(not_before, before_end)
}

/// The largest of 8 lanes, none of them NaN.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn max_lane(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ps(x, _mm_movehdup_ps(x)))
}

/// Scores to `exp(score - m)` within the range; `m` and their sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn softmax(p: &mut Scores, range: [usize; 2]) -> (f32, f32) {
    let vectors = (range[0] / LANES * LANES..range[1]).step_by(LANES);
    let lowest = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut max = lowest;
    for i in vectors.clone() {
        let score = _mm256_blendv_ps(lowest, load_f32x8(p, i), mask(i, range));
        // The second operand where the score is NaN: it shows in the probabilities.
        max = _mm256_max_ps(score, max);
    }
    // The zero makes -0 into 0, whichever of the two the order of lanes has left.
    let m = max_lane(max) + 0.0;
    let mut lanes = [_mm256_setzero_ps(); 2];
    for i in vectors {
        let e = exp(_mm256_sub_ps(load_f32x8(p, i), _mm256_set1_ps(m)));
        // Adding the zeros of masked positions changes nothing: no lane is ever -0.
        let e = _mm256_and_ps(e, mask(i, range));
        store_f32x8(p, i, e);
        let lane = i / LANES % 2;
        lanes[lane] = _mm256_add_ps(lanes[lane], e);
    }
    (m, tree16(lanes))
}

/// The scale of position `j` of a value part, in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn value_scale<const KV: u8>(kv: &KvTile<'_>, j: usize) -> __m256 {
    if KV != Q8 {
        return _mm256_setzero_ps();
    }
    let at = KV_TILE * kv.head_dim + 4 * j;
    let bytes = &kv.values[at..at + 4];
    _mm256_set1_ps(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// `p * v` summed over positions `from..to` into `C` vectors of channels from `c`, one query.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values_of_one<const KV: u8, const C: usize>(
    kv: &KvTile<'_>,
    p: &Scores,
    from: usize,
    to: usize,
    c: usize,
    mut acc: [__m256; C],
) -> [__m256; C] {
    for j in from..to {
        let (d, p) = (value_scale::<KV>(kv, j), _mm256_set1_ps(p[j]));
        for i in 0..C {
            let v = load8::<KV>(kv.values, j * kv.head_dim + c + i * LANES, d);
            acc[i] = _mm256_fmadd_ps(p, v, acc[i]);
        }
    }
    acc
}

/// Channels `c..c + 8 C` of `N` queries: summed over positions and merged into the states.
///
/// Positions that all queries attend to are walked together, those before and after by each alone:
/// for one query that is the order of positions.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values<const KV: u8, const N: usize, const C: usize>(
    kv: &KvTile<'_>,
    p: &[Scores; N],
    ranges: &[[usize; 2]; N],
    c: usize,
    weights: &[MergeWeights; N],
    states: &mut [f32],
) {
    let common_lo = ranges.iter().fold(0, |lo, r| lo.max(r[0]));
    let common_hi = ranges.iter().fold(KV_TILE, |hi, r| hi.min(r[1]));
    let mut acc: [[__m256; C]; N] = std::array::from_fn(|n| {
        let ([lo, hi], zero) = (ranges[n], [_mm256_setzero_ps(); C]);
        values_of_one::<KV, C>(kv, &p[n], lo, hi.min(common_lo), c, zero)
    });
    for j in common_lo..common_hi {
        let d = value_scale::<KV>(kv, j);
        let p: [__m256; N] = std::array::from_fn(|n| _mm256_set1_ps(p[n][j]));
        for i in 0..C {
            let v = load8::<KV>(kv.values, j * kv.head_dim + c + i * LANES, d);
            for n in 0..N {
                acc[n][i] = _mm256_fmadd_ps(p[n], v, acc[n][i]);
            }
        }
    }
    for (n, acc) in acc.into_iter().enumerate() {
        let hi = ranges[n][1];
        let rest = common_hi.max(common_lo);
        let acc = values_of_one::<KV, C>(kv, &p[n], rest, hi, c, acc);
        for (i, acc) in acc.into_iter().enumerate() {
            let at = n * (kv.head_dim + 2) + c + i * LANES;
            let merged = weights[n].ab.map_or(acc, |(a, b)| {
                let scaled = _mm256_mul_ps(load_f32x8(states, at), _mm256_set1_ps(a));
                _mm256_fmadd_ps(acc, _mm256_set1_ps(b), scaled)
            });
            store_f32x8(states, at, merged);
        }
    }
}

/// As [`values`], for the last channels, fewer than 8, of one query.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn last_values<const KV: u8>(
    kv: &KvTile<'_>,
    p: &Scores,
    range: [usize; 2],
    c: usize,
    weights: &MergeWeights,
    state: &mut [f32],
) {
    let n = kv.head_dim - c;
    if n == 0 {
        return;
    }
    let bytes = match KV {
        F32 => 4,
        F16 => 2,
        _ => 1,
    };
    let mut acc = _mm256_setzero_ps();
    for j in range[0]..range[1] {
        let mut padded = [0; 4 * LANES];
        let at = (j * kv.head_dim + c) * bytes;
        padded[..n * bytes].copy_from_slice(&kv.values[at..at + n * bytes]);
        let v = load8::<KV>(&padded, 0, value_scale::<KV>(kv, j));
        acc = _mm256_fmadd_ps(_mm256_set1_ps(p[j]), v, acc);
    }
    let mut sums = [0.0; LANES];
    store_f32x8(&mut sums, 0, acc);
    for (state, sum) in state[c..c + n].iter_mut().zip(sums) {
        *state = weights.merge(*state, sum);
    }
}
