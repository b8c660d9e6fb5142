//! Attention of several queries over one KV tile.
//!
//! ```text
//! keys     lane = position: G groups of 16 positions, N queries, 4 N G = 8..16 sums in registers
//! softmax  each query alone, 4 positions at a time; positions out of its range are masked out
//! values   lane = channel: C times 8 channels, N queries, 2 N C = 8..16 sums in registers
//! ```
//!
//! Queries of one group of N may have different ranges: scores out of a query's range are computed
//! and dropped, values out of it are not touched (a stale page may hold anything).

use std::arch::aarch64::{
    float32x4_t, float32x4x4_t, uint32x4_t, vaddq_f32, vandq_u32, vbslq_f32, vcgeq_u32, vcltq_u32,
    vcvt_f32_f16, vcvt_high_f32_f16, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_u32, vfmaq_laneq_f32,
    vfmaq_n_f32, vget_low_f16, vget_low_s16, vmaxnmq_f32, vmaxnmvq_f32, vmovl_high_s16, vmovl_s8,
    vmovl_s16, vmulq_f32, vmulq_n_f32, vreinterpret_s8_u8, vreinterpretq_f16_u16,
    vreinterpretq_f32_u32, vreinterpretq_u32_f32, vsubq_f32,
};

use chaski_quant::scalar::attention::{KV_TILE, KvTile, KvType};

use super::{
    exp::exp,
    load::{
        load_f32x4, load_f32x4_le, load_u8x8, load_u16x8_le, load_u32x4, store_f32x4,
        store_transposed,
    },
    merge::merge_weights,
    rms_norm::tree16,
};
use crate::plain::merge_weights::MergeWeights;

const F32: u8 = KvType::F32 as u8;
const F16: u8 = KvType::F16 as u8;
const Q8: u8 = KvType::Q8 as u8;

/// Numbers that are loaded at a time: two registers.
const EIGHT: usize = 8;
/// Positions whose keys lie together.
const GROUP: usize = 16;
/// Queries at a time, at most: one lane of [`Weights`] each.
const MAX_QUERIES: usize = 4;

/// Scores, then probabilities, of one query.
type Scores = [f32; KV_TILE];
/// The probabilities of all queries by position, so that one load serves them.
type Weights = [[f32; MAX_QUERIES]; KV_TILE];
/// 8 numbers.
type Pair = [float32x4_t; 2];

/// See [`chaski_quant::scalar::attention::attend_tile`].
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
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
            .take(MAX_QUERIES)
            .take_while(|r| r[0] < r[1])
            .count();
        let (q, states) = (&q[i * q_len..], &mut states[i * state_len..]);
        match n {
            0 => {}
            1 => group::<KV, 1, 2, 4>(kv, q, &ranges[i..], scale, states),
            2 => group::<KV, 2, 2, 4>(kv, q, &ranges[i..], scale, states),
            3 => group::<KV, 3, 1, 2>(kv, q, &ranges[i..], scale, states),
            _ => group::<KV, 4, 1, 2>(kv, q, &ranges[i..], scale, states),
        }
        i += n.max(1);
    }
}

/// The first `N` queries.
#[inline]
#[target_feature(enable = "neon")]
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
    let mut p = [[0.0; KV_TILE]; MAX_QUERIES];
    for first in (lo / (GROUP * G) * G..hi.div_ceil(GROUP)).step_by(G) {
        scores::<KV, N, G>(kv, q, first, scale, &mut p);
    }
    let weights: [MergeWeights; N] = std::array::from_fn(|i| {
        let (m, l) = softmax(&mut p[i], ranges[i]);
        merge_weights(&states[i * (n + 2)..(i + 1) * (n + 2)], m, l)
    });
    let mut by_position = [[0.0; MAX_QUERIES]; KV_TILE];
    let (fours, _) = by_position.as_chunks_mut();
    for (i, four) in fours.iter_mut().enumerate() {
        let of = |query: usize| load_f32x4(&p[query], 4 * i);
        store_transposed(four, float32x4x4_t(of(0), of(1), of(2), of(3)));
    }
    let p = &by_position;
    let mut c = 0;
    while c + C * EIGHT <= n {
        values::<KV, N, C>(kv, p, &ranges, c, &weights, states);
        c += C * EIGHT;
    }
    while c + EIGHT <= n {
        values::<KV, N, 1>(kv, p, &ranges, c, &weights, states);
        c += EIGHT;
    }
    for (i, weights) in weights.iter().enumerate() {
        let state = &mut states[i * (n + 2)..(i + 1) * (n + 2)];
        last_values::<KV>(kv, p, i, ranges[i], c, weights, state);
        weights.finish(state);
    }
}

