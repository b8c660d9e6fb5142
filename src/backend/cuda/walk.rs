//! The phases of a pass as launches.

use chaski_models::{Config, Phases, forward::kv::KvGeometry};
use chaski_quant::BLOCK;

use super::{
    args::{
        AttendArgs, AttendMergeArgs, AttendRowsArgs, Codes, Kernel, MatrixArgs, NormQuantizeArgs,
        PARTS, PoolArgs, QuantizeArgs, RopeStoreArgs, SwigluArgs, kv_type_id, matrix_launch,
    },
    buffers::Buffers,
    device::{Buffer, Device, DeviceError, Launch},
    input::{Counts, Offsets},
    weights::{HeadAt, LayerAt, MatrixAt},
};

/// What is on the device, and what a pass is over.
pub(super) struct Walk<'a> {
    pub(super) device: &'a dyn Device,
    pub(super) config: &'a Config,
    /// The model's layer that is the device's first.
    pub(super) first_layer: usize,
    pub(super) layers: &'a [LayerAt],
    pub(super) head: Option<&'a HeadAt>,
    /// Of the device's layers.
    pub(super) geometry: KvGeometry,
    pub(super) kv: &'a Buffer,
    pub(super) buffers: &'a Buffers,
    pub(super) counts: Counts,
    pub(super) offsets: Offsets,
    /// Rows whose logits there is room for.
    pub(super) head_rows: usize,
    /// Whether float matrices multiply what 8-bit activations stand for.
    pub(super) rounded: bool,
}

/// Where the products of a matrix go.
#[derive(Clone, Copy, Debug)]
struct Product {
    matrix: MatrixAt,
    /// f32 `[rows, stride]`.
    out: u64,
    stride: usize,
    /// Whether they are added to what is there.
    add: bool,
}

