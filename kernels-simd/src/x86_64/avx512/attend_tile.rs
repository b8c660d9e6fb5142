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
use crate::x86_64::fetch::fetch_ahead;

const F32: u8 = KvType::F32 as u8;
const F16: u8 = KvType::F16 as u8;
const Q8: u8 = KvType::Q8 as u8;

/// Positions, or channels, that a register's lanes hold.
const LANES: usize = 16;
/// Queries at once.
const MAX_QUERIES: usize = 6;

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
        KvType::F32 => all_queries::<F32>(kv, q, ranges, scale, states),
        KvType::F16 => all_queries::<F16>(kv, q, ranges, scale, states),
        KvType::Q8 => all_queries::<Q8>(kv, q, ranges, scale, states),
    }
}

/// Cuts the queries into groups of neighbours whose ranges are not empty, as equal as can be.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn all_queries<const KV: u8>(
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
        let n = run.div_ceil(run.div_ceil(MAX_QUERIES));
        let (q, states) = (&q[i * q_len..], &mut states[i * state_len..]);
        match n {
            1 => group::<KV, 1>(&kv, q, &ranges[i..], scale, states),
            2 => group::<KV, 2>(&kv, q, &ranges[i..], scale, states),
            3 => group::<KV, 3>(&kv, q, &ranges[i..], scale, states),
            4 => group::<KV, 4>(&kv, q, &ranges[i..], scale, states),
            5 => group::<KV, 5>(&kv, q, &ranges[i..], scale, states),
            _ => group::<KV, MAX_QUERIES>(&kv, q, &ranges[i..], scale, states),
        }
        i += n;
        kv.ahead = &[];
    }
}

/// The first `N` queries.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn group<const KV: u8, const N: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    let n = kv.head_dim;
    let ranges: [[usize; 2]; N] = std::array::from_fn(|i| ranges[i].map(usize::from));
    let lo = ranges.iter().fold(KV_TILE, |lo, r| lo.min(r[0])) / LANES;
    let hi = ranges.iter().fold(0, |hi, r| hi.max(r[1])).div_ceil(LANES);
    let mut p = [[0.0; KV_TILE]; N];
    if hi - lo > 2 {
        scores::<KV, N, 4>(kv, q, 0, scale, &mut p);
    } else {
        for first in lo..hi {
            scores::<KV, N, 1>(kv, q, first, scale, &mut p);
        }
    }
    let whole = ranges.iter().all(|r| *r == [0, KV_TILE]);
    let states = &mut states[..N * (n + 2)];
    let weights = if whole {
        softmax::<N, true>(&mut p, &ranges, states)
    } else {
        softmax::<N, false>(&mut p, &ranges, states)
    };
    let mut c = 0;
    while c + 4 * LANES <= n {
        values::<KV, N, 4>(kv, &p, &ranges, c, &weights, states);
        c += 4 * LANES;
    }
    while c + LANES <= n {
        values::<KV, N, 1>(kv, &p, &ranges, c, &weights, states);
        c += LANES;
    }
    for i in 0..N {
        let state = &mut states[i * (n + 2)..(i + 1) * (n + 2)];
        last_values::<KV>(kv, &p[i], ranges[i], c, weights.ab(i), state);
        weights.finish(i, state);
    }
}

/// Piece `i` of `n` equal ones.
#[inline]
fn piece(part: &[u8], i: usize, n: usize) -> &[u8] {
    let len = part.len() / n;
    &part[i * len..(i + 1) * len]
}

/// Elements `i..i + 16` of a part, times `d` where the type has scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load16<const KV: u8>(part: &[u8], i: usize, d: __m512) -> __m512 {
    match KV {
        F32 => load_f32x16_le(part, 4 * i),
        F16 => _mm512_cvtph_ps(load_u8x32(part, 2 * i)),
        _ => {
            let codes = _mm512_cvtepi8_epi32(load_u8x16(part, i));
            _mm512_mul_ps(_mm512_cvtepi32_ps(codes), d)
        }
    }
}

