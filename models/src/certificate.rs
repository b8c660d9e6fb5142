//! How good a file is, measured after it was made and kept in its metadata.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metadata::SourceFile;

/// The metadata's extension that holds a [`Certificate`].
pub const CERTIFICATE: &str = "certificate";
/// The version of [`Certificate`] that this code writes and reads.
pub const CERTIFICATE_VERSION: u32 = 1;

/// How far a file's model is from its reference on a text.
///
/// How it was made (options, calibration, the source's hashes) is in the metadata's provenance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// [`CERTIFICATE_VERSION`].
    pub version: u32,
    /// Name and version of the program that measured.
    pub measured_by: String,
    /// SHA-256 of the names and checksums of the tensors that were measured: 64 hexadecimal digits.
    /// Tensors that were exchanged afterwards have another one.
    pub tensors_sha256: String,
    /// What it was compared with.
    pub reference: CertifiedReference,
    /// What it was measured on.
    pub text: CertifiedText,
    /// Type of the KV cache.
    pub kv: String,
    /// Scored positions.
    pub positions: u64,
    /// Mean Kullback-Leibler divergence from the reference, in nats.
    pub kl_divergence: Figure,
    /// Share of the positions at which both find the same token likeliest.
    pub same_top: Figure,
    /// Perplexity.
    pub perplexity: Figure,
    /// Perplexity divided by the reference's.
    pub perplexity_ratio: Figure,
    /// Mean divergence where only the matrices of one role are this file's, all else the
    /// reference's; `ffn_gate, ffn_up` are one. Empty: not measured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, Figure>,
    /// Positions on which `roles` was measured: the first of the text's.
    #[serde(default)]
    pub role_positions: u64,
}

/// What a file was compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedReference {
    /// The type of most of its weights.
    pub main_type: String,
    /// The files that it was made from, with their SHA-256.
    pub files: Vec<SourceFile>,
}

/// What a file was measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedText {
    /// Its name, without folders.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, 64 hexadecimal digits.
    pub sha256: String,
    /// Tokens of a chunk, the last half of which is scored.
    pub chunk: u64,
    /// Chunks that were read, from the text's beginning.
    pub chunks: u64,
}

/// A figure and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}
