//! The tensors of a model: roles, names, shapes, order in the file. Nobody else spells these.

use std::{error::Error, fmt, str::FromStr};

use chaski_quant::{LayoutError, QuantType, TensorLayout};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Config;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Embedding matrix, `[vocab_size, dim]`; the output matrix too where embeddings are tied.
    TokenEmbd,
    /// RMSNorm before attention, `[dim]`.
    AttnNorm,
    /// Query matrix, `[n_heads * head_dim, dim]`.
    AttnQ,
    /// Key matrix, `[n_kv_heads * head_dim, dim]`.
    AttnK,
    /// Value matrix, `[n_kv_heads * head_dim, dim]`.
    AttnV,
    /// Query bias, `[n_heads * head_dim]`.
    AttnQBias,
    /// Key bias, `[n_kv_heads * head_dim]`.
    AttnKBias,
    /// Value bias, `[n_kv_heads * head_dim]`.
    AttnVBias,
    /// RMSNorm of every query head, `[head_dim]`.
    AttnQNorm,
    /// RMSNorm of every key head, `[head_dim]`.
    AttnKNorm,
    /// Attention output matrix, `[dim, n_heads * head_dim]`.
    AttnOut,
    /// RMSNorm before the feed-forward network, `[dim]`.
    FfnNorm,
    /// Gate matrix, `[ffn_dim, dim]`.
    FfnGate,
    /// Up matrix, `[ffn_dim, dim]`.
    FfnUp,
    /// Down matrix, `[dim, ffn_dim]`.
    FfnDown,
    /// RMSNorm after the last layer, `[dim]`.
    OutputNorm,
    /// Output matrix, `[vocab_size, dim]`; absent where embeddings are tied.
    Output,
}

