//! The oracle of a whole model: every phase by [`chaski_quant::scalar`], one row after the other.
//!
//! Short rather than fast. A backend for the CPU gives the same logits bit for bit; a backend of
//! another kind is measured against these. It panics where a product would return an error: it is
//! made for tests, with models that a test has made.

use std::collections::HashMap;

use chaski_quant::scalar::{self, attention};
use chaski_quant::{ActRows, Acts, BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun};

use crate::forward::kv::{KvGeometry, span_parts, spans};
use crate::forward::{RowLimits, check_rows, walk};
use crate::rope::RopeTable;
use crate::testing::pack_floats;
use crate::{Backend, BackendError, Config, Phases, Role, Row, TensorSpec, TokenId, tensor_table};

pub use chaski_quant::scalar::attention::KvType;

/// The weights of one tensor.
#[derive(Clone, Debug)]
pub enum TensorData {
    /// `[rows, cols]` floats: a vector, or a matrix that is used as F32.
    Floats(Vec<f32>),
    /// A matrix in tiles, of the type and in the layout of [`TensorSpec::layout`].
    Tiles(QuantType, Vec<u8>),
}

#[derive(Debug)]
enum Tensor {
    Vector(Vec<f32>),
    Matrix(TensorLayout, Vec<u8>),
}

/// Sequences of a [`Reference`].
pub const N_SEQS: usize = 8;

/// A model in memory that computes by definition.
#[derive(Debug)]
pub struct Reference {
    config: Config,
    geometry: KvGeometry,
    rope: RopeTable,
    tensors: HashMap<(Role, Option<usize>), Tensor>,
    /// Pages of each sequence.
    pages: Vec<Vec<Vec<u8>>>,
    /// Positions that each sequence has stored.
    stored: Vec<usize>,
    rows: Vec<Row>,
    /// Hidden state of each row, `[dim]`.
    x: Vec<Vec<f32>>,
    /// Rotated queries of each row, `[n_heads * head_dim]`.
    q: Vec<Vec<f32>>,
    /// Attention results of each row, `[n_heads * head_dim]`.
    o: Vec<Vec<f32>>,
    /// Feed-forward activations of each row, `[ffn_dim]`.
    h: Vec<Vec<f32>>,
    /// Logits of the rows that want them.
    logits: Vec<Vec<f32>>,
    rounded: bool,
}

impl Reference {
    /// A model whose weights `tensors` gives, asked once for each tensor of [`tensor_table`].
    ///
    /// # Panics
    ///
    /// If the config is not valid or a tensor has another length than its spec.
    pub fn new(
        config: &Config,
        kv_type: KvType,
        mut tensors: impl FnMut(&TensorSpec) -> TensorData,
    ) -> Self {
        if let Err(error) = config.validate() {
            panic!("{error}");
        }
        let load = |spec: TensorSpec| ((spec.role, spec.layer), tensor(&spec, tensors(&spec)));
        Self {
            geometry: KvGeometry::new(config, kv_type),
            rope: RopeTable::new(config),
            tensors: tensor_table(config).into_iter().map(load).collect(),
            pages: vec![Vec::new(); N_SEQS],
            stored: vec![0; N_SEQS],
            rows: Vec::new(),
            x: Vec::new(),
            q: Vec::new(),
            o: Vec::new(),
            h: Vec::new(),
            logits: Vec::new(),
            rounded: false,
            config: config.clone(),
        }
    }

    /// The same model, whose float matrices multiply activations that were quantised and are read
    /// back: `f32(code) * d`.
    pub fn round_activations(self) -> Self {
        Self {
            rounded: true,
            ..self
        }
    }

