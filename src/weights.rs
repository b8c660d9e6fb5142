//! A file's tensors, bound to their places in the model.
//!
//! Matrices stay in the map; vectors (norms, biases) are copied, they are a few kilobytes a layer.

mod hybrid;

use std::{error::Error, fmt};

use chaski_kernels_simd::Kernels;
use chaski_models::{Config, Role, TokenId, rope, tensors::tensor_spec};
use chaski_quant::{
    TensorLayout, TileRun,
    container::{Container, ContainerError, TensorKind},
};

pub use hybrid::HybridError;
#[cfg(test)]
pub(crate) use hybrid::keeps_together;

/// Why a file's tensors are not those of its model.
#[derive(Debug)]
#[non_exhaustive]
pub enum WeightsError {
    /// A tensor is missing.
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    Shape {
        /// Its name.
        name: String,
        /// What the configuration says.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// The file holds a tensor that the model has no use for.
    Unknown {
        /// Its name.
        name: String,
    },
    /// A vector holds a value that is not finite.
    NotFinite {
        /// Its name.
        name: String,
        /// The index of the value.
        index: usize,
    },
    /// Gate and up do not alternate tile by tile.
    NotInterleaved {
        /// Name of the gate matrix.
        name: String,
    },
    /// The container refused.
    Container(ContainerError),
}

impl fmt::Display for WeightsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => {
                write!(f, "tensor `{name}` is missing: convert the model again")
            }
            Self::Shape {
                name,
                expected,
                got,
            } => {
                write!(
                    f,
                    "tensor `{name}`: expected {expected}, the file holds {got}"
                )
            }
            Self::Unknown { name } => write!(
                f,
                "tensor `{name}` has no place in a model of this configuration: convert the model again"
            ),
            Self::NotFinite { name, index } => {
                write!(
                    f,
                    "tensor `{name}` holds a number that is not finite at {index}"
                )
            }
            Self::NotInterleaved { name } => {
                write!(
                    f,
                    "tensor `{name}` does not alternate with its pair: convert the model again"
                )
            }
            Self::Container(_) => f.write_str("the file's tensors could not be read"),
        }
    }
}

impl Error for WeightsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Container(e) => Some(e),
            _ => None,
        }
    }
}

/// A matrix of the file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    index: usize,
    layout: TensorLayout,
    /// Whether it is the lender's.
    lent: bool,
}

impl Matrix {
    /// Shape and type.
    pub const fn layout(&self) -> &TensorLayout {
        &self.layout
    }

    /// Whether its activations are quantised.
    pub const fn is_quantized(&self) -> bool {
        self.layout.qtype().is_quantized()
    }
}

/// Q, K or V of a layer.
#[derive(Debug)]
pub struct Projection {
    /// The matrix, `[heads * head_dim, dim]`.
    pub matrix: Matrix,
    /// Added to its result, `[heads * head_dim]`.
    pub bias: Option<Vec<f32>>,
    /// RMSNorm of each head, `[head_dim]`.
    pub norm: Option<Vec<f32>>,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Before attention, `[dim]`.
    pub attn_norm: Vec<f32>,
    /// Queries.
    pub q: Projection,
    /// Keys.
    pub k: Projection,
    /// Values.
    pub v: Projection,
    /// `[dim, n_heads * head_dim]`.
    pub attn_output: Matrix,
    /// Before the feed-forward network, `[dim]`.
    pub ffn_norm: Vec<f32>,
    /// The gate matrix, `[ffn_dim, dim]`; up alternates with it tile by tile.
    pub gate_up: Matrix,
    /// `[dim, ffn_dim]`.
    pub down: Matrix,
}

impl Layer {
    /// Whether any of Q, K and V takes quantised activations.
    pub fn qkv_is_quantized(&self) -> bool {
        [&self.q, &self.k, &self.v]
            .iter()
            .any(|p| p.matrix.is_quantized())
    }
}

/// How many products of quantised weights and activations a token takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerProducts {
    /// In all layers.
    pub layers: u64,
    /// In the head, where the token's logits are wanted.
    pub head: u64,
}

/// All tensors of a model, over the map of its file.
#[derive(Debug)]
pub struct Weights {
    container: Container,
    /// Another file, some matrices of which stand in.
    lender: Option<Container>,
    config: Config,
    inv_freqs: Vec<f64>,
    token_embd: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// The embedding matrix where embeddings are tied.
    output: Matrix,
}

/// Finds tensors by role and counts them.
struct Binder<'a> {
    container: &'a Container,
    config: &'a Config,
    used: Vec<bool>,
}

