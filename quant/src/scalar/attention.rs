//! Attention over KV tiles of 64 positions.
//!
//! A KV tile holds the keys and values of one layer and one KV head for 64 absolute positions
//! `64 t .. 64 t + 64`, in two parts (one owner each while they are written):
//!
//! ```text
//! key part    4 groups of 16 positions: [head_dim][16] elements; Q8: then 64 f32 scales
//! value part  [64][head_dim] elements;                           Q8: then 64 f32 scales
//! ```
//!
//! One query's result over a tile or over several is a *state* of `head_dim + 2` floats:
//! the weighted values `acc`, the largest score `m` and the sum of weights `l`; `l == 0` is empty.

use byteorder::{ByteOrder, LittleEndian};
use half::f16;

use super::math::{exp, tree16};

/// Positions of a KV tile.
pub const KV_TILE: usize = 64;
/// Positions of a span: tiles merge left to right within a span, spans left to right.
pub const KV_SPAN: usize = 512;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// IEEE binary32, for tests and measurements.
    F32,
    /// IEEE binary16, ties to even; a magnitude beyond 65504 saturates.
    F16,
    /// 8-bit integers with one f32 scale for each position and head.
    Q8,
}

impl KvType {
    /// Bytes of the key part, and of the value part, of a tile.
    pub const fn part_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => KV_TILE * head_dim * 4,
            Self::F16 => KV_TILE * head_dim * 2,
            Self::Q8 => KV_TILE * head_dim + KV_TILE * 4,
        }
    }
}

/// One tile's keys and values.
#[derive(Clone, Copy, Debug)]
pub struct KvTile<'a> {
    /// How they are stored.
    pub kv_type: KvType,
    /// Elements of a head.
    pub head_dim: usize,
    /// The key part.
    pub keys: &'a [u8],
    /// The value part.
    pub values: &'a [u8],
    /// Keys, then values, of the tile that will be read after this one, or nothing: for kernels that
    /// fetch ahead. No result depends on it.
    pub ahead: &'a [u8],
}

const fn key_index(head_dim: usize, pos: usize, c: usize) -> usize {
    pos / 16 * 16 * head_dim + c * 16 + pos % 16
}

const fn value_index(head_dim: usize, pos: usize, c: usize) -> usize {
    pos * head_dim + c
}

fn store(
    kv_type: KvType,
    part: &mut [u8],
    pos: usize,
    x: &[f32],
    index: fn(usize, usize, usize) -> usize,
) {
    let n = x.len();
    assert!(
        pos < KV_TILE && part.len() == kv_type.part_bytes(n),
        "position {pos} of a KV part"
    );
    match kv_type {
        KvType::F32 => {
            for (c, v) in x.iter().enumerate() {
                LittleEndian::write_f32(&mut part[4 * index(n, pos, c)..], *v);
            }
        }
        KvType::F16 => {
            for (c, v) in x.iter().enumerate() {
                let v = if *v > 65504.0 { 65504.0 } else { *v };
                let v = if v < -65504.0 { -65504.0 } else { v };
                let bits = f16::from_f32(v).to_bits();
                LittleEndian::write_u16(&mut part[2 * index(n, pos, c)..], bits);
            }
        }
        KvType::Q8 => {
            let amax = super::largest_magnitude(x);
            let zero = amax < super::ACT_AMAX_MIN;
            let (d, inverse) = if zero {
                (0.0, 0.0)
            } else {
                (amax / 127.0, 127.0 / amax)
            };
            for (c, v) in x.iter().enumerate() {
                part[index(n, pos, c)] = (v * inverse).round_ties_even() as i8 as u8;
            }
            LittleEndian::write_f32(&mut part[KV_TILE * n + 4 * pos..], d);
        }
    }
}

fn load(
    kv_type: KvType,
    part: &[u8],
    head_dim: usize,
    pos: usize,
    c: usize,
    index: fn(usize, usize, usize) -> usize,
) -> f32 {
    let i = index(head_dim, pos, c);
    match kv_type {
        KvType::F32 => LittleEndian::read_f32(&part[4 * i..]),
        KvType::F16 => f16::from_bits(LittleEndian::read_u16(&part[2 * i..])).to_f32(),
        KvType::Q8 => {
            let d = LittleEndian::read_f32(&part[KV_TILE * head_dim + 4 * pos..]);
            f32::from(part[i] as i8) * d
        }
    }
}

/// Stores the key of position `pos` (0..64) in a tile's key part. `key`: `[head_dim]`.
pub fn store_key(kv_type: KvType, part: &mut [u8], pos: usize, key: &[f32]) {
    store(kv_type, part, pos, key, key_index);
}

