//! A model, open.

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use chaski_kernels_simd::{Kernels, LevelError};
use chaski_models::{
    Config, Role, TokenId,
    chat::{ChatError, ChatTemplate, SpecialTokens},
    metadata::{MetadataError, ModelMetadata},
    tokenizer::{Tokenizer, TokenizerError, decompress_canonical},
};
use chaski_quant::container::{Container, ContainerError, SectionKind};

use crate::{
    os::{self, OsError},
    weights::{HybridError, Weights, WeightsError},
};

/// A `.chaski` file, mapped and checked. Share it between sessions behind an `Arc`.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    metadata: ModelMetadata,
    weights: Weights,
    kernels: &'static Kernels,
    load_time: Duration,
}

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// The kernels to use; `None`: those that `CHASKI_SIMD` names, or the best of this CPU.
    pub kernels: Option<&'static Kernels>,
    /// Where the tensors are kept.
    pub residence: Residence,
}

/// Where a model's tensors are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residence {
    /// In the map of the file: shared with every process that runs it, read when it is first used,
    /// given up by the system when memory is short.
    #[default]
    Mapped,
    /// In the map, read at once, and locked in memory until the model is dropped.
    Locked,
    /// In a copy that the system makes of huge pages: fewer misses of the address translation, for
    /// as much private memory as the file is long, and a start that takes as long as copying it.
    HugePages,
}

/// Why a model could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum ModelError {
    /// The file is no sound container.
    Container {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ContainerError,
    },
    /// Its metadata is not what this version reads.
    Metadata {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: MetadataError,
    },
    /// Its tensors are not those of its configuration.
    Weights {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: WeightsError,
    },
    /// The tensors cannot be kept where [`ModelOptions::residence`] says.
    Residence(OsError),
    /// `CHASKI_SIMD` names something else than a level of this CPU.
    Level(LevelError),
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { path, .. }
            | Self::Metadata { path, .. }
            | Self::Weights { path, .. } => write!(f, "{} could not be opened", path.display()),
            Self::Residence(_) => f.write_str("the model's weights cannot be kept as asked"),
            Self::Level(_) => f.write_str("CHASKI_SIMD cannot be followed"),
        }
    }
}

impl Error for ModelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Container { source, .. } => Some(source),
            Self::Metadata { source, .. } => Some(source),
            Self::Weights { source, .. } => Some(source),
            Self::Residence(e) => Some(e),
            Self::Level(e) => Some(e),
        }
    }
}

impl Model {
    /// Maps the file at `path` and checks all of it but the tensors' own bytes.
    ///
    /// # Errors
    ///
    /// [`ModelError`] names the file, and its causes what is wrong with it.
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let begin = Instant::now();
        let failed = |source| ModelError::Container {
            path: path.to_owned(),
            source,
        };
        let mut container = Container::open(path).map_err(failed)?;
        match options.residence {
            Residence::Mapped => {}
            Residence::Locked => {
                os::lock(&container.bytes()[container.data_range()])
                    .map_err(ModelError::Residence)?;
            }
            Residence::HugePages => {
                let copy = os::copy_to_huge_pages(container.bytes());
                let copy = copy.map_err(ModelError::Residence)?;
                container = Container::from_owner(Box::new(copy)).map_err(failed)?;
            }
        }
        let mut model = Self::from_container(container, path, options)?;
        model.load_time = begin.elapsed();
        Ok(model)
    }

    /// The same for a container that is open; `path` is only what errors name.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_container(
        container: Container,
        path: &Path,
        options: &ModelOptions,
    ) -> Result<Self, ModelError> {
        let begin = Instant::now();
        let kernels = match options.kernels {
            Some(kernels) => kernels,
            None => Kernels::from_env().map_err(ModelError::Level)?,
        };
        let metadata = ModelMetadata::from_json(container.metadata()).map_err(|source| {
            ModelError::Metadata {
                path: path.to_owned(),
                source,
            }
        })?;
        let weights =
            Weights::bind(container, &metadata.config).map_err(|source| ModelError::Weights {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            metadata,
            weights,
            kernels,
            load_time: begin.elapsed(),
        })
    }

    /// Whether channels were balanced when the file was calibrated, so that a single matrix means nothing
    /// beside those of another file.
    pub fn is_balanced(&self) -> bool {
        let options = &self.metadata.provenance.options;
        options.contains_key(chaski_convert::BALANCE)
    }

    /// This model with the matrices of `other` for which `is_taken` says so; see
    /// [`Weights::take_from`]. Its metadata stay those of this one.
    ///
    /// # Errors
    ///
    /// The two are not of one kind.
    pub fn with_matrices_of(
        mut self,
        other: Self,
        is_taken: impl Fn(Role, Option<usize>) -> bool,
    ) -> Result<Self, HybridError> {
        let balanced = self.is_balanced() || other.is_balanced();
        self.weights.take_from(other.weights, balanced, is_taken)?;
        Ok(self)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says of itself.
    pub const fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    /// The hyperparameters.
    pub const fn config(&self) -> &Config {
        self.weights.config()
    }

    /// The tensors.
    pub const fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The kernels that sessions use.
    pub const fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// How long it took to open.
    pub const fn load_time(&self) -> Duration {
        self.load_time
    }

    /// The chat template, if the model came with one.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, ChatError> {
        let Some(source) = &self.metadata.chat_template else {
            return Ok(None);
        };
        let ids = &self.metadata.tokenizer;
        let text = |id: Option<TokenId>| {
            let bytes = id.and_then(|id| tokenizer.token_bytes(id));
            bytes.map(|b| String::from_utf8_lossy(b).into_owned())
        };
        let specials = SpecialTokens {
            bos: text(ids.bos),
            eos: text(ids.eos),
            ..SpecialTokens::default()
        };
        ChatTemplate::new(source, specials).map(Some)
    }

    /// Loads the tokenizer: from its fast form, or, where that is of another version, from the
    /// original document, which takes longer and is noted.
    ///
    /// # Errors
    ///
    /// The file has none, or it is broken.
    pub fn tokenizer(&self) -> Result<LoadedTokenizer, TokenizerLoadError> {
        load_tokenizer(self.weights.container(), &self.metadata)
    }
}