impl Binder<'_> {
    fn find(&mut self, role: Role, layer: Option<usize>) -> Result<(usize, String), WeightsError> {
        let name = tensor_spec(self.config, role, layer).name;
        let index = self.container.tensors().iter().position(|t| t.name == name);
        let index = index.ok_or_else(|| WeightsError::Missing { name: name.clone() })?;
        self.used[index] = true;
        Ok((index, name))
    }

    fn matrix(&mut self, role: Role, layer: Option<usize>) -> Result<Matrix, WeightsError> {
        let (index, name) = self.find(role, layer)?;
        let spec = tensor_spec(self.config, role, layer);
        let kind = self.container.tensors()[index].kind;
        if let TensorKind::Matrix(layout) = kind
            && spec.layout(layout.qtype()) == Ok(layout)
        {
            return Ok(Matrix {
                index,
                layout,
                lent: false,
            });
        }
        Err(WeightsError::Shape {
            name,
            expected: format!("a matrix of {} x {}", spec.rows, spec.cols),
            got: describe(&kind),
        })
    }

    fn vector(&mut self, role: Role, layer: Option<usize>) -> Result<Vec<f32>, WeightsError> {
        let (index, name) = self.find(role, layer)?;
        let len = tensor_spec(self.config, role, layer).cols;
        let kind = self.container.tensors()[index].kind;
        if kind != (TensorKind::Vector { len }) {
            let expected = format!("a vector of {len}");
            return Err(WeightsError::Shape {
                name,
                expected,
                got: describe(&kind),
            });
        }
        let values = self
            .container
            .tensor_at(index)
            .vector()
            .map_err(WeightsError::Container)?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(WeightsError::NotFinite { name, index }),
            None => Ok(values),
        }
    }

    fn projection(
        &mut self,
        layer: usize,
        matrix: Role,
        bias: Option<Role>,
        norm: Option<Role>,
    ) -> Result<Projection, WeightsError> {
        let mut vector = |role: Option<Role>| role.map(|r| self.vector(r, Some(layer))).transpose();
        let (bias, norm) = (vector(bias)?, vector(norm)?);
        Ok(Projection {
            matrix: self.matrix(matrix, Some(layer))?,
            bias,
            norm,
        })
    }

    fn layer(&mut self, layer: usize) -> Result<Layer, WeightsError> {
        let c = self.config;
        let bias = |role| c.qkv_bias.then_some(role);
        let norm = |role| c.qk_norm.then_some(role);
        let l = Some(layer);
        let gate_up = self.matrix(Role::FfnGate, l)?;
        let up = self.matrix(Role::FfnUp, l)?;
        let [gate_at, up_at] = [gate_up, up]
            .map(|m| &self.container.tensors()[m.index])
            .map(|t| (t.offset, t.tile_stride));
        let tile = gate_up.layout.tile_bytes() as u64;
        let alternates = up_at == (gate_at.0 + tile, 2 * tile) && gate_at.1 == 2 * tile;
        if !alternates || up.layout != gate_up.layout {
            let name = tensor_spec(c, Role::FfnGate, l).name;
            return Err(WeightsError::NotInterleaved { name });
        }
        Ok(Layer {
            attn_norm: self.vector(Role::AttnNorm, l)?,
            q: self.projection(
                layer,
                Role::AttnQ,
                bias(Role::AttnQBias),
                norm(Role::AttnQNorm),
            )?,
            k: self.projection(
                layer,
                Role::AttnK,
                bias(Role::AttnKBias),
                norm(Role::AttnKNorm),
            )?,
            v: self.projection(layer, Role::AttnV, bias(Role::AttnVBias), None)?,
            attn_output: self.matrix(Role::AttnOut, l)?,
            ffn_norm: self.vector(Role::FfnNorm, l)?,
            gate_up,
            down: self.matrix(Role::FfnDown, l)?,
        })
    }
}

fn describe(kind: &TensorKind) -> String {
    match kind {
        TensorKind::Matrix(l) => format!("a matrix of {} x {} ({})", l.rows(), l.cols(), l.qtype()),
        TensorKind::Vector { len } => format!("a vector of {len}"),
    }
}

impl Weights {
    /// Binds every tensor of a file.
    ///
    /// # Errors
    ///
    /// A tensor is missing, of another shape, superfluous, or a vector is not finite.
    pub fn bind(container: Container, config: &Config) -> Result<Self, WeightsError> {
        let n = container.tensors().len();
        let mut binder = Binder {
            container: &container,
            config,
            used: vec![false; n],
        };
        let token_embd = binder.matrix(Role::TokenEmbd, None)?;
        let layers = (0..config.n_layers)
            .map(|l| binder.layer(l))
            .collect::<Result<_, _>>()?;
        let output_norm = binder.vector(Role::OutputNorm, None)?;
        let output = if config.tied_embeddings {
            token_embd
        } else {
            binder.matrix(Role::Output, None)?
        };
        if let Some(unused) = binder.used.iter().position(|used| !used) {
            let name = container.tensors()[unused].name.clone();
            return Err(WeightsError::Unknown { name });
        }
        Ok(Self {
            inv_freqs: rope::inv_freqs(config),
            config: config.clone(),
            token_embd,
            layers,
            output_norm,
            output,
            container,
            lender: None,
        })
    }

