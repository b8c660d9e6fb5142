//! Attention of several queries over one KV tile.
//!
//! ```text
//! keys     lane = position: G groups of 16 positions, N queries, N G <= 24 sums in registers
//! softmax  all N queries side by side (softmax.rs); positions out of a query's range are masked out
//! values   lane = channel: C vectors of 16 channels, N queries, N C <= 24 sums in registers
//! ```
//!
//! Keys and values are widened as they are read, once for the N queries: that runs beside the fused
//! steps. Keys and values of the next tile are fetched meanwhile: they lie too far apart for the
//! hardware to foresee. Queries of one group of N may have different ranges: scores out of a query's range are
//! computed and dropped, values out of it are not touched (a stale page may hold anything).

use std::arch::x86_64::{
    __m512, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_fmadd_ps,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use chaski_quant::scalar::attention::{KV_TILE, KvTile, KvType};

use super::{
    load::{
        load_f32_padded, load_f32x16, load_f32x16_le, load_u8x16, load_u8x32, store_f32_padded,
        store_f32x16,
    },
    softmax::{Scores, Weights, softmax},
};
use crate::x86_64::fetch::fetch_at;

const F32: u8 = KvType::F32 as u8;
const F16: u8 = KvType::F16 as u8;
const Q8: u8 = KvType::Q8 as u8;

/// Positions, or channels, that a register's lanes hold.
const LANES: usize = 16;

/// See [`chaski_quant::scalar::attention::attend_tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn attend_tile(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    match kv.kv_type {
        KvType::F32 => all_queries::<F32, { 4 * LANES }>(kv, q, ranges, scale, states),
        KvType::F16 => all_queries::<F16, { 2 * LANES }>(kv, q, ranges, scale, states),
        KvType::Q8 => all_queries::<Q8, LANES>(kv, q, ranges, scale, states),
    }
}

/// Cuts the queries into groups of neighbours whose ranges are not empty.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn all_queries<const KV: u8, const W: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    let (q_len, state_len) = (kv.head_dim, kv.head_dim + 2);
    // The first group fetches what comes next; the others find it.
    let mut kv = *kv;
    let mut i = 0;
    while i < ranges.len() {
        let run = ranges[i..].iter().take_while(|r| r[0] < r[1]).count();
        if run == 0 {
            i += 1;
            continue;
        }
        let (q, states) = (&q[i * q_len..], &mut states[i * state_len..]);
        let ranges = &ranges[i..];
        let n = match run {
            ..=8 => run,
            // Rather 5 and 4 than 8 and 1.
            9..=11 => run.div_ceil(2),
            _ => 8,
        };
        match n {
            1 => group::<KV, W, 1, 0, 1>(&kv, q, ranges, scale, states),
            2 => group::<KV, W, 2, 0, 2>(&kv, q, ranges, scale, states),
            3 => group::<KV, W, 3, 0, 3>(&kv, q, ranges, scale, states),
            4 => group::<KV, W, 4, 0, 4>(&kv, q, ranges, scale, states),
            5 => group::<KV, W, 5, 0, 5>(&kv, q, ranges, scale, states),
            6 => group::<KV, W, 3, 3, 6>(&kv, q, ranges, scale, states),
            7 => group::<KV, W, 4, 3, 7>(&kv, q, ranges, scale, states),
            _ => group::<KV, W, 4, 4, 8>(&kv, q, ranges, scale, states),
        }
        i += n;
        kv.ahead = &[];
    }
}

/// The first `N` queries: their softmax side by side, the products of the first `A` and of the other `B`
/// one after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn group<const KV: u8, const W: usize, const A: usize, const B: usize, const N: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    const { assert!(A + B == N) };
    let n = kv.head_dim;
    let mut all = [[0; 2]; N];
    for (all, range) in all.iter_mut().zip(ranges) {
        *all = range.map(usize::from);
    }
    let ranges = all;
    let mut p = [[0.0; KV_TILE]; N];
    let (p_a, p_b) = p.split_at_mut(A);
    part_scores::<KV, W, A>(kv, q, &ranges[..A], scale, p_a);
    if B > 0 {
        let kv = &KvTile { ahead: &[], ..*kv };
        part_scores::<KV, W, B>(kv, &q[A * n..], &ranges[A..], scale, p_b);
    }
    let whole = ranges.iter().all(|r| *r == [0, KV_TILE]);
    let states = &mut states[..N * (n + 2)];
    let weights = if whole {
        softmax::<N, true>(&mut p, &ranges, states)
    } else {
        softmax::<N, false>(&mut p, &ranges, states)
    };
    part_values::<KV, W, A>(kv, &p[..A], &ranges[..A], 0, &weights, states);
    if B > 0 {
        let kv = &KvTile { ahead: &[], ..*kv };
        let states = &mut states[A * (n + 2)..];
        part_values::<KV, W, B>(kv, &p[A..], &ranges[A..], A, &weights, states);
    }
}