/// Elements `i..i + 8` of a part, times `d` where the type has scales.
#[inline]
#[target_feature(enable = "neon")]
fn load8<const KV: u8>(part: &[u8], i: usize, d: Pair) -> Pair {
    match KV {
        F32 => [load_f32x4_le(part, 4 * i), load_f32x4_le(part, 4 * i + 16)],
        F16 => {
            let halves = vreinterpretq_f16_u16(load_u16x8_le(part, 2 * i));
            [
                vcvt_f32_f16(vget_low_f16(halves)),
                vcvt_high_f32_f16(halves),
            ]
        }
        _ => {
            let codes = vmovl_s8(vreinterpret_s8_u8(load_u8x8(part, i)));
            let low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(codes)));
            let high = vcvtq_f32_s32(vmovl_high_s16(codes));
            [vmulq_f32(low, d[0]), vmulq_f32(high, d[1])]
        }
    }
}

/// `q . k * scale` of `N` queries and the positions of groups `first..first + G`.
#[inline]
#[target_feature(enable = "neon")]
fn scores<const KV: u8, const N: usize, const G: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    first: usize,
    scale: f32,
    out: &mut [Scores; MAX_QUERIES],
) {
    let n = kv.head_dim;
    let q: [&[f32]; N] = std::array::from_fn(|i| &q[i * n..(i + 1) * n]);
    let mut d = [[[vdupq_n_f32(0.0); 2]; 2]; G];
    if KV == Q8 {
        let scales = &kv.keys[KV_TILE * n..];
        for (g, d) in d.iter_mut().enumerate() {
            for (half, d) in d.iter_mut().enumerate() {
                let at = 4 * ((first + g) * GROUP + half * EIGHT);
                *d = [load_f32x4_le(scales, at), load_f32x4_le(scales, at + 16)];
            }
        }
    }
    let mut acc = [[[[vdupq_n_f32(0.0); 2]; N]; 2]; G];
    for c in 0..n {
        for g in 0..G {
            for half in 0..2 {
                let at = (first + g) * GROUP * n + c * GROUP + half * EIGHT;
                let k = load8::<KV>(kv.keys, at, d[g][half]);
                for i in 0..N {
                    let acc = &mut acc[g][half][i];
                    acc[0] = vfmaq_n_f32(acc[0], k[0], q[i][c]);
                    acc[1] = vfmaq_n_f32(acc[1], k[1], q[i][c]);
                }
            }
        }
    }
    for (g, acc) in acc.into_iter().enumerate() {
        for (half, acc) in acc.into_iter().enumerate() {
            for (out, acc) in out.iter_mut().zip(acc) {
                let at = (first + g) * GROUP + half * EIGHT;
                store_f32x4(out, at, vmulq_n_f32(acc[0], scale));
                store_f32x4(out, at + 4, vmulq_n_f32(acc[1], scale));
            }
        }
    }
}

/// All bits set in the lanes of positions `first..first + 4` that lie in the range.
#[inline]
#[target_feature(enable = "neon")]
fn mask(first: usize, range: [usize; 2]) -> uint32x4_t {
    let pos = load_u32x4(&[0, 1, 2, 3].map(|lane| first as u32 + lane));
    let not_before = vcgeq_u32(pos, vdupq_n_u32(range[0] as u32));
    let before_end = vcltq_u32(pos, vdupq_n_u32(range[1] as u32));
    vandq_u32(not_before, before_end)
}

/// Scores to `exp(score - m)` within the range; `m` and their sum.
#[inline]
#[target_feature(enable = "neon")]
fn softmax(p: &mut Scores, range: [usize; 2]) -> (f32, f32) {
    let vectors = (range[0] / 4 * 4..range[1]).step_by(4);
    let lowest = vdupq_n_f32(f32::NEG_INFINITY);
    let mut max = lowest;
    for i in vectors.clone() {
        let score = vbslq_f32(mask(i, range), load_f32x4(p, i), lowest);
        // Not the score where it is NaN: that shows in the probabilities.
        max = vmaxnmq_f32(score, max);
    }
    // The zero makes -0 into 0, whichever of the two the order of lanes has left.
    let m = vmaxnmvq_f32(max) + 0.0;
    let mut lanes = [vdupq_n_f32(0.0); 4];
    for i in vectors {
        let e = exp(vsubq_f32(load_f32x4(p, i), vdupq_n_f32(m)));
        // Adding the zeros of masked positions changes nothing: no lane is ever -0.
        let e = vandq_u32(vreinterpretq_u32_f32(e), mask(i, range));
        let e = vreinterpretq_f32_u32(e);
        store_f32x4(p, i, e);
        let lane = i / 4 % 4;
        lanes[lane] = vaddq_f32(lanes[lane], e);
    }
    (m, tree16(lanes))
}

/// The scale of position `j` of a value part, in every lane.
#[inline]
#[target_feature(enable = "neon")]
fn value_scale<const KV: u8>(kv: &KvTile<'_>, j: usize) -> Pair {
    if KV != Q8 {
        return [vdupq_n_f32(0.0); 2];
    }
    let at = KV_TILE * kv.head_dim + 4 * j;
    let bytes = &kv.values[at..at + 4];
    [vdupq_n_f32(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])); 2]
}

