//! What every config must satisfy, wherever it came from.

use super::{Config, ConfigError, RopeScaling};

/// Largest width of the hidden state.
pub const MAX_EMBEDDING_DIM: usize = 1 << 20;
/// Largest width of the feed-forward network.
pub const MAX_FFN_DIM: usize = 1 << 22;
/// Most layers.
pub const MAX_LAYERS: usize = 4096;
/// Most query heads.
pub const MAX_HEADS: usize = 1 << 14;
/// Most elements of a head.
pub const MAX_HEAD_DIM: usize = 1 << 12;
/// Most tokens of a vocabulary.
pub const MAX_VOCAB: usize = 1 << 24;
/// Most positions; positions stay exact in f32 and in `i32`.
pub const MAX_SEQ_LEN: usize = 1 << 24;
/// Most tokens that end a text.
pub const MAX_EOS_IDS: usize = 64;

impl Config {
    /// Checks every field, alone and against the others.
    ///
    /// # Errors
    ///
    /// The first field that leaves its range or contradicts another one. Fields have our names here,
    /// as the container's metadata does.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, value, max) in [
            ("dim", self.dim, MAX_EMBEDDING_DIM),
            ("ffn_dim", self.ffn_dim, MAX_FFN_DIM),
            ("n_layers", self.n_layers, MAX_LAYERS),
            ("n_heads", self.n_heads, MAX_HEADS),
            ("n_kv_heads", self.n_kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("max_seq_len", self.max_seq_len, MAX_SEQ_LEN),
        ] {
            if value == 0 || value > max {
                return Err(ConfigError::range(field, format_args!("1..={max}"), value));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format_args!("a divisor of the {} query heads", self.n_heads);
            return Err(ConfigError::inconsistent(
                "n_kv_heads",
                expected,
                self.n_kv_heads,
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::range(
                "head_dim",
                "an even number",
                self.head_dim,
            ));
        }
        // 1e-30 keeps 1 / sqrt(eps) finite; anything near 1 is no epsilon.
        if !(self.norm_eps >= 1e-30 && self.norm_eps < 1.0) {
            return Err(ConfigError::range("norm_eps", "1e-30..1", self.norm_eps));
        }
        if !(self.rope_theta >= 1.0 && self.rope_theta <= 1e15) {
            return Err(ConfigError::range(
                "rope_theta",
                "1..=1e15",
                self.rope_theta,
            ));
        }
        let arch = self.arch.arch();
        for (field, value, expected) in [
            ("qkv_bias", self.qkv_bias, arch.qkv_bias),
            ("qk_norm", self.qk_norm, arch.qk_norm),
        ] {
            if value != expected {
                let expected = format_args!("{expected} as {} has it", arch.name);
                return Err(ConfigError::inconsistent(field, expected, value));
            }
        }
        self.validate_scaling()?;
        self.validate_window()?;
        self.validate_ids()
    }

    fn validate_scaling(&self) -> Result<(), ConfigError> {
        let positive = |name: &str, value: f64| {
            if value.is_finite() && (1e-6..=1e6).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::range(
                format!("rope_scaling.{name}"),
                "1e-6..=1e6",
                value,
            ))
        };
        match &self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                ..
            } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low)?;
                positive("high_freq_factor", *high)?;
                if low >= high {
                    let expected = format_args!("more than low_freq_factor, {low}");
                    let field = "rope_scaling.high_freq_factor";
                    return Err(ConfigError::inconsistent(field, expected, high));
                }
                self.validate_original_len()
            }
            RopeScaling::Factors { factors } => {
                if factors.len() != self.head_dim / 2 {
                    let expected = format_args!("{} factors, head_dim / 2", self.head_dim / 2);
                    let field = "rope_scaling.factors";
                    return Err(ConfigError::inconsistent(field, expected, factors.len()));
                }
                for (i, factor) in factors.iter().enumerate() {
                    positive(&format!("factors[{i}]"), f64::from(*factor))?;
                }
                Ok(())
            }
        }
    }

    fn validate_original_len(&self) -> Result<(), ConfigError> {
        let RopeScaling::Llama3 {
            original_max_seq_len: n,
            ..
        } = self.rope_scaling
        else {
            return Ok(());
        };
        if n == 0 || n > MAX_SEQ_LEN {
            let field = "rope_scaling.original_max_seq_len";
            return Err(ConfigError::range(
                field,
                format_args!("1..={MAX_SEQ_LEN}"),
                n,
            ));
        }
        Ok(())
    }

    fn validate_window(&self) -> Result<(), ConfigError> {
        if let Some(window) = self.sliding_window
            && (window == 0 || window > MAX_SEQ_LEN)
        {
            let expected = format_args!("1..={MAX_SEQ_LEN} or none");
            return Err(ConfigError::range("sliding_window", expected, window));
        }
        let Some(layers) = &self.windowed_layers else {
            return Ok(());
        };
        if self.sliding_window.is_none() {
            let got = format_args!("{} layers", layers.len());
            return Err(ConfigError::inconsistent(
                "windowed_layers",
                "none without a window",
                got,
            ));
        }
        if !layers.is_sorted_by(|a, b| a < b) || layers.iter().any(|&l| l >= self.n_layers) {
            let expected = format_args!("rising layer numbers below {}", self.n_layers);
            let got = format_args!("{} numbers that are not", layers.len());
            return Err(ConfigError::inconsistent("windowed_layers", expected, got));
        }
        Ok(())
    }

    fn validate_ids(&self) -> Result<(), ConfigError> {
        if self.eos_token_ids.len() > MAX_EOS_IDS {
            let expected = format_args!("at most {MAX_EOS_IDS} ids");
            return Err(ConfigError::range(
                "eos_token_ids",
                expected,
                self.eos_token_ids.len(),
            ));
        }
        let bos = self.bos_token_id.iter().map(|id| ("bos_token_id", id));
        let eos = self.eos_token_ids.iter().map(|id| ("eos_token_ids", id));
        for (field, id) in bos.chain(eos) {
            if id.index() >= self.vocab_size {
                let expected = format_args!("an id below vocab_size, {}", self.vocab_size);
                return Err(ConfigError::inconsistent(field, expected, id));
            }
        }
        Ok(())
    }
}
