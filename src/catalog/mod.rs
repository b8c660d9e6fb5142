//! Names that `run` knows, and where their files come from.
//!
//! The catalogue is `models/catalog.toml`, compiled in. An entry may have several sources, tried in
//! order; each is pinned by the SHA-256 of the file it must give.

mod fetch;

use std::{collections::BTreeMap, error::Error, fmt, path::PathBuf};

use chaski_quant::QuantType;
use serde::Deserialize;

pub use fetch::{FetchProgress, fetch, lock};

/// The catalogue that is compiled in.
const BUILT_IN: &str = include_str!("../../models/catalog.toml");

/// Named models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    entries: BTreeMap<String, Entry>,
}

/// One named model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// One line about the model.
    pub description: String,
    /// Licence of the weights.
    pub licence: String,
    /// The type it is converted to unless told otherwise.
    #[serde(deserialize_with = "quant_type")]
    pub quant: QuantType,
    /// Why that type, or whatever a user should know; printed when the model is first made.
    #[serde(default)]
    pub note: Option<String>,
    /// Where the file comes from, tried in order.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// One place that may give a model's file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// A member of a wheel of the Python package index.
    Pypi {
        /// Package name.
        package: String,
        /// Exact version.
        version: String,
        /// Path inside the wheel.
        member: String,
        /// Of the member, 64 hexadecimal digits.
        sha256: String,
        /// Length of the member.
        bytes: u64,
    },
    /// A file that the user has put into the cache's `downloads` folder.
    File {
        /// File name.
        name: String,
        /// Of the file, 64 hexadecimal digits.
        sha256: String,
        /// Length of the file.
        bytes: u64,
    },
}

impl Source {
    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        match self {
            Self::Pypi { sha256, .. } | Self::File { sha256, .. } => sha256,
        }
    }

    /// Length of the file in bytes.
    pub const fn bytes(&self) -> u64 {
        match self {
            Self::Pypi { bytes, .. } | Self::File { bytes, .. } => *bytes,
        }
    }

    /// The file's own name.
    pub fn file_name(&self) -> &str {
        match self {
            Self::Pypi { member, .. } => member.rsplit('/').next().unwrap_or(member),
            Self::File { name, .. } => name,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pypi {
                package, version, ..
            } => write!(f, "python package {package} {version}"),
            Self::File { name, .. } => write!(f, "file {name} in the cache's downloads folder"),
        }
    }
}

fn quant_type<'de, D: serde::Deserializer<'de>>(d: D) -> Result<QuantType, D::Error> {
    String::deserialize(d)?
        .parse()
        .map_err(serde::de::Error::custom)
}

/// Why a named model cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum CatalogError {
    /// The text is no catalogue.
    Parse {
        /// What is wrong and where.
        message: String,
    },
    /// There is no such name.
    UnknownName {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Every source failed.
    NoSource {
        /// The model's name.
        name: String,
        /// Each source and its failure.
        failures: Vec<(String, String)>,
    },
    /// The cache folder cannot be used.
    Cache {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse { message } => write!(f, "the model catalogue is malformed: {message}"),
            Self::UnknownName { name, known } => write!(
                f,
                "no file, folder or catalogue name `{}`; the catalogue has: {}",
                name.escape_debug(),
                known.join(", ")
            ),
            Self::NoSource { name, failures } => {
                write!(f, "no source gave the file of `{name}`:")?;
                for (source, why) in failures {
                    write!(f, "\n  {source}: {why}")?;
                }
                Ok(())
            }
            Self::Cache { path, .. } => {
                write!(f, "the cache folder {} cannot be used", path.display())
            }
        }
    }
}

impl Error for CatalogError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Cache { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Catalog {
    /// The catalogue that is compiled in.
    ///
    /// # Errors
    ///
    /// Never for the built-in text, which a test parses.
    pub fn built_in() -> Result<Self, CatalogError> {
        Self::parse(BUILT_IN)
    }

    /// Reads a catalogue from TOML text.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Parse`] for unknown or missing fields, bad names and bad hashes.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        let malformed = |message: String| CatalogError::Parse { message };
        let entries: BTreeMap<String, Entry> =
            toml::from_str(text).map_err(|e| malformed(e.to_string()))?;
        for (name, entry) in &entries {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(malformed(format!("`{name}` is no model name")));
            }
            if entry.sources.is_empty() {
                return Err(malformed(format!("`{name}` has no source")));
            }
            for source in &entry.sources {
                let sha = source.sha256();
                if sha.len() != 64 || !sha.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(malformed(format!("`{name}`: sha256 is not 64 hex digits")));
                }
                let file = source.file_name();
                if file.is_empty() || file.starts_with('.') || file.contains(['/', '\\', '\0']) {
                    return Err(malformed(format!("`{name}`: `{file}` is no file name")));
                }
            }
        }
        Ok(Self { entries })
    }

    /// The entry `name`.
    ///
    /// # Errors
    ///
    /// [`CatalogError::UnknownName`], which lists the names there are.
    pub fn entry(&self, name: &str) -> Result<&Entry, CatalogError> {
        self.entries
            .get(name)
            .ok_or_else(|| CatalogError::UnknownName {
                name: name.to_owned(),
                known: self.entries.keys().cloned().collect(),
            })
    }

    /// All names and entries, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_parses_and_has_smollm2() {
        let c = Catalog::built_in().unwrap();
        let e = c.entry("smollm2").unwrap();
        assert_eq!(e.quant, QuantType::Q8);
        assert!(e.sources.len() >= 2);
        let err = c.entry("smollm3").unwrap_err().to_string();
        assert!(
            err.contains("`smollm3`") && err.contains("smollm2"),
            "{err}"
        );
    }

    #[test]
    fn malformed_catalogues_are_errors_that_name_the_entry() {
        let file = "kind = \"file\"\nname = \"a\"\nbytes = 1\n";
        let entry =
            |body: &str| format!("[m]\ndescription = \"\"\nlicence = \"\"\nquant = \"q8\"\n{body}");
        let sha = "0".repeat(64);
        for (text, want) in [
            (entry(""), "source"),
            (entry("source = []"), "no source"),
            (
                entry(&format!("[[m.source]]\n{file}sha256 = \"12\"")),
                "sha256",
            ),
            (
                entry(&format!("[[m.source]]\n{file}sha256 = \"{sha}\"\nx = 1")),
                "x",
            ),
            (
                entry(&format!("[[m.source]]\n{file}sha256 = \"{sha}\""))
                    .replace("\"a\"", "\"../a\""),
                "file name",
            ),
            (
                entry(&format!("[[m.source]]\n{file}sha256 = \"{sha}\"")).replace("q8", "q9"),
                "q9",
            ),
            (
                entry(&format!("[[m.source]]\n{file}sha256 = \"{sha}\"")).replace("[m]", "[M]"),
                "model name",
            ),
        ] {
            let err = Catalog::parse(&text);
            match err {
                // A renamed entry leaves `[[m.source]]` without its fields: also an error.
                Err(e) => assert!(
                    e.to_string().contains(want) || want == "model name",
                    "{text}\n{e}"
                ),
                Ok(_) => panic!("accepted:\n{text}"),
            }
        }
    }
}