/// The longest `tokenizer.json` that is decompressed. Those of 256k entries have 35 MB.
const MAX_TOKENIZER_JSON: usize = 256 << 20;

/// A tokenizer, and what there is to say about loading it.
#[derive(Debug)]
pub struct LoadedTokenizer {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Lines for the user.
    pub notes: Vec<String>,
}

/// Why a file's tokenizer cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenizerLoadError {
    /// The file has none.
    Missing,
    /// It is broken.
    Broken(TokenizerError),
}

impl fmt::Display for TokenizerLoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "the file has no tokenizer, since its source had none (--no-tokenizer): it can be \
                 measured, not talked to",
            ),
            Self::Broken(_) => f.write_str("the file's tokenizer cannot be used"),
        }
    }
}

impl Error for TokenizerLoadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Broken(e) => Some(e),
            Self::Missing => None,
        }
    }
}

fn from_canonical(bytes: &[u8], metadata: &ModelMetadata) -> Result<Tokenizer, TokenizerLoadError> {
    let json =
        decompress_canonical(bytes, MAX_TOKENIZER_JSON).map_err(TokenizerLoadError::Broken)?;
    let config = metadata.extensions.get(chaski_convert::TOKENIZER_CONFIG);
    Tokenizer::from_hf(&json, config).map_err(TokenizerLoadError::Broken)
}

fn load_tokenizer(
    container: &Container,
    metadata: &ModelMetadata,
) -> Result<LoadedTokenizer, TokenizerLoadError> {
    let mut notes = Vec::new();
    if let Some(fast) = container.section(SectionKind::TokenizerFast) {
        match Tokenizer::from_fast(fast) {
            Ok(tokenizer) => return Ok(LoadedTokenizer { tokenizer, notes }),
            Err(e @ (TokenizerError::FastVersion { .. } | TokenizerError::NotFastForm)) => {
                notes.push(format!(
                    "{e}: reading the original tokenizer.json, which takes longer"
                ));
            }
            Err(e) => return Err(TokenizerLoadError::Broken(e)),
        }
    }
    let canonical = container
        .section(SectionKind::Tokenizer)
        .ok_or(TokenizerLoadError::Missing)?;
    Ok(LoadedTokenizer {
        tokenizer: from_canonical(canonical, metadata)?,
        notes,
    })
}

/// Checks both forms of a file's tokenizer, if it has one: they must be readable.
///
/// # Errors
///
/// [`TokenizerLoadError::Broken`].
pub fn check_tokenizer(
    container: &Container,
    metadata: &ModelMetadata,
) -> Result<(), TokenizerLoadError> {
    let Some(canonical) = container.section(SectionKind::Tokenizer) else {
        return Ok(());
    };
    from_canonical(canonical, metadata)?;
    load_tokenizer(container, metadata).map(|_| ())
}