    /// The config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The logits `[tokens.len(), vocab_size]` of sequence 0, begun anew with `tokens` in one call.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`].
    pub fn logits(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, BackendError> {
        let row = |(pos, &token)| Row {
            seq: 0,
            pos,
            token,
            logits: true,
        };
        let rows: Vec<_> = tokens.iter().enumerate().map(row).collect();
        let mut logits = vec![0.0; rows.len() * self.config.vocab_size];
        self.forward(&rows, &mut logits)?;
        Ok(logits)
    }

    fn vector(&self, role: Role, layer: Option<usize>) -> &[f32] {
        match &self.tensors[&(role, layer)] {
            Tensor::Vector(v) => v,
            Tensor::Matrix(..) => panic!("{role} is a matrix"),
        }
    }

    fn matrix(&self, role: Role, layer: Option<usize>) -> (&TensorLayout, &[u8]) {
        match &self.tensors[&(role, layer)] {
            Tensor::Matrix(layout, bytes) => (layout, bytes),
            Tensor::Vector(_) => panic!("{role} is a vector"),
        }
    }

    /// A matrix times each row: `[n_rows][matrix rows]`.
    fn mul(&self, role: Role, layer: Option<usize>, rows: &ActRows<'_>) -> Vec<Vec<f32>> {
        let (layout, bytes) = self.matrix(role, layer);
        let run = TileRun::new(layout, bytes, layout.n_tiles(), layout.tile_bytes());
        let mut tiles = vec![f32::NAN; layout.n_tiles() * rows.n_rows() * TILE_ROWS];
        scalar::matmul(&run, rows, &mut tiles);
        let one = |t: usize| {
            let of = |row| {
                let (tile, lane) = layout.tile_and_lane(row);
                tiles[(tile * rows.n_rows() + t) * TILE_ROWS + lane]
            };
            (0..layout.rows()).map(of).collect()
        };
        (0..rows.n_rows()).map(one).collect()
    }

    /// RMSNorm of each row, as activations.
    fn normed(&self, x: &[Vec<f32>], role: Role, layer: Option<usize>) -> Acts {
        let weight = self.vector(role, layer);
        let norm = |x: &Vec<f32>| {
            let mut out = vec![0.0; x.len()];
            scalar::rms_norm(x, weight, self.config.norm_eps, &mut out);
            out
        };
        self.acts(&x.iter().map(norm).collect::<Vec<_>>())
    }

    /// Rows of equal length as activations, padded with zeros to whole blocks, quantised.
    fn acts(&self, rows: &[Vec<f32>]) -> Acts {
        let cols = rows.first().map_or(0, Vec::len);
        let mut acts = Acts::new(rows.len(), cols.div_ceil(BLOCK));
        for (i, row) in rows.iter().enumerate() {
            acts.floats_mut(i)[..cols].copy_from_slice(row);
            let mut row = acts.row_mut(i);
            scalar::quantize_row(&mut row);
            if self.rounded {
                let read = |k: usize| f32::from(row.codes[k]) * row.scales[k / BLOCK];
                let floats: Vec<f32> = (0..row.codes.len()).map(read).collect();
                acts.floats_mut(i).copy_from_slice(&floats);
            }
        }
        acts
    }

    /// Bias, QK-norm and RoPE of one row's queries or keys, head by head, in place.
    fn finish_heads(&self, x: &mut [f32], norm: Role, layer: usize, pos: usize) {
        let d = self.config.head_dim;
        let (mut cos, mut sin) = (vec![0.0; d / 2], vec![0.0; d / 2]);
        self.rope.fill(pos, &mut cos, &mut sin);
        for head in x.chunks_exact_mut(d) {
            if self.config.qk_norm {
                let weight = self.vector(norm, Some(layer));
                let x = head.to_vec();
                scalar::rms_norm(&x, weight, self.config.norm_eps, head);
            }
            scalar::rope(head, &cos, &sin);
        }
    }

    fn store(&mut self, row: Row, layer: usize, k: &[f32], v: &[f32]) {
        let (g, d) = (self.geometry, self.config.head_dim);
        let pages = &mut self.pages[row.seq];
        let (page, at) = (row.pos / attention::KV_TILE, row.pos % attention::KV_TILE);
        if page == pages.len() {
            // Not numbers, so that a position that was never stored cannot go unnoticed.
            pages.push(vec![0xff; g.page_bytes()]);
        }
        for (head, (k, v)) in k.chunks_exact(d).zip(v.chunks_exact(d)).enumerate() {
            let page = &mut pages[page];
            attention::store_key(g.kv_type, &mut page[g.key_range(layer, head)], at, k);
            attention::store_value(g.kv_type, &mut page[g.value_range(layer, head)], at, v);
        }
    }

    /// One query head: tiles merge within spans, spans merge left to right.
    fn attend(&self, row: Row, layer: usize, head: usize, q: &[f32], out: &mut [f32]) {
        let positions = self.config.attended(layer, row.pos);
        let kv_head = head / self.config.gqa_group();
        let mut total = vec![0.0; q.len() + 2];
        attention::clear(&mut total);
        for span in spans(&positions) {
            let mut state = vec![0.0; q.len() + 2];
            attention::clear(&mut state);
            for part in span_parts(positions.clone(), span) {
                let tile = self
                    .geometry
                    .tile(&self.pages[row.seq][part.tile], layer, kv_head);
                let scale = self.config.attn_scale();
                attention::attend_tile(&tile, q, part.lo, part.hi, scale, &mut state);
            }
            attention::merge(&mut total, &state);
        }
        attention::finish(&total, out);
    }
}

fn tensor(spec: &TensorSpec, data: TensorData) -> Tensor {
    match data {
        TensorData::Floats(floats) => {
            assert_eq!(floats.len(), spec.n_weights(), "weights of {}", spec.name);
            if spec.vector {
                return Tensor::Vector(floats);
            }
            let layout = layout(spec, QuantType::F32);
            let bytes = pack_floats(&layout, &floats);
            Tensor::Matrix(layout, bytes)
        }
        TensorData::Tiles(qtype, bytes) => {
            let layout = layout(spec, qtype);
            assert!(
                !spec.vector && bytes.len() == layout.bytes(),
                "tiles of {}",
                spec.name
            );
            Tensor::Matrix(layout, bytes)
        }
    }
}

fn layout(spec: &TensorSpec, qtype: QuantType) -> TensorLayout {
    match spec.layout(qtype) {
        Ok(layout) => layout,
        Err(error) => panic!("{}: {error}", spec.name),
    }
}

impl Phases for Reference {
    type Error = BackendError;