/// The scores of `N` queries.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn part_scores<const KV: u8, const W: usize, const N: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[usize; 2]],
    scale: f32,
    p: &mut [Scores],
) {
    let lo = ranges.iter().fold(KV_TILE, |lo, r| lo.min(r[0])) / LANES;
    let hi = ranges.iter().fold(0, |hi, r| hi.max(r[1])).div_ceil(LANES);
    if hi - lo > 2 {
        scores::<KV, W, N, 4>(kv, q, 0, scale, p);
    } else {
        for first in lo..hi {
            scores::<KV, W, N, 1>(kv, q, first, scale, p);
        }
    }
}

/// The values of `N` queries, the first of which is query `at` of `weights`, into their states.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn part_values<const KV: u8, const W: usize, const N: usize>(
    kv: &KvTile<'_>,
    p: &[Scores],
    ranges: &[[usize; 2]],
    at: usize,
    weights: &Weights,
    states: &mut [f32],
) {
    let n = kv.head_dim;
    let mut c = 0;
    while c + 4 * LANES <= n {
        values::<KV, W, N, 4>(kv, p, ranges, c, at, weights, states);
        c += 4 * LANES;
    }
    while c + LANES <= n {
        values::<KV, W, N, 1>(kv, p, ranges, c, at, weights, states);
        c += LANES;
    }
    for i in 0..N {
        let state = &mut states[i * (n + 2)..(i + 1) * (n + 2)];
        if c < n {
            last_values::<KV, W>(kv, &p[i], ranges[i], c, weights.ab(at + i), state);
        }
        weights.finish(at + i, state);
    }
}

/// 16 stored numbers of `W` bytes in all, times `d` where the type has scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load16<const KV: u8, const W: usize>(bytes: &[u8; W], d: __m512) -> __m512 {
    match KV {
        F32 => load_f32x16_le(bytes, 0),
        F16 => _mm512_cvtph_ps(load_u8x32(bytes, 0)),
        _ => {
            let codes = _mm512_cvtepi8_epi32(load_u8x16(bytes, 0));
            _mm512_mul_ps(_mm512_cvtepi32_ps(codes), d)
        }
    }
}

/// `q . k * scale` of `N` queries and the positions of groups `first..first + G`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scores<const KV: u8, const W: usize, const N: usize, const G: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    first: usize,
    scale: f32,
    out: &mut [Scores],
) {
    let n = kv.head_dim;
    let mut queries = [q; N];
    for i in 0..N {
        queries[i] = &q[i * n..][..n];
    }
    let chunks = &kv.keys.as_chunks::<W>().0[first * n..];
    let mut keys = [chunks; G];
    for g in 0..G {
        keys[g] = &chunks[g * n..][..n];
    }
    let mut d = [_mm512_setzero_ps(); G];
    if KV == Q8 {
        let scales = &kv.keys[KV_TILE * n..];
        for (g, d) in d.iter_mut().enumerate() {
            *d = load_f32x16_le(scales, 4 * (first + g) * LANES);
        }
    }
    let ahead = next_keys(kv);
    let mut acc = [[_mm512_setzero_ps(); N]; G];
    for c in 0..n {
        // A channel is 64 positions of a tile: 4 vectors.
        match KV {
            F32 => fetch_at::<256>(ahead, c * 4 * W),
            F16 => fetch_at::<128>(ahead, c * 4 * W),
            _ => fetch_at::<64>(ahead, c * 4 * W),
        }
        let mut k = [_mm512_setzero_ps(); G];
        for g in 0..G {
            k[g] = load16::<KV, W>(&keys[g][c], d[g]);
        }
        for i in 0..N {
            let q = _mm512_set1_ps(queries[i][c]);
            for g in 0..G {
                acc[g][i] = _mm512_fmadd_ps(q, k[g], acc[g][i]);
            }
        }
    }
    for (g, acc) in acc.into_iter().enumerate() {
        for (out, acc) in out.iter_mut().zip(acc) {
            let score = _mm512_mul_ps(acc, _mm512_set1_ps(scale));
            store_f32x16(out, (first + g) * LANES, score);
        }
    }
}

/// The keys of the next tile; these again where there is none: what is asked for twice costs nothing.
#[inline]
fn next_keys<'a>(kv: &KvTile<'a>) -> &'a [u8] {
    if kv.ahead.is_empty() {
        kv.keys
    } else {
        kv.ahead
    }
}

/// The values of the next tile, or these.
#[inline]
fn next_values<'a>(kv: &KvTile<'a>) -> &'a [u8] {
    if kv.ahead.is_empty() {
        kv.values
    } else {
        &kv.ahead[kv.ahead.len() / 2..]
    }
}

