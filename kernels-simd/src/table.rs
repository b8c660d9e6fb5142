//! The table of kernels: how one is chosen, and the checked calls through it.
#![allow(unsafe_code)] // the calls

use std::{env, ffi::OsStr, fmt, sync::OnceLock};

use chaski_quant::{
    ActRows, BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun,
    acts::ActRowMut,
    scalar::attention::{KV_TILE, KvTile, KvType},
};

use crate::{Level, LevelError, plain};

pub(crate) type MatmulFn = unsafe fn(&TileRun<'_>, &ActRows<'_>, &mut [f32]);
type AttendFn = unsafe fn(&KvTile<'_>, &[f32], &[[u8; 2]], f32, &mut [f32]);

/// One SIMD level's kernels. Holding a `&'static Kernels` proves that this CPU has the level.
///
/// The methods check lengths, so no argument can make them read or write out of bounds. They do not
/// allocate, and they touch no memory but their arguments.
pub struct Kernels {
    pub(crate) level: Level,
    pub(crate) quantize_row: unsafe fn(&mut ActRowMut<'_>),
    /// In the order of [`QuantType::ALL`].
    pub(crate) matmul: [MatmulFn; QuantType::ALL.len()],
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) rope: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) swiglu: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub(crate) add: unsafe fn(&mut [f32], &[f32]),
    pub(crate) store_key: unsafe fn(KvType, &mut [u8], usize, &[f32]),
    pub(crate) store_value: unsafe fn(KvType, &mut [u8], usize, &[f32]),
    pub(crate) attend_tile: AttendFn,
    pub(crate) merge: unsafe fn(&mut [f32], &[f32]),
    pub(crate) finish: unsafe fn(&[f32], &mut [f32]),
    pub(crate) dequantize_row: unsafe fn(&TensorLayout, &[u8], usize, &mut [f32]),
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// The table of `level`, where this CPU has it. The only place that hands out tables.
fn table(level: Level) -> Option<&'static Kernels> {
    match level {
        Level::Scalar => Some(&plain::SCALAR),
        #[cfg(target_arch = "x86_64")]
        Level::ScalarFma => {
            crate::x86_64::fma::is_available().then_some(&crate::x86_64::fma::TABLE)
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => crate::x86_64::avx2::is_available().then_some(&crate::x86_64::avx2::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => crate::x86_64::avxvnni::table(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            crate::x86_64::avx512::is_available().then_some(&crate::x86_64::avx512::TABLE)
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vbmi => {
            crate::x86_64::avx512::vbmi_is_available().then_some(&crate::x86_64::avx512::VBMI_TABLE)
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon => crate::aarch64::neon::is_available().then_some(&crate::aarch64::neon::TABLE),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Dotprod => {
            crate::aarch64::dotprod::is_available().then_some(&crate::aarch64::dotprod::TABLE)
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::I8mm => crate::aarch64::i8mm::is_available().then_some(&crate::aarch64::i8mm::TABLE),
        _ => None,
    }
}

/// Asks for the cache line of byte `at` of `bytes`, where there is one and the architecture has a stable hint for it
/// (x86-64). For probes of the memory; kernels ask for their own.
#[inline]
pub fn prefetch(bytes: &[u8], at: usize) {
    if at < bytes.len() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has SSE. What is asked for lies in `bytes`.
        unsafe {
            crate::x86_64::prefetch(&bytes[at..]);
        }
    }
}

impl Kernels {
    /// The tables that this CPU can run, plainest first. `scalar` is always there.
    pub fn available() -> impl DoubleEndedIterator<Item = &'static Self> {
        Level::ALL.into_iter().filter_map(table)
    }

    /// The fastest table of this CPU.
    pub fn best() -> &'static Self {
        Self::available().next_back().unwrap_or(&plain::SCALAR)
    }

    /// The table of `level`.
    pub fn of(level: Level) -> Result<&'static Self, LevelError> {
        table(level).ok_or(LevelError::Unavailable { level })
    }

    /// The table of the level with this name: `scalar`, `avx2`, ...
    pub fn by_name(name: &str) -> Result<&'static Self, LevelError> {
        let level = Level::from_name(name).ok_or_else(|| LevelError::Unknown {
            name: name.to_owned(),
        })?;
        Self::of(level)
    }

    /// The table that the environment variable `CHASKI_SIMD` names, or [`best`](Self::best) where it
    /// is unset or empty. The variable is read once.
    pub fn from_env() -> Result<&'static Self, LevelError> {
        static CHOICE: OnceLock<Result<&'static Kernels, LevelError>> = OnceLock::new();
        CHOICE
            .get_or_init(|| Self::choose(env::var_os("CHASKI_SIMD").as_deref()))
            .clone()
    }

    /// What [`from_env`](Self::from_env) does with the variable's value.
    pub(crate) fn choose(value: Option<&OsStr>) -> Result<&'static Self, LevelError> {
        match value {
            Some(name) if !name.is_empty() => Self::by_name(&name.to_string_lossy()),
            _ => Ok(Self::best()),
        }
    }

    /// The level.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// The level's name.
    pub const fn name(&self) -> &'static str {
        self.level.name()
    }

    /// Quantises a row of activations; see
    /// [`scalar::quantize_row`](chaski_quant::scalar::quantize_row).
    ///
    /// # Panics
    ///
    /// If the parts of `row` do not fit together.
    pub fn quantize_row(&self, mut row: ActRowMut<'_>) {
        let n = row.scales.len();
        assert_eq!(row.floats.len(), n * BLOCK, "floats of {n} blocks");
        assert_eq!(row.codes.len(), n * BLOCK, "codes of {n} blocks");
        assert_eq!(row.sums.len(), n, "sums of {n} blocks");
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.quantize_row)(&mut row) }
    }

    /// Every tile of `w` times every row of `x`; see
    /// [`scalar::matmul`](chaski_quant::scalar::matmul).
    ///
    /// * `out`: `[w.n_tiles(), x.n_rows(), 16]`.
    ///
    /// # Panics
    ///
    /// If `out` has another length or the block counts differ.
    pub fn matmul(&self, w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
        assert_eq!(
            w.n_blocks(),
            x.n_blocks(),
            "blocks of weights and activations"
        );
        assert_eq!(out.len(), w.n_tiles() * x.n_rows() * TILE_ROWS, "outputs");
        if out.is_empty() {
            return;
        }
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.matmul[usize::from(w.qtype().id())])(w, x, out) }
    }

    /// RMSNorm; see [`scalar::rms_norm`](chaski_quant::scalar::rms_norm).
    ///
    /// * `x`, `weight`, `out`: `[n]`.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(
            x.len() == weight.len() && x.len() == out.len(),
            "lengths differ"
        );
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// Rotates one head in place; see [`scalar::rope`](chaski_quant::scalar::rope).
    ///
    /// * `x`: `[head_dim]`; `cos`, `sin`: `[h]` with `2 h <= head_dim`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(
            cos.len() == sin.len() && cos.len() <= x.len() / 2,
            "lengths differ"
        );
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.rope)(x, cos, sin) }
    }

    /// `out = silu(gate) * up`; see [`scalar::swiglu`](chaski_quant::scalar::swiglu).
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn swiglu(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(
            gate.len() == up.len() && gate.len() == out.len(),
            "lengths differ"
        );
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.swiglu)(gate, up, out) }
    }

    /// `x += y`.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "lengths differ");
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.add)(x, y) }
    }

    /// Stores the key of position `pos` (0..64) in a tile's key part; `key`: `[head_dim]`. See
    /// [`scalar::attention::store_key`](chaski_quant::scalar::attention::store_key).
    ///
    /// # Panics
    ///
    /// If `pos` or the length of `part` does not fit.
    pub fn store_key(&self, kv_type: KvType, part: &mut [u8], pos: usize, key: &[f32]) {
        check_store(kv_type, part, pos, key);
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.store_key)(kv_type, part, pos, key) }
    }

    /// Stores the value of position `pos` (0..64) in a tile's value part; `value`: `[head_dim]`. See
    /// [`scalar::attention::store_value`](chaski_quant::scalar::attention::store_value).
    ///
    /// # Panics
    ///
    /// If `pos` or the length of `part` does not fit.
    pub fn store_value(&self, kv_type: KvType, part: &mut [u8], pos: usize, value: &[f32]) {
        check_store(kv_type, part, pos, value);
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.store_value)(kv_type, part, pos, value) }
    }

    /// Attends `n` queries to their positions of one tile and merges each result into the query's
    /// state; see [`scalar::attention::attend_tile`](chaski_quant::scalar::attention::attend_tile).
    ///
    /// * `q`: `[n, head_dim]`.
    /// * `ranges`: `[n]`, positions `lo..hi` within 0..64; where `lo >= hi` the state stays.
    /// * `states`: `[n, head_dim + 2]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit or a range leaves the tile.
    pub fn attend_tile(
        &self,
        kv: &KvTile<'_>,
        q: &[f32],
        ranges: &[[u8; 2]],
        scale: f32,
        states: &mut [f32],
    ) {
        let (n, part_bytes) = (ranges.len(), kv.kv_type.part_bytes(kv.head_dim));
        assert!(kv.head_dim > 0, "a head without elements");
        assert_eq!(kv.keys.len(), part_bytes, "bytes of keys");
        assert_eq!(kv.values.len(), part_bytes, "bytes of values");
        assert_eq!(q.len(), n * kv.head_dim, "{n} queries");
        assert_eq!(states.len(), n * (kv.head_dim + 2), "{n} states");
        assert!(
            ranges.iter().all(|r| usize::from(r[1]) <= KV_TILE),
            "a range leaves the tile"
        );
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.attend_tile)(kv, q, ranges, scale, states) }
    }

    /// Merges the attention state `from`, of later positions, into `into`, of earlier ones; see
    /// [`scalar::attention::merge`](chaski_quant::scalar::attention::merge).
    ///
    /// # Panics
    ///
    /// If the lengths differ or are less than 2.
    pub fn merge(&self, into: &mut [f32], from: &[f32]) {
        assert!(
            into.len() == from.len() && from.len() >= 2,
            "lengths of states"
        );
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.merge)(into, from) }
    }

    /// The attention output of a state, `[head_dim]`; see
    /// [`scalar::attention::finish`](chaski_quant::scalar::attention::finish).
    ///
    /// # Panics
    ///
    /// If `out` has the wrong length, or the state is empty: every query attends at least to its own
    /// position.
    pub fn finish(&self, state: &[f32], out: &mut [f32]) {
        assert_eq!(state.len(), out.len() + 2, "length of the state");
        assert!(state[out.len() + 1] != 0.0, "empty attention state");
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.finish)(state, out) }
    }

    /// The weights of row `row` (0..16) of a tile as numbers; see
    /// [`scalar::dequantize_row`](chaski_quant::scalar::dequantize_row).
    ///
    /// * `tile`: `[layout.tile_bytes()]`; `out`: `[layout.cols()]`.
    ///
    /// # Panics
    ///
    /// If a length or `row` does not fit.
    pub fn dequantize_row(&self, layout: &TensorLayout, tile: &[u8], row: usize, out: &mut [f32]) {
        assert!(row < TILE_ROWS, "row {row} of a tile");
        assert_eq!(tile.len(), layout.tile_bytes(), "bytes of a tile");
        assert_eq!(out.len(), layout.cols(), "columns");
        // SAFETY: `table` handed out `self` after it had found the level's instructions on this CPU.
        unsafe { (self.dequantize_row)(layout, tile, row, out) }
    }
}

fn check_store(kv_type: KvType, part: &[u8], pos: usize, x: &[f32]) {
    assert!(pos < KV_TILE, "position {pos} of a KV tile");
    assert_eq!(
        part.len(),
        kv_type.part_bytes(x.len()),
        "bytes of a KV part"
    );
}

// The ids of the types index `matmul`.
const _: () = {
    let mut i = 0;
    while i < QuantType::ALL.len() {
        assert!(QuantType::ALL[i].id() as usize == i);
        i += 1;
    }
};