/// `acc + p[query] * v`.
#[inline]
#[target_feature(enable = "neon")]
fn add_weighted(acc: float32x4_t, v: float32x4_t, p: float32x4_t, query: usize) -> float32x4_t {
    match query {
        0 => vfmaq_laneq_f32::<0>(acc, v, p),
        1 => vfmaq_laneq_f32::<1>(acc, v, p),
        2 => vfmaq_laneq_f32::<2>(acc, v, p),
        _ => vfmaq_laneq_f32::<3>(acc, v, p),
    }
}

/// `p * v` of query `query`, summed over positions `from..to` into `C` times 8 channels from `c`.
#[inline]
#[target_feature(enable = "neon")]
fn values_of_one<const KV: u8, const C: usize>(
    kv: &KvTile<'_>,
    (p, query): (&Weights, usize),
    from: usize,
    to: usize,
    c: usize,
    mut acc: [Pair; C],
) -> [Pair; C] {
    for j in from..to {
        let (d, p) = (value_scale::<KV>(kv, j), p[j][query]);
        for (i, acc) in acc.iter_mut().enumerate() {
            let v = load8::<KV>(kv.values, j * kv.head_dim + c + i * EIGHT, d);
            acc[0] = vfmaq_n_f32(acc[0], v[0], p);
            acc[1] = vfmaq_n_f32(acc[1], v[1], p);
        }
    }
    acc
}

/// Channels `c..c + 8 C` of `N` queries: summed over positions and merged into the states.
///
/// Positions that all queries attend to are walked together, those before and after by each alone:
/// for one query that is the order of positions.
#[inline]
#[target_feature(enable = "neon")]
fn values<const KV: u8, const N: usize, const C: usize>(
    kv: &KvTile<'_>,
    p: &Weights,
    ranges: &[[usize; 2]; N],
    c: usize,
    weights: &[MergeWeights; N],
    states: &mut [f32],
) {
    let common_lo = ranges.iter().fold(0, |lo, r| lo.max(r[0]));
    let common_hi = ranges.iter().fold(KV_TILE, |hi, r| hi.min(r[1]));
    let mut acc = [[[vdupq_n_f32(0.0); 2]; C]; N];
    for (n, acc) in acc.iter_mut().enumerate() {
        let [lo, hi] = ranges[n];
        *acc = values_of_one::<KV, C>(kv, (p, n), lo, hi.min(common_lo), c, *acc);
    }
    for j in common_lo..common_hi {
        let (d, p) = (value_scale::<KV>(kv, j), load_f32x4(&p[j], 0));
        for i in 0..C {
            let v = load8::<KV>(kv.values, j * kv.head_dim + c + i * EIGHT, d);
            for n in 0..N {
                acc[n][i][0] = add_weighted(acc[n][i][0], v[0], p, n);
                acc[n][i][1] = add_weighted(acc[n][i][1], v[1], p, n);
            }
        }
    }
    for (n, acc) in acc.into_iter().enumerate() {
        let rest = common_hi.max(common_lo);
        let acc = values_of_one::<KV, C>(kv, (p, n), rest, ranges[n][1], c, acc);
        for (i, acc) in acc.as_flattened().iter().enumerate() {
            let at = n * (kv.head_dim + 2) + c + 4 * i;
            let merged = match weights[n].ab {
                Some((a, b)) => vfmaq_n_f32(vmulq_n_f32(load_f32x4(states, at), a), *acc, b),
                None => *acc,
            };
            store_f32x4(states, at, merged);
        }
    }
}

/// As [`values`], for the last channels, fewer than 8, of query `query`.
#[inline]
#[target_feature(enable = "neon")]
fn last_values<const KV: u8>(
    kv: &KvTile<'_>,
    p: &Weights,
    query: usize,
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
    let mut acc = [vdupq_n_f32(0.0); 2];
    for j in range[0]..range[1] {
        let mut padded = [0; 4 * EIGHT];
        let at = (j * kv.head_dim + c) * bytes;
        padded[..n * bytes].copy_from_slice(&kv.values[at..at + n * bytes]);
        let v = load8::<KV>(&padded, 0, value_scale::<KV>(kv, j));
        acc[0] = vfmaq_n_f32(acc[0], v[0], p[j][query]);
        acc[1] = vfmaq_n_f32(acc[1], v[1], p[j][query]);
    }
    let mut sums = [0.0; EIGHT];
    store_f32x4(&mut sums, 0, acc[0]);
    store_f32x4(&mut sums, 4, acc[1]);
    for (state, sum) in state[c..c + n].iter_mut().zip(sums) {
        *state = weights.merge(*state, sum);
    }
}