/// The scale of position `j` of a value part, in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn value_scale<const KV: u8>(kv: &KvTile<'_>, j: usize) -> __m512 {
    if KV != Q8 {
        return _mm512_setzero_ps();
    }
    let at = KV_TILE * kv.head_dim + 4 * j;
    let bytes = &kv.values[at..at + 4];
    _mm512_set1_ps(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Channels `c..c + 16 C` of position `j`, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn value_row<const KV: u8, const W: usize, const C: usize>(
    kv: &KvTile<'_>,
    j: usize,
    c: usize,
) -> [__m512; C] {
    let d = value_scale::<KV>(kv, j);
    let row = &kv.values[(j * kv.head_dim + c) * (W / LANES)..][..C * W];
    let row = row.as_chunks::<W>().0;
    let mut v = [_mm512_setzero_ps(); C];
    for i in 0..C {
        v[i] = load16::<KV, W>(&row[i], d);
    }
    v
}

/// `p * v` summed over positions `from..to` into `C` vectors of channels from `c`, one query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn values_of_one<const KV: u8, const W: usize, const C: usize>(
    kv: &KvTile<'_>,
    p: &Scores,
    from: usize,
    to: usize,
    c: usize,
    mut acc: [__m512; C],
) -> [__m512; C] {
    for j in from..to {
        let (v, p) = (value_row::<KV, W, C>(kv, j, c), _mm512_set1_ps(p[j]));
        for i in 0..C {
            acc[i] = _mm512_fmadd_ps(p, v[i], acc[i]);
        }
    }
    acc
}

/// Channels `c..c + 16 C` of `N` queries: summed over positions and merged into the states.
///
/// Positions that all queries attend to are walked together, those before and after by each alone:
/// for one query that is the order of positions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn values<const KV: u8, const W: usize, const N: usize, const C: usize>(
    kv: &KvTile<'_>,
    p: &[Scores],
    ranges: &[[usize; 2]],
    c: usize,
    at: usize,
    weights: &Weights,
    states: &mut [f32],
) {
    let (p, ranges) = (&p[..N], &ranges[..N]);
    let common_lo = ranges.iter().fold(0, |lo, r| lo.max(r[0]));
    let common_hi = ranges.iter().fold(KV_TILE, |hi, r| hi.min(r[1]));
    let mut acc = [[_mm512_setzero_ps(); C]; N];
    for (n, acc) in acc.iter_mut().enumerate() {
        let [lo, hi] = ranges[n];
        *acc = values_of_one::<KV, W, C>(kv, &p[n], lo, hi.min(common_lo), c, *acc);
    }
    let ahead = next_values(kv);
    for j in common_lo..common_hi {
        for i in 0..C {
            fetch_at::<W>(ahead, (j * kv.head_dim + c) * (W / LANES) + i * W);
        }
        let v = value_row::<KV, W, C>(kv, j, c);
        for n in 0..N {
            let p = _mm512_set1_ps(p[n][j % KV_TILE]);
            for i in 0..C {
                acc[n][i] = _mm512_fmadd_ps(p, v[i], acc[n][i]);
            }
        }
    }
    let rest = common_hi.max(common_lo);
    for (n, acc) in acc.into_iter().enumerate() {
        let acc = values_of_one::<KV, W, C>(kv, &p[n], rest, ranges[n][1], c, acc);
        for (i, acc) in acc.into_iter().enumerate() {
            let into = n * (kv.head_dim + 2) + c + i * LANES;
            let merged = weights.ab(at + n).map_or(acc, |(a, b)| {
                let scaled = _mm512_mul_ps(load_f32x16(states, into), _mm512_set1_ps(a));
                _mm512_fmadd_ps(acc, _mm512_set1_ps(b), scaled)
            });
            store_f32x16(states, into, merged);
        }
    }
}

/// As [`values`], for the last channels, fewer than 16, of one query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn last_values<const KV: u8, const W: usize>(
    kv: &KvTile<'_>,
    p: &Scores,
    range: [usize; 2],
    c: usize,
    ab: Option<(f32, f32)>,
    state: &mut [f32],
) {
    let n = kv.head_dim - c;
    let mut acc = _mm512_setzero_ps();
    for j in range[0]..range[1] {
        let mut padded = [0; W];
        let at = (j * kv.head_dim + c) * (W / LANES);
        let stored = &kv.values[at..][..n * (W / LANES)];
        padded[..stored.len()].copy_from_slice(stored);
        let v = load16::<KV, W>(&padded, value_scale::<KV>(kv, j));
        acc = _mm512_fmadd_ps(_mm512_set1_ps(p[j]), v, acc);
    }
    let state = &mut state[c..c + n];
    let merged = ab.map_or(acc, |(a, b)| {
        let scaled = _mm512_mul_ps(load_f32_padded(state), _mm512_set1_ps(a));
        _mm512_fmadd_ps(acc, _mm512_set1_ps(b), scaled)
    });
    store_f32_padded(state, merged);
}