/// Stores the value of position `pos` (0..64) in a tile's value part. `value`: `[head_dim]`.
pub fn store_value(kv_type: KvType, part: &mut [u8], pos: usize, value: &[f32]) {
    store(kv_type, part, pos, value, value_index);
}

/// Makes a state empty.
pub fn clear(state: &mut [f32]) {
    let n = state.len() - 2;
    state[..n].fill(0.0);
    state[n] = f32::NEG_INFINITY;
    state[n + 1] = 0.0;
}

/// Attends one query to positions `lo..hi` (within 0..64) of a tile and merges the result into
/// `state`; an empty range leaves it as it was.
///
/// `score[j] = (fma over head_dim in order of q[c] * k[j][c], from zero) * scale`, `m` their
/// largest (plus `0.0`, so that its zero has one sign), `p[j] = exp(score[j] - m)`, `l` the sum of
/// `p` with position `j` in lane `j % 16` and the lanes by [`tree16`],
/// `acc[c] = fma over positions in order of p[j] * v[j][c], from zero`.
///
/// * `q`: `[head_dim]`; `state`: `[head_dim + 2]`.
pub fn attend_tile(
    kv: &KvTile<'_>,
    q: &[f32],
    lo: usize,
    hi: usize,
    scale: f32,
    state: &mut [f32],
) {
    assert!(
        hi <= KV_TILE && q.len() == kv.head_dim,
        "positions {lo}..{hi} of a tile"
    );
    assert_eq!(state.len(), kv.head_dim + 2, "state");
    if lo >= hi {
        return;
    }
    let mut score = [0.0_f32; KV_TILE];
    let mut m = f32::NEG_INFINITY;
    for j in lo..hi {
        let mut dot = 0.0_f32;
        for (c, q) in q.iter().enumerate() {
            dot = q.mul_add(load(kv.kv_type, kv.keys, kv.head_dim, j, c, key_index), dot);
        }
        score[j] = dot * scale;
        m = if score[j] > m { score[j] } else { m };
    }
    m += 0.0;
    let mut p = [0.0_f32; KV_TILE];
    let mut lanes = [0.0_f32; 16];
    for j in lo..hi {
        p[j] = exp(score[j] - m);
        lanes[j % 16] += p[j];
    }
    let weights = MergeWeights::new(state, m, tree16(lanes));
    for c in 0..kv.head_dim {
        let mut acc = 0.0_f32;
        for j in lo..hi {
            acc = p[j].mul_add(
                load(kv.kv_type, kv.values, kv.head_dim, j, c, value_index),
                acc,
            );
        }
        state[c] = weights.merge(state[c], acc);
    }
    weights.finish(state);
}

/// How a later state's sums enter an earlier one's.
struct MergeWeights {
    /// `exp(m_into - m)`, or nothing where the earlier state is empty.
    a: Option<f32>,
    b: f32,
    m: f32,
    l: f32,
}

impl MergeWeights {
    fn new(into: &[f32], m_from: f32, l_from: f32) -> Self {
        let (m_into, l_into) = (into[into.len() - 2], into[into.len() - 1]);
        if l_into == 0.0 {
            return Self {
                a: None,
                b: 1.0,
                m: m_from,
                l: l_from,
            };
        }
        let m = if m_from > m_into { m_from } else { m_into };
        let (a, b) = (exp(m_into - m), exp(m_from - m));
        Self {
            a: Some(a),
            b,
            m,
            l: l_from.mul_add(b, l_into * a),
        }
    }

    fn merge(&self, into: f32, from: f32) -> f32 {
        self.a.map_or(from, |a| from.mul_add(self.b, into * a))
    }

    fn finish(&self, into: &mut [f32]) {
        let n = into.len() - 2;
        (into[n], into[n + 1]) = (self.m, self.l);
    }
}

/// Merges the state `from`, of later positions, into `into`, of earlier ones.
///
/// An empty side leaves the other as it is. Else, with `m` the larger maximum, `a = exp(m_into - m)`
/// and `b = exp(m_from - m)`: `x = fma(x_from, b, x_into * a)` for `acc` and `l`.
pub fn merge(into: &mut [f32], from: &[f32]) {
    assert_eq!(into.len(), from.len(), "state");
    let n = into.len() - 2;
    if from[n + 1] == 0.0 {
        return;
    }
    let weights = MergeWeights::new(into, from[n], from[n + 1]);
    for c in 0..n {
        into[c] = weights.merge(into[c], from[c]);
    }
    weights.finish(into);
}