    /// The model's configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The file.
    pub const fn container(&self) -> &Container {
        &self.container
    }

    /// RoPE's frequencies, `[head_dim / 2]`, radians a position.
    pub fn inv_freqs(&self) -> &[f64] {
        &self.inv_freqs
    }

    /// Layer `layer`.
    pub fn layer(&self, layer: usize) -> &Layer {
        &self.layers[layer]
    }

    /// Before the head, `[dim]`.
    pub fn output_norm(&self) -> &[f32] {
        &self.output_norm
    }

    /// The head, `[vocab_size, dim]`.
    pub const fn output(&self) -> &Matrix {
        &self.output
    }

    fn container_of(&self, matrix: &Matrix) -> &Container {
        match &self.lender {
            Some(lender) if matrix.lent => lender,
            _ => &self.container,
        }
    }

    /// The tiles of a matrix.
    pub fn tiles(&self, matrix: &Matrix) -> TileRun<'_> {
        let view = self.container_of(matrix).tensor_at(matrix.index);
        let stride = view.entry.tile_stride as usize;
        TileRun::new(&matrix.layout, view.bytes, matrix.layout.n_tiles(), stride)
    }

    /// The tiles of a matrix and of the one that alternates with it: tile `2 i` is the first
    /// matrix's tile `i`, tile `2 i + 1` the second one's.
    pub fn pair_tiles(&self, matrix: &Matrix) -> TileRun<'_> {
        let bytes = self.container_of(matrix).pair_bytes(matrix.index);
        let n = 2 * matrix.layout.n_tiles();
        TileRun::new(&matrix.layout, bytes, n, matrix.layout.tile_bytes())
    }

    /// The embedding of a token, `[dim]`.
    ///
    /// # Panics
    ///
    /// If there is no such token.
    pub fn embedding(&self, kernels: &Kernels, token: TokenId, out: &mut [f32]) {
        let layout = &self.token_embd.layout;
        let (tile, lane) = layout.tile_and_lane(token.index());
        kernels.dequantize_row(layout, self.tiles(&self.token_embd).tile(tile), lane, out);
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        let count = |kind: &TensorKind| match kind {
            TensorKind::Matrix(l) => (l.rows() * l.cols()) as u64,
            TensorKind::Vector { len } => *len as u64,
        };
        self.container
            .tensors()
            .iter()
            .map(|t| count(&t.kind))
            .sum()
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.container
            .tensors()
            .iter()
            .map(|t| t.kind.bytes() as u64)
            .sum()
    }

    /// Bytes of weights that one token reads: all but the embedding matrix, of which it reads a row,
    /// unless that is the head too.
    pub fn bytes_per_token(&self) -> u64 {
        let embedding = self.token_embd.layout.bytes() as u64;
        if self.config.tied_embeddings {
            self.bytes()
        } else {
            self.bytes() - embedding
        }
    }

    /// Products of quantised weights and activations.
    pub fn integer_products(&self) -> IntegerProducts {
        let of = |m: &Matrix| match m.is_quantized() {
            true => (m.layout.rows() * m.layout.cols()) as u64,
            false => 0,
        };
        let layer = |l: &Layer| {
            let single = [
                &l.q.matrix,
                &l.k.matrix,
                &l.v.matrix,
                &l.attn_output,
                &l.down,
            ];
            single.into_iter().map(of).sum::<u64>() + 2 * of(&l.gate_up)
        };
        IntegerProducts {
            layers: self.layers.iter().map(layer).sum(),
            head: of(&self.output),
        }
    }

    /// What the type of most linear weights is, by bytes.
    pub fn main_type(&self) -> chaski_quant::QuantType {
        let mut bytes = [0; chaski_quant::QuantType::ALL.len()];
        for layer in &self.layers {
            for m in [
                &layer.q.matrix,
                &layer.k.matrix,
                &layer.v.matrix,
                &layer.attn_output,
                &layer.gate_up,
                &layer.down,
            ] {
                bytes[usize::from(m.layout.qtype().id())] += m.layout.rows() * m.layout.cols();
            }
        }
        let most = (0..bytes.len()).max_by_key(|&i| bytes[i]).unwrap_or(0);
        chaski_quant::QuantType::ALL[most]
    }
}