    fn embed(&mut self) -> Result<(), BackendError> {
        let (layout, bytes) = self.matrix(Role::TokenEmbd, None);
        let row = |row: &Row| {
            let mut x = vec![0.0; self.config.dim];
            let (tile, lane) = layout.tile_and_lane(row.token.index());
            let tile = &bytes[tile * layout.tile_bytes()..][..layout.tile_bytes()];
            scalar::dequantize_row(layout, tile, lane, &mut x);
            x
        };
        self.x = self.rows.iter().map(row).collect();
        Ok(())
    }

    fn qkv(&mut self, layer: usize) -> Result<(), BackendError> {
        let l = Some(layer);
        let acts = self.normed(&self.x, Role::AttnNorm, l);
        let a = acts.rows(self.rows.len());
        let roles = [
            (Role::AttnQ, Role::AttnQBias),
            (Role::AttnK, Role::AttnKBias),
            (Role::AttnV, Role::AttnVBias),
        ];
        let [mut q, mut k, v] = roles.map(|(weight, bias)| {
            let mut rows = self.mul(weight, l, &a);
            if self.config.qkv_bias {
                rows.iter_mut()
                    .for_each(|row| scalar::add(row, self.vector(bias, l)));
            }
            rows
        });
        for (i, row) in self.rows.clone().into_iter().enumerate() {
            self.finish_heads(&mut q[i], Role::AttnQNorm, layer, row.pos);
            self.finish_heads(&mut k[i], Role::AttnKNorm, layer, row.pos);
            self.store(row, layer, &k[i], &v[i]);
        }
        self.q = q;
        Ok(())
    }

    fn attention(&mut self, layer: usize) -> Result<(), BackendError> {
        let d = self.config.head_dim;
        let row = |(row, q): (&Row, &Vec<f32>)| {
            let mut o = vec![f32::NAN; q.len()];
            for (head, (q, o)) in q.chunks_exact(d).zip(o.chunks_exact_mut(d)).enumerate() {
                self.attend(*row, layer, head, q, o);
            }
            o
        };
        self.o = self.rows.iter().zip(&self.q).map(row).collect();
        Ok(())
    }

    fn attn_output(&mut self, layer: usize) -> Result<(), BackendError> {
        let y = self.mul(
            Role::AttnOut,
            Some(layer),
            &self.acts(&self.o).rows(self.rows.len()),
        );
        self.x
            .iter_mut()
            .zip(&y)
            .for_each(|(x, y)| scalar::add(x, y));
        Ok(())
    }

    fn gate_up(&mut self, layer: usize) -> Result<(), BackendError> {
        let acts = self.normed(&self.x, Role::FfnNorm, Some(layer));
        let a = acts.rows(self.rows.len());
        let gate = self.mul(Role::FfnGate, Some(layer), &a);
        let up = self.mul(Role::FfnUp, Some(layer), &a);
        let row = |(gate, up): (&Vec<f32>, &Vec<f32>)| {
            let mut h = vec![f32::NAN; gate.len()];
            scalar::swiglu(gate, up, &mut h);
            h
        };
        self.h = gate.iter().zip(&up).map(row).collect();
        Ok(())
    }

    fn down(&mut self, layer: usize) -> Result<(), BackendError> {
        let y = self.mul(
            Role::FfnDown,
            Some(layer),
            &self.acts(&self.h).rows(self.rows.len()),
        );
        self.x
            .iter_mut()
            .zip(&y)
            .for_each(|(x, y)| scalar::add(x, y));
        Ok(())
    }

    fn head(&mut self) -> Result<(), BackendError> {
        let wanted = self.rows.iter().zip(&self.x).filter(|(row, _)| row.logits);
        let x: Vec<_> = wanted.map(|(_, x)| x.clone()).collect();
        if x.is_empty() {
            self.logits.clear();
            return Ok(());
        }
        let tied = self.config.tied_embeddings;
        let role = if tied { Role::TokenEmbd } else { Role::Output };
        let acts = self.normed(&x, Role::OutputNorm, None);
        self.logits = self.mul(role, None, &acts.rows(x.len()));
        Ok(())
    }
}

impl Backend for Reference {
    fn forward(&mut self, rows: &[Row], logits: &mut [f32]) -> Result<(), BackendError> {
        let limits = RowLimits {
            max_rows: usize::MAX,
            n_seqs: N_SEQS,
            context_len: self.config.max_seq_len,
            vocab_size: self.config.vocab_size,
        };
        check_rows(rows, logits.len(), &limits, |seq| self.stored[seq])?;
        self.rows = rows.to_vec();
        walk(self.config.n_layers, self)?;
        let wanted = rows.iter().enumerate().filter(|(_, row)| row.logits);
        let out = logits.chunks_exact_mut(self.config.vocab_size);
        for (((row, _), got), out) in wanted.zip(&self.logits).zip(out) {
            if let Some(id) = got.iter().position(|v| !v.is_finite()) {
                return Err(BackendError::NotFinite {
                    row,
                    token: TokenId(id as u32),
                });
            }
            out.copy_from_slice(got);
        }
        for row in rows {
            self.stored[row.seq] = row.pos + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