impl Walk<'_> {
    fn input(&self, offset: usize) -> u64 {
        self.buffers.input.address() + offset as u64
    }

    /// The hidden states, `[rows, dim]`.
    fn x(&self) -> u64 {
        self.input(self.offsets.x)
    }

    fn rows(&self) -> u32 {
        self.counts.rows as u32
    }

    /// The buffers that activations of `n` elements a row go to, as the matrices need them.
    fn codes(&self, n: usize, matrices: &[&MatrixAt]) -> Codes {
        let b = self.buffers;
        let quantized = matrices.iter().any(|m| m.qtype.is_quantized());
        let floats = matrices.iter().any(|m| !m.qtype.is_quantized());
        let codes = Codes {
            n_blocks: n.div_ceil(BLOCK) as u32,
            round: u32::from(self.rounded),
            floats: if floats { b.floats.address() } else { 0 },
            ..Codes::default()
        };
        if !quantized && !self.rounded {
            return codes;
        }
        Codes {
            codes: b.codes.address(),
            scales: b.scales.address(),
            sums: b.sums.address(),
            ..codes
        }
    }

    fn norm(
        &self,
        weight: u64,
        row_index: u64,
        rows: u32,
        matrices: &[&MatrixAt],
    ) -> Result<(), DeviceError> {
        let dim = self.config.dim;
        let args = NormQuantizeArgs {
            x: self.x(),
            weight,
            row_index,
            out: self.codes(dim, matrices),
            x_stride: dim as u32,
            dim: dim as u32,
            eps: self.config.norm_eps,
            pad: 0,
        };
        let shape = args.shape(rows);
        self.device
            .launch(&Launch::new(Kernel::NormQuantize, shape, &args))
    }

    /// Multiplies matrices with the activations, those of one type in one launch.
    fn multiply(&self, rows: u32, products: &[Product]) -> Result<(), DeviceError> {
        let b = self.buffers;
        let qtype = |p: &Product| p.matrix.qtype;
        for (i, first) in products.iter().enumerate() {
            if products[..i].iter().any(|p| qtype(p) == qtype(first)) {
                continue;
            }
            let mut args = MatrixArgs {
                codes: b.codes.address(),
                scales: b.scales.address(),
                sums: b.sums.address(),
                x: b.floats.address(),
                n_blocks: first.matrix.n_blocks,
                rows,
                ..MatrixArgs::default()
            };
            let alike = products[i..].iter().filter(|p| qtype(p) == qtype(first));
            for (to, product) in args.parts.iter_mut().zip(alike) {
                *to = product.matrix.part;
                to.out = product.out;
                to.out_stride = product.stride as u32;
                to.residual = if product.add { product.out } else { 0 };
            }
            let (kernel, shape) = matrix_launch(qtype(first), &mut args, self.device.info());
            self.device.launch(&Launch::new(kernel, shape, &args))?;
        }
        Ok(())
    }

    fn layer(&self, layer: usize) -> &LayerAt {
        &self.layers[layer]
    }

    /// Where the keys and values of a layer are.
    fn pool(&self, layer: usize) -> PoolArgs {
        let g = &self.geometry;
        PoolArgs {
            kv: self.kv.address(),
            page_table: self.input(self.offsets.page_table),
            query_rows: self.input(self.offsets.query_rows),
            page_bytes: g.page_bytes() as u64,
            layer_offset: g.key_range(layer, 0).start as u64,
            part_bytes: g.part_bytes() as u32,
            n_kv_heads: g.n_kv_heads as u32,
        }
    }

    fn window(&self, layer: usize) -> u32 {
        let window = self.config.window(self.first_layer + layer);
        // A window wider than any context is none.
        window.and_then(|w| u32::try_from(w).ok()).unwrap_or(0)
    }

    /// Attention of few rows: spans of each, then their merging.
    fn attend_slots(&self, layer: usize) -> Result<(), DeviceError> {
        let (c, b, g) = (self.config, self.buffers, &self.geometry);
        let mut args = AttendArgs {
            q: b.q.address(),
            states: b.states.address(),
            pool: self.pool(layer),
            slots: self.input(self.offsets.slots),
            n_slots: self.input(self.offsets.n_slots),
            window: self.window(layer),
            n_heads: c.n_heads as u32,
            head_dim: c.head_dim as u32,
            q_stride: c.q_dim() as u32,
            scale: c.attn_scale(),
            heads: 0,
        };
        let multiprocessors = self.device.info().multiprocessors;
        let shape = args.shape(self.counts.slots as u32, multiprocessors);
        self.device
            .launch(&Launch::new(Kernel::Attend(g.kv_type), shape, &args))?;
        let args = AttendMergeArgs {
            states: b.states.address(),
            row_slots: self.input(self.offsets.row_slots),
            out: b.attn.address(),
            n_heads: c.n_heads as u32,
            head_dim: c.head_dim as u32,
            out_stride: c.q_dim() as u32,
            pad: 0,
        };
        let shape = args.shape(self.rows());
        self.device
            .launch(&Launch::new(Kernel::AttendMerge, shape, &args))
    }

    /// Attention of many rows.
    fn attend_rows(&self, layer: usize) -> Result<(), DeviceError> {
        let (c, b, g) = (self.config, self.buffers, &self.geometry);
        let args = AttendRowsArgs {
            q: b.q.address(),
            out: b.attn.address(),
            pool: self.pool(layer),
            row_blocks: self.input(self.offsets.row_blocks),
            window: self.window(layer),
            n_heads: c.n_heads as u32,
            head_dim: c.head_dim as u32,
            q_stride: c.q_dim() as u32,
            out_stride: c.q_dim() as u32,
            scale: c.attn_scale(),
        };
        let shape = args.shape(self.counts.blocks as u32);
        self.device
            .launch(&Launch::new(Kernel::AttendRows(g.kv_type), shape, &args))
    }

    /// The logits of rows `first .. first + n` of those that want them, into the logits' buffer.
    pub(super) fn logits(&self, first: usize, n: usize) -> Result<(), DeviceError> {
        let Some(head) = self.head.filter(|_| n > 0) else {
            return Ok(());
        };
        let row_index = self.input(self.offsets.head_rows + size_of::<u32>() * first);
        self.norm(head.norm, row_index, n as u32, &[&head.output])?;
        let product = Product {
            matrix: head.output,
            out: self.buffers.logits.address(),
            stride: self.config.vocab_size,
            add: false,
        };
        self.multiply(n as u32, &[product])
    }
}

