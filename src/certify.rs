//! Certificates: how good a file is, in the file.

use std::{error::Error, fmt, path::Path};

use chaski_models::{
    certificate::{
        CERTIFICATE, CERTIFICATE_VERSION, Certificate, CertifiedReference, CertifiedText, Figure,
    },
    metadata::{MetadataError, ModelMetadata},
};
use chaski_quant::container::{Container, ContainerError, rewrite_metadata};
use sha2::{Digest, Sha256};

use crate::{
    eval::{Chunks, Estimate, Part, Report},
    model::Model,
};

/// Name and version of this program, for the record.
const MEASURED_BY: &str = concat!("chaski ", env!("CARGO_PKG_VERSION"));

/// What a certificate is made of.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// The file that was measured.
    pub model: &'a Model,
    /// What it was compared with.
    pub reference: &'a Model,
    /// The text's name, without folders.
    pub text_name: &'a str,
    /// The text.
    pub text: &'a str,
    /// The name of the KV cache's type.
    pub kv: &'a str,
    /// The chunks that were read.
    pub chunks: &'a Chunks<'a>,
    /// The figures of the whole model.
    pub report: &'a Report,
    /// Those of each role.
    pub roles: &'a [(Part, Report)],
}

impl Measured<'_> {
    /// The certificate.
    pub fn certificate(&self) -> Certificate {
        let role = |(part, report): &(Part, Report)| match part {
            Part::Layer(_) => None,
            _ => Some((part.to_string(), figure(report.kl_divergence.mean))),
        };
        let (report, reference) = (self.report, self.reference);
        Certificate {
            version: CERTIFICATE_VERSION,
            measured_by: MEASURED_BY.to_owned(),
            tensors_sha256: tensors_sha256(self.model.weights().container()),
            reference: CertifiedReference {
                main_type: reference.weights().main_type().to_string(),
                files: reference.metadata().provenance.files.clone(),
            },
            text: CertifiedText {
                name: self.text_name.to_owned(),
                bytes: self.text.len() as u64,
                sha256: hex(Sha256::digest(self.text.as_bytes()).as_slice()),
                chunk: self.chunks.chunk_len() as u64,
                chunks: self.chunks.n() as u64,
            },
            kv: self.kv.to_owned(),
            positions: report.positions as u64,
            kl_divergence: figure(report.kl_divergence.mean),
            same_top: figure(report.token_probability.same_top),
            perplexity: figure(report.perplexity.model),
            perplexity_ratio: figure(report.perplexity.ratio),
            roles: self.roles.iter().filter_map(role).collect(),
            role_positions: self.roles.first().map_or(0, |(_, r)| r.positions as u64),
        }
    }
}

fn figure(estimate: Estimate) -> Figure {
    Figure {
        value: estimate.value,
        error: estimate.error,
    }
}

/// SHA-256 over each tensor's name, a zero byte, and its checksum as 8 little-endian bytes, in file
/// order: which tensors a certificate is about.
pub fn tensors_sha256(container: &Container) -> String {
    let mut hash = Sha256::new();
    for tensor in container.tensors() {
        hash.update(tensor.name.as_bytes());
        hash.update([0]);
        hash.update(tensor.xxh3.to_le_bytes());
    }
    hex(hash.finalize().as_slice())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a file's metadata say of its quality.
#[derive(Clone, Debug, PartialEq)]
pub enum Certified {
    /// Nothing.
    No,
    /// A certificate of the file's own tensors.
    Yes(Box<Certificate>),
    /// A certificate of other tensors: they were exchanged after it was written.
    OfOthers,
    /// Something that this version cannot read, and why.
    Unreadable(String),
}

/// Reads the certificate of a file.
pub fn read(container: &Container, metadata: &ModelMetadata) -> Certified {
    let Some(stored) = metadata.extensions.get(CERTIFICATE) else {
        return Certified::No;
    };
    match serde_json::from_value::<Certificate>(stored.clone()) {
        Ok(c) if c.version != CERTIFICATE_VERSION => Certified::Unreadable(format!(
            "it is of version {}, this program reads {CERTIFICATE_VERSION}",
            c.version
        )),
        Ok(c) if c.tensors_sha256 != tensors_sha256(container) => Certified::OfOthers,
        Ok(c) => Certified::Yes(Box::new(c)),
        Err(e) => Certified::Unreadable(e.to_string()),
    }
}

/// Why a certificate could not be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum CertifyError {
    /// The file could not be opened or written.
    Container(ContainerError),
    /// Its metadata cannot be read or written.
    Metadata(MetadataError),
    /// The certificate cannot be written as JSON.
    Form(serde_json::Error),
    /// A figure of it is not finite, which JSON cannot say.
    NotFinite,
    /// The file has other tensors than those that were measured.
    Changed,
}

impl fmt::Display for CertifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container(_) => "the certificate cannot be written into the file",
            Self::Metadata(_) => "the file's metadata cannot be renewed",
            Self::Form(_) => "the certificate cannot be written down",
            Self::NotFinite => {
                "a figure of the certificate is not finite: the model gives a token of the text no probability"
            }
            Self::Changed => "the file has changed since it was measured",
        })
    }
}

impl Error for CertifyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Container(e) => Some(e),
            Self::Metadata(e) => Some(e),
            Self::Form(e) => Some(e),
            Self::NotFinite | Self::Changed => None,
        }
    }
}

/// Writes `certificate` into the metadata of the file at `path`, in place of an earlier one. No
/// tensor is touched.
///
/// # Errors
///
/// [`CertifyError`].
pub fn write(path: &Path, certificate: &Certificate) -> Result<(), CertifyError> {
    let c = certificate;
    let of_all = [
        c.kl_divergence,
        c.same_top,
        c.perplexity,
        c.perplexity_ratio,
    ];
    let mut figures = of_all.iter().chain(c.roles.values());
    if figures.any(|f| !f.value.is_finite() || !f.error.is_finite()) {
        return Err(CertifyError::NotFinite);
    }
    let container = Container::open(path).map_err(CertifyError::Container)?;
    if tensors_sha256(&container) != certificate.tensors_sha256 {
        return Err(CertifyError::Changed);
    }
    let metadata = ModelMetadata::from_json(container.metadata());
    let mut metadata = metadata.map_err(CertifyError::Metadata)?;
    drop(container);
    let value = serde_json::to_value(certificate).map_err(CertifyError::Form)?;
    metadata.extensions.insert(CERTIFICATE.to_owned(), value);
    let json = metadata.to_json().map_err(CertifyError::Metadata)?;
    rewrite_metadata(path, &json).map_err(CertifyError::Container)
}