/// `q . k * scale` of `N` queries and the positions of groups `first..first + G`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scores<const KV: u8, const N: usize, const G: usize>(
    kv: &KvTile<'_>,
    q: &[f32],
    first: usize,
    scale: f32,
    out: &mut [Scores; N],
) {
    let n = kv.head_dim;
    let mut queries = [q; N];
    for i in 0..N {
        queries[i] = &q[i * n..(i + 1) * n];
    }
    let mut d = [_mm512_setzero_ps(); G];
    if KV == Q8 {
        let scales = &kv.keys[KV_TILE * n..];
        for (g, d) in d.iter_mut().enumerate() {
            *d = load_f32x16_le(scales, 4 * (first + g) * LANES);
        }
    }
    let mut acc = [[_mm512_setzero_ps(); N]; G];
    for c in 0..n {
        fetch_ahead(piece(&kv.ahead[..kv.ahead.len() / 2], c, n));
        let mut k = [_mm512_setzero_ps(); G];
        for g in 0..G {
            k[g] = load16::<KV>(kv.keys, ((first + g) * n + c) * LANES, d[g]);
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

/// `p * v` summed over positions `from..to` into `C` vectors of channels from `c`, one query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn values_of_one<const KV: u8, const C: usize>(
    kv: &KvTile<'_>,
    p: &Scores,
    from: usize,
    to: usize,
    c: usize,
    mut acc: [__m512; C],
) -> [__m512; C] {
    for j in from..to {
        let (d, p) = (value_scale::<KV>(kv, j), _mm512_set1_ps(p[j]));
        for i in 0..C {
            let v = load16::<KV>(kv.values, j * kv.head_dim + c + i * LANES, d);
            acc[i] = _mm512_fmadd_ps(p, v, acc[i]);
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
fn values<const KV: u8, const N: usize, const C: usize>(
    kv: &KvTile<'_>,
    p: &[Scores; N],
    ranges: &[[usize; 2]; N],
    c: usize,
    weights: &Weights,
    states: &mut [f32],
) {
    let common_lo = ranges.iter().fold(0, |lo, r| lo.max(r[0]));
    let common_hi = ranges.iter().fold(KV_TILE, |hi, r| hi.min(r[1]));
    let mut acc = [[_mm512_setzero_ps(); C]; N];
    for (n, acc) in acc.iter_mut().enumerate() {
        let [lo, hi] = ranges[n];
        *acc = values_of_one::<KV, C>(kv, &p[n], lo, hi.min(common_lo), c, *acc);
    }
    for j in common_lo..common_hi {
        if c == 0 {
            fetch_ahead(piece(&kv.ahead[kv.ahead.len() / 2..], j, KV_TILE));
        }
        let d = value_scale::<KV>(kv, j);
        let mut v = [_mm512_setzero_ps(); C];
        for i in 0..C {
            v[i] = load16::<KV>(kv.values, j * kv.head_dim + c + i * LANES, d);
        }
        for n in 0..N {
            let p = _mm512_set1_ps(p[n][j]);
            for i in 0..C {
                acc[n][i] = _mm512_fmadd_ps(p, v[i], acc[n][i]);
            }
        }
    }
    let rest = common_hi.max(common_lo);
    for (n, acc) in acc.into_iter().enumerate() {
        let acc = values_of_one::<KV, C>(kv, &p[n], rest, ranges[n][1], c, acc);
        for (i, acc) in acc.into_iter().enumerate() {
            let at = n * (kv.head_dim + 2) + c + i * LANES;
            let merged = weights.ab(n).map_or(acc, |(a, b)| {
                let scaled = _mm512_mul_ps(load_f32x16(states, at), _mm512_set1_ps(a));
                _mm512_fmadd_ps(acc, _mm512_set1_ps(b), scaled)
            });
            store_f32x16(states, at, merged);
        }
    }
}

/// As [`values`], for the last channels, fewer than 16, of one query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn last_values<const KV: u8>(
    kv: &KvTile<'_>,
    p: &Scores,
    range: [usize; 2],
    c: usize,
    ab: Option<(f32, f32)>,
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
    let mut acc = _mm512_setzero_ps();
    for j in range[0]..range[1] {
        let mut padded = [0; 4 * LANES];
        let at = (j * kv.head_dim + c) * bytes;
        padded[..n * bytes].copy_from_slice(&kv.values[at..at + n * bytes]);
        let v = load16::<KV>(&padded, 0, value_scale::<KV>(kv, j));
        acc = _mm512_fmadd_ps(_mm512_set1_ps(p[j]), v, acc);
    }
    let state = &mut state[c..c + n];
    let merged = ab.map_or(acc, |(a, b)| {
        let scaled = _mm512_mul_ps(load_f32_padded(state), _mm512_set1_ps(a));
        _mm512_fmadd_ps(acc, _mm512_set1_ps(b), scaled)
    });
    store_f32_padded(state, merged);
}