/// The attention output of a state: `acc / l`. `out`: `[head_dim]`.
///
/// # Panics
///
/// If the state is empty: every query attends at least to its own position.
pub fn finish(state: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert!(
        state.len() == n + 2 && state[n + 1] != 0.0,
        "empty attention state"
    );
    for (out, acc) in out.iter_mut().zip(state) {
        *out = acc / state[n + 1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_DIM: usize = 20;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Keys and values of 64 positions, stored.
    fn parts(kv_type: KvType, keys: &[f32], values: &[f32]) -> [Vec<u8>; 2] {
        let mut parts = [(); 2].map(|()| vec![0xff; kv_type.part_bytes(HEAD_DIM)]);
        for pos in 0..KV_TILE {
            store_key(
                kv_type,
                &mut parts[0],
                pos,
                &keys[pos * HEAD_DIM..][..HEAD_DIM],
            );
            store_value(
                kv_type,
                &mut parts[1],
                pos,
                &values[pos * HEAD_DIM..][..HEAD_DIM],
            );
        }
        parts
    }

    #[test]
    fn two_tiles_give_the_softmax_average_of_their_values() {
        let (keys, values) = (wave(128 * HEAD_DIM, 0.37), wave(128 * HEAD_DIM, 0.11));
        let q = wave(HEAD_DIM, 1.3);
        let range = 5..101;
        let (mut sum, mut want) = (0.0_f64, [0.0_f64; HEAD_DIM]);
        for j in range.clone() {
            let row = |x: &[f32], c: usize| f64::from(x[j * HEAD_DIM + c]);
            let dot: f64 = (0..HEAD_DIM).map(|c| f64::from(q[c]) * row(&keys, c)).sum();
            let p = (dot * 0.25).exp();
            sum += p;
            (0..HEAD_DIM).for_each(|c| want[c] += p * row(&values, c));
        }
        for (kv_type, bound) in [(KvType::F32, 2e-6), (KvType::F16, 2e-3), (KvType::Q8, 2e-2)] {
            let mut state = vec![f32::NAN; HEAD_DIM + 2];
            clear(&mut state);
            for tile in 0..2 {
                let of = |x: &[f32]| x[tile * KV_TILE * HEAD_DIM..][..KV_TILE * HEAD_DIM].to_vec();
                let [k, v] = parts(kv_type, &of(&keys), &of(&values));
                let kv = KvTile {
                    kv_type,
                    head_dim: HEAD_DIM,
                    keys: &k,
                    values: &v,
                    ahead: &[],
                };
                let first = tile * KV_TILE;
                let (lo, hi) = (
                    range.start.max(first) - first,
                    (range.end - first).min(KV_TILE),
                );
                attend_tile(&kv, &q, lo, hi, 0.25, &mut state);
                attend_tile(&kv, &q, 7, 7, 0.25, &mut state);
            }
            let mut out = [0.0; HEAD_DIM];
            finish(&state, &mut out);
            for c in 0..HEAD_DIM {
                let want = want[c] / sum;
                assert!(
                    (f64::from(out[c]) - want).abs() <= bound,
                    "{kv_type:?}: channel {c} is {}, want {want}",
                    out[c]
                );
            }
        }
    }

    #[test]
    fn a_score_that_is_nan_makes_the_output_nan() {
        let ones = vec![1.0; KV_TILE * HEAD_DIM];
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
            let mut keys = ones.clone();
            keys[9 * HEAD_DIM] = f32::NAN;
            let [k, v] = parts(kv_type, &keys, &ones);
            let kv = KvTile {
                kv_type,
                head_dim: HEAD_DIM,
                keys: &k,
                values: &v,
                ahead: &[],
            };
            let mut out = [0.0; HEAD_DIM];
            for (hi, broken) in [(9, false), (10, true)] {
                let mut state = vec![0.0; HEAD_DIM + 2];
                clear(&mut state);
                attend_tile(&kv, &ones[..HEAD_DIM], 0, hi, 1.0, &mut state);
                finish(&state, &mut out);
                assert_eq!(
                    out.iter().all(|x| x.is_nan()),
                    broken,
                    "{kv_type:?} up to {hi}"
                );
            }
        }
    }

    #[test]
    fn merging_with_an_empty_state_keeps_the_other() {
        let full = [1.0, -0.0, 3.0, 0.5, 2.0];
        let mut empty = [9.0; 5];
        clear(&mut empty);
        let (mut a, mut b) = (full, empty);
        merge(&mut a, &empty);
        merge(&mut b, &full);
        for state in [a, b] {
            assert_eq!(state.map(f32::to_bits), full.map(f32::to_bits));
        }
    }
}
