//! Attention over one KV tile: keys by position lanes, values by channel lanes.

use chaski_quant::scalar::{
    attention::{KV_TILE, KvTile, KvType},
    tree16,
};
use half::f16;

use super::elementwise::{MergeWeights, exp};

/// Channels whose sums are kept in registers at a time.
const CHANNELS: usize = 16;

/// Elements `i..i + out.len()` of a part, before their scale.
#[inline(always)]
fn load(kv_type: KvType, part: &[u8], i: usize, out: &mut [f32]) {
    let n = out.len();
    match kv_type {
        KvType::F32 => {
            let (part, _) = part[4 * i..][..4 * n].as_chunks::<4>();
            out.iter_mut()
                .zip(part)
                .for_each(|(out, b)| *out = f32::from_le_bytes(*b));
        }
        KvType::F16 => {
            let (part, _) = part[2 * i..][..2 * n].as_chunks::<2>();
            out.iter_mut()
                .zip(part)
                .for_each(|(out, b)| *out = f16::from_le_bytes(*b).to_f32());
        }
        KvType::Q8 => {
            out.iter_mut()
                .zip(&part[i..][..n])
                .for_each(|(out, b)| *out = f32::from(*b as i8));
        }
    }
}

/// Scales of positions `pos..pos + out.len()` of a part.
#[inline(always)]
fn load_scales(kv: &KvTile<'_>, part: &[u8], pos: usize, out: &mut [f32]) {
    if kv.kv_type == KvType::Q8 {
        load(KvType::F32, &part[KV_TILE * kv.head_dim..], pos, out);
    }
}

/// See [`chaski_quant::scalar::attention::attend_tile`], for each query in turn.
#[inline(always)]
pub(crate) fn attend_tile(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    let queries = q
        .chunks_exact(kv.head_dim)
        .zip(states.chunks_exact_mut(kv.head_dim + 2));
    for (range, (q, state)) in ranges.iter().zip(queries) {
        let (lo, hi) = (usize::from(range[0]), usize::from(range[1]));
        if lo < hi {
            attend_one(kv, q, lo, hi, scale, state);
        }
    }
}

#[inline(always)]
fn attend_one(kv: &KvTile<'_>, q: &[f32], lo: usize, hi: usize, scale: f32, state: &mut [f32]) {
    let mut p = [0.0_f32; KV_TILE];
    for first in (lo / 16 * 16..hi).step_by(16) {
        let (mut dot, mut k, mut d) = ([0.0_f32; 16], [0.0_f32; 16], [1.0_f32; 16]);
        load_scales(kv, kv.keys, first, &mut d);
        for (c, q) in q.iter().enumerate() {
            load(kv.kv_type, kv.keys, first * kv.head_dim + c * 16, &mut k);
            for lane in 0..16 {
                dot[lane] = q.mul_add(k[lane] * d[lane], dot[lane]);
            }
        }
        (0..16).for_each(|lane| p[first + lane] = dot[lane] * scale);
    }
    let m = p[lo..hi]
        .iter()
        .fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m })
        + 0.0;
    let mut lanes = [0.0_f32; 16];
    for j in lo..hi {
        p[j] = exp(p[j] - m);
        lanes[j % 16] += p[j];
    }
    let weights = MergeWeights::new(state, m, tree16(lanes), |a, b| (exp(a), exp(b)));
    for c in (0..kv.head_dim).step_by(CHANNELS) {
        let n = CHANNELS.min(kv.head_dim - c);
        let (mut acc, mut v, mut d) = ([0.0_f32; CHANNELS], [0.0_f32; CHANNELS], [1.0_f32]);
        for j in lo..hi {
            load_scales(kv, kv.values, j, &mut d);
            load(kv.kv_type, kv.values, j * kv.head_dim + c, &mut v[..n]);
            for i in 0..CHANNELS {
                acc[i] = p[j].mul_add(v[i] * d[0], acc[i]);
            }
        }
        for (state, acc) in state[c..c + n].iter_mut().zip(acc) {
            *state = weights.merge(*state, acc);
        }
    }
    weights.finish(state);
}