/// Name of ours, name in a Hugging Face layer, both without layer prefix; whether it is a bias.
const NAMES: [(&str, &str); 17] = [
    ("token_embd", "model.embed_tokens.weight"),
    ("attn_norm", "input_layernorm.weight"),
    ("attn_q", "self_attn.q_proj.weight"),
    ("attn_k", "self_attn.k_proj.weight"),
    ("attn_v", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_q_norm", "self_attn.q_norm.weight"),
    ("attn_k_norm", "self_attn.k_norm.weight"),
    ("attn_output", "self_attn.o_proj.weight"),
    ("ffn_norm", "post_attention_layernorm.weight"),
    ("ffn_gate", "mlp.gate_proj.weight"),
    ("ffn_up", "mlp.up_proj.weight"),
    ("ffn_down", "mlp.down_proj.weight"),
    ("output_norm", "model.norm.weight"),
    ("output", "lm_head.weight"),
];

impl Role {
    /// Every role, in file order.
    pub const ALL: [Self; 17] = [
        Self::TokenEmbd,
        Self::AttnNorm,
        Self::AttnQ,
        Self::AttnK,
        Self::AttnV,
        Self::AttnQBias,
        Self::AttnKBias,
        Self::AttnVBias,
        Self::AttnQNorm,
        Self::AttnKNorm,
        Self::AttnOut,
        Self::FfnNorm,
        Self::FfnGate,
        Self::FfnUp,
        Self::FfnDown,
        Self::OutputNorm,
        Self::Output,
    ];

    /// The name without layer: `token_embd`, `attn_q`, `attn_q.bias`, ...
    pub const fn name(self) -> &'static str {
        NAMES[self as usize].0
    }

    /// Whether every layer has one.
    pub const fn is_per_layer(self) -> bool {
        !matches!(self, Self::TokenEmbd | Self::OutputNorm | Self::Output)
    }

    /// Whether it is a vector, which stays f32, rather than a matrix in tiles.
    pub const fn is_vector(self) -> bool {
        matches!(
            self,
            Self::AttnNorm
                | Self::AttnQBias
                | Self::AttnKBias
                | Self::AttnVBias
                | Self::AttnQNorm
                | Self::AttnKNorm
                | Self::FfnNorm
                | Self::OutputNorm
        )
    }

    /// Whether the data of the file is to be aligned here: embeddings, each layer, output.
    pub const fn starts_section(self) -> bool {
        matches!(self, Self::TokenEmbd | Self::AttnNorm | Self::OutputNorm)
    }

    /// Whether its tiles alternate with those of the next tensor, so that one thread owns both.
    pub const fn is_interleaved(self) -> bool {
        matches!(self, Self::FfnGate)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRole {
    /// What was given.
    pub name: String,
}

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: String = self.name.chars().take(80).collect();
        write!(
            f,
            "unknown tensor role `{}`, expected one of ",
            name.escape_debug()
        )?;
        for (i, role) in Role::ALL.into_iter().enumerate() {
            write!(f, "{}{role}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Error for UnknownRole {}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|r| r.name() == s);
        known.ok_or_else(|| UnknownRole { name: s.to_owned() })
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        name.parse().map_err(de::Error::custom)
    }
}

/// The name of a tensor in our files: GGUF's without `.weight`.
///
/// # Panics
///
/// If a layer is given for a role that has none, or none for one that has.
pub fn tensor_name(role: Role, layer: Option<usize>) -> String {
    assert_eq!(
        role.is_per_layer(),
        layer.is_some(),
        "layer {layer:?} of {role}"
    );
    match layer {
        Some(layer) => format!("blk.{layer}.{role}"),
        None => role.name().to_owned(),
    }
}

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Its layer, from 0.
    pub layer: Option<usize>,
    /// Its name in our files; see [`tensor_name`].
    pub name: String,
    /// Its name in a Hugging Face checkpoint.
    pub hf_name: String,
    /// Its name in a GGUF file.
    pub gguf_name: String,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features; the length of a vector.
    pub cols: usize,
    /// Rows that are padded to whole tiles together: a head of Q, K and V, else all rows.
    pub row_group: usize,
    /// Whether it is a vector, stored as plain f32, rather than a matrix in tiles.
    pub vector: bool,
}

impl TensorSpec {
    fn new(role: Role, layer: Option<usize>, [rows, cols]: [usize; 2], row_group: usize) -> Self {
        let name = tensor_name(role, layer);
        let hf = NAMES[role as usize].1;
        let gguf_name = if name.ends_with(".bias") {
            name.clone()
        } else {
            name.clone() + ".weight"
        };
        Self {
            role,
            layer,
            name,
            hf_name: layer.map_or_else(|| hf.to_owned(), |l| format!("model.layers.{l}.{hf}")),
            gguf_name,
            rows,
            cols,
            row_group,
            vector: role.is_vector(),
        }
    }

    /// Number of weights.
    pub const fn n_weights(&self) -> usize {
        self.rows * self.cols
    }

    /// Where the weights of this matrix lie when stored as `qtype`.
    ///
    /// # Errors
    ///
    /// Never for the table of a valid config.
    pub fn layout(&self, qtype: QuantType) -> Result<TensorLayout, LayoutError> {
        TensorLayout::grouped(qtype, self.rows, self.cols, self.row_group)
    }
}

/// The shape `[rows, cols]` of a tensor and the rows that are padded together.
fn shape(c: &Config, role: Role) -> ([usize; 2], usize) {
    let matrix = |rows, cols| ([rows, cols], rows);
    let vector = |len| ([1, len], 1);
    match role {
        Role::TokenEmbd | Role::Output => matrix(c.vocab_size, c.dim),
        Role::AttnNorm | Role::FfnNorm | Role::OutputNorm => vector(c.dim),
        Role::AttnQ => ([c.q_dim(), c.dim], c.head_dim),
        Role::AttnK | Role::AttnV => ([c.kv_dim(), c.dim], c.head_dim),
        Role::AttnQBias => vector(c.q_dim()),
        Role::AttnKBias | Role::AttnVBias => vector(c.kv_dim()),
        Role::AttnQNorm | Role::AttnKNorm => vector(c.head_dim),
        Role::AttnOut => matrix(c.dim, c.q_dim()),
        Role::FfnGate | Role::FfnUp => matrix(c.ffn_dim, c.dim),
        Role::FfnDown => matrix(c.dim, c.ffn_dim),
    }
}

/// Whether a model of this config has tensors of `role`.
pub fn has_role(c: &Config, role: Role) -> bool {
    match role {
        Role::AttnQBias | Role::AttnKBias | Role::AttnVBias => c.qkv_bias,
        Role::AttnQNorm | Role::AttnKNorm => c.qk_norm,
        Role::Output => !c.tied_embeddings,
        _ => true,
    }
}

/// One tensor of a model.
///
/// # Panics
///
/// As [`tensor_name`].
pub fn tensor_spec(c: &Config, role: Role, layer: Option<usize>) -> TensorSpec {
    let (shape, row_group) = shape(c, role);
    TensorSpec::new(role, layer, shape, row_group)
}

/// The tensors of layer `layer`, in file order.
pub fn layer_tensors(c: &Config, layer: usize) -> Vec<TensorSpec> {
    let roles = Role::ALL
        .into_iter()
        .filter(|&r| r.is_per_layer() && has_role(c, r));
    roles.map(|r| tensor_spec(c, r, Some(layer))).collect()
}

/// Every tensor of a model, in file order: embeddings, layers, output norm, output matrix.
///
/// The config must be valid ([`Config::validate`]).
pub fn tensor_table(c: &Config) -> Vec<TensorSpec> {
    let mut table = vec![tensor_spec(c, Role::TokenEmbd, None)];
    for layer in 0..c.n_layers {
        table.extend(layer_tensors(c, layer));
    }
    let last = [Role::OutputNorm, Role::Output]
        .into_iter()
        .filter(|&r| has_role(c, r));
    table.extend(last.map(|r| tensor_spec(c, r, None)));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Variant;

    fn names(v: Variant) -> Vec<String> {
        tensor_table(&v.config())
            .into_iter()
            .map(|t| t.name)
            .collect()
    }

    #[test]
    fn the_file_order_is_that_of_use() {
        let got = names(Variant::Llama).join(" ");
        let layer = |l: usize| {
            [
                "attn_norm",
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_norm",
                "ffn_gate",
            ]
            .into_iter()
            .chain(["ffn_up", "ffn_down"])
            .map(|n| format!("blk.{l}.{n} "))
            .collect::<String>()
        };
        assert_eq!(
            got,
            format!("token_embd {}{}output_norm", layer(0), layer(1))
        );
        let qwen2 = names(Variant::Qwen2);
        assert_eq!(
            qwen2[1..10].join(" ").replace("blk.0.", ""),
            "attn_norm attn_q attn_k attn_v attn_q.bias attn_k.bias attn_v.bias attn_output ffn_norm"
        );
        let qwen3 = names(Variant::Qwen3);
        assert_eq!(
            qwen3[4..8].join(" ").replace("blk.0.", ""),
            "attn_v attn_q_norm attn_k_norm attn_output"
        );
        assert_eq!(qwen3.last().unwrap(), "output");
    }

    #[test]
    fn names_of_the_sources_and_shapes() {
        let c = Variant::Qwen3.config();
        let spec = |role, layer| tensor_spec(&c, role, layer);
        let cases = [
            (
                Role::TokenEmbd,
                None,
                "model.embed_tokens.weight",
                "token_embd.weight",
                [320, 64],
            ),
            (
                Role::AttnQ,
                Some(1),
                "model.layers.1.self_attn.q_proj.weight",
                "blk.1.attn_q.weight",
                [128, 64],
            ),
            (
                Role::AttnK,
                Some(1),
                "model.layers.1.self_attn.k_proj.weight",
                "blk.1.attn_k.weight",
                [64, 64],
            ),
            (
                Role::AttnVBias,
                Some(0),
                "model.layers.0.self_attn.v_proj.bias",
                "blk.0.attn_v.bias",
                [1, 64],
            ),
            (
                Role::AttnQNorm,
                Some(0),
                "model.layers.0.self_attn.q_norm.weight",
                "blk.0.attn_q_norm.weight",
                [1, 32],
            ),
            (
                Role::AttnOut,
                Some(0),
                "model.layers.0.self_attn.o_proj.weight",
                "blk.0.attn_output.weight",
                [64, 128],
            ),
            (
                Role::FfnNorm,
                Some(0),
                "model.layers.0.post_attention_layernorm.weight",
                "blk.0.ffn_norm.weight",
                [1, 64],
            ),
            (
                Role::FfnDown,
                Some(0),
                "model.layers.0.mlp.down_proj.weight",
                "blk.0.ffn_down.weight",
                [64, 96],
            ),
            (
                Role::OutputNorm,
                None,
                "model.norm.weight",
                "output_norm.weight",
                [1, 64],
            ),
            (
                Role::Output,
                None,
                "lm_head.weight",
                "output.weight",
                [320, 64],
            ),
        ];
        for (role, layer, hf, gguf, [rows, cols]) in cases {
            let t = spec(role, layer);
            assert_eq!((t.hf_name.as_str(), t.gguf_name.as_str()), (hf, gguf));
            assert_eq!(
                (t.rows, t.cols, t.vector),
                (rows, cols, role.is_vector()),
                "{role}"
            );
        }
        // Heads of 24 rows are padded to 32 each.
        let untied = Variant::LlamaUntied.config();
        let q = tensor_spec(&untied, Role::AttnQ, Some(0))
            .layout(QuantType::Q4)
            .unwrap();
        assert_eq!((q.rows(), q.row_group(), q.n_tiles()), (72, 24, 6));
    }

    #[test]
    fn names_are_unique_and_every_matrix_has_a_layout() {
        for v in Variant::ALL {
            let table = tensor_table(&v.config());
            for t in &table {
                let same = |u: &&TensorSpec| {
                    u.name == t.name || u.hf_name == t.hf_name || u.gguf_name == t.gguf_name
                };
                assert_eq!(table.iter().filter(same).count(), 1, "{}", t.name);
                for qtype in QuantType::ALL {
                    assert!(t.layout(qtype).is_ok(), "{}", t.name);
                }
                assert_eq!(t.name, tensor_name(t.role, t.layer));
            }
        }
    }

    #[test]
    fn role_names_round_trip() {
        for (i, role) in Role::ALL.into_iter().enumerate() {
            assert_eq!(role as usize, i);
            assert_eq!(role.name().parse(), Ok(role));
            let json = serde_json::to_string(&role).unwrap();
            assert_eq!(serde_json::from_str::<Role>(&json).unwrap(), role);
        }
        let error = serde_json::from_str::<Role>("\"attn_x\"")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`attn_x`") && error.contains("attn_q.bias"),
            "{error}"
        );
    }
}