impl Phases for Walk<'_> {
    type Error = DeviceError;

    /// Done on the CPU: the hidden states came with the pass.
    fn embed(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn qkv(&mut self, layer: usize) -> Result<(), DeviceError> {
        let (c, b, g) = (self.config, self.buffers, &self.geometry);
        let at = self.layer(layer);
        let (q, k, v) = (&at.q.matrix, &at.k.matrix, &at.v.matrix);
        self.norm(at.attn_norm, 0, self.rows(), &[q, k, v])?;
        let product = |matrix: &MatrixAt, out: &Buffer, stride| Product {
            matrix: *matrix,
            out: out.address(),
            stride,
            add: false,
        };
        const { assert!(PARTS >= 3, "Q, K and V of one type are one launch") };
        self.multiply(
            self.rows(),
            &[
                product(q, &b.q, c.q_dim()),
                product(k, &b.k, c.kv_dim()),
                product(v, &b.v, c.kv_dim()),
            ],
        )?;
        let args = RopeStoreArgs {
            q: b.q.address(),
            k: b.k.address(),
            v: b.v.address(),
            q_norm: at.q.norm,
            k_norm: at.k.norm,
            rope: self.input(self.offsets.rope),
            pool: self.pool(layer),
            kv_type: kv_type_id(g.kv_type),
            rows: self.rows(),
            n_heads: c.n_heads as u32,
            head_dim: c.head_dim as u32,
            q_stride: c.q_dim() as u32,
            kv_stride: c.kv_dim() as u32,
            eps: c.norm_eps,
            pad: 0,
        };
        self.device
            .launch(&Launch::new(Kernel::RopeStore, args.shape(), &args))
    }

    fn attention(&mut self, layer: usize) -> Result<(), DeviceError> {
        if self.counts.blocks == 0 {
            self.attend_slots(layer)
        } else {
            self.attend_rows(layer)
        }
    }

    fn attn_output(&mut self, layer: usize) -> Result<(), DeviceError> {
        let (matrix, q_dim) = (&self.layer(layer).attn_output, self.config.q_dim());
        let args = QuantizeArgs {
            x: self.buffers.attn.address(),
            out: self.codes(q_dim, &[matrix]),
            x_stride: q_dim as u32,
            n: q_dim as u32,
        };
        let shape = args.shape(self.rows());
        self.device
            .launch(&Launch::new(Kernel::Quantize, shape, &args))?;
        self.multiply(self.rows(), &[self.onto_x(matrix)])
    }

    fn gate_up(&mut self, layer: usize) -> Result<(), DeviceError> {
        let at = self.layer(layer);
        self.norm(at.ffn_norm, 0, self.rows(), &[&at.gate, &at.up])?;
        let [gate, up] = self.gate_and_up();
        let product = |matrix: &MatrixAt, out| Product {
            matrix: *matrix,
            out,
            stride: self.config.ffn_dim,
            add: false,
        };
        self.multiply(self.rows(), &[product(&at.gate, gate), product(&at.up, up)])
    }

    fn down(&mut self, layer: usize) -> Result<(), DeviceError> {
        let (matrix, ffn_dim) = (&self.layer(layer).down, self.config.ffn_dim);
        let [gate, up] = self.gate_and_up();
        let args = SwigluArgs {
            gate,
            up,
            out: self.codes(ffn_dim, &[matrix]),
            stride: ffn_dim as u32,
            n: ffn_dim as u32,
        };
        let shape = args.shape(self.rows());
        self.device
            .launch(&Launch::new(Kernel::Swiglu, shape, &args))?;
        self.multiply(self.rows(), &[self.onto_x(matrix)])
    }

    /// The logits, if there is room for all; else they are made when they are fetched.
    fn head(&mut self) -> Result<(), DeviceError> {
        match self.counts.head {
            n if n <= self.head_rows => self.logits(0, n),
            _ => Ok(()),
        }
    }
}

impl Walk<'_> {
    /// A product that is added to the hidden states.
    fn onto_x(&self, matrix: &MatrixAt) -> Product {
        Product {
            matrix: *matrix,
            out: self.x(),
            stride: self.config.dim,
            add: true,
        }
    }

    /// f32 `[rows, ffn_dim]` each.
    fn gate_and_up(&self) -> [u64; 2] {
        let gate = self.buffers.ffn.address();
        let bytes = 4 * self.counts.rows * self.config.ffn_dim;
        [gate, gate + bytes.next_multiple_of(256) as u64]
    }
}
