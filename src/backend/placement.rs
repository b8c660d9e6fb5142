//! Which machine has which part of a model.

use std::{fmt, str::FromStr};

/// How much of a model is asked to be on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuLayers {
    /// So many of the last layers; one more than there are layers means the head too. More is as much.
    Count(usize),
    /// As many as fit into the GPU's free memory; none where there is no GPU.
    Auto,
    /// All layers and the head.
    All,
}

impl GpuLayers {
    /// Everything on the CPU.
    pub const NONE: Self = Self::Count(0);

    /// Whether no GPU is asked for.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl Default for GpuLayers {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Auto => f.write_str("auto"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            n => n
                .parse()
                .map(Self::Count)
                .map_err(|_| "expected a number of layers, auto or all".to_owned()),
        }
    }
}

/// Where a model's layers and its head are. The embeddings are always on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Layers of the model.
    pub n_layers: usize,
    /// Of which the last so many are on the GPU.
    pub gpu_layers: usize,
    /// Whether the head, the last norm included, is there too.
    pub gpu_head: bool,
}

impl Placement {
    /// Everything on the CPU.
    pub const fn cpu(n_layers: usize) -> Self {
        Self {
            n_layers,
            gpu_layers: 0,
            gpu_head: false,
        }
    }

    /// `n` parts from the end on the GPU: the last `n` layers, and the head too if that is one more
    /// than there are.
    pub fn of_count(n_layers: usize, n: usize) -> Self {
        Self {
            n_layers,
            gpu_layers: n.min(n_layers),
            gpu_head: n > n_layers,
        }
    }

    /// Layers on the CPU: the first ones.
    pub const fn cpu_layers(&self) -> usize {
        self.n_layers - self.gpu_layers
    }

    /// Whether the GPU has any part.
    pub const fn uses_gpu(&self) -> bool {
        self.gpu_layers > 0
    }

    /// The number that [`of_count`](Self::of_count) would take for it.
    pub fn count(&self) -> usize {
        self.gpu_layers + usize::from(self.gpu_head)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n_layers,
            gpu_layers,
            gpu_head,
        } = self;
        match (gpu_layers, gpu_head) {
            (0, _) => write!(f, "all {n_layers} layers and the head on the CPU"),
            (_, true) => write!(f, "all {n_layers} layers and the head on the GPU"),
            (_, false) => write!(
                f,
                "the last {gpu_layers} of {n_layers} layers on the GPU, the head on the CPU"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_shown() {
        for (text, want) in [
            ("0", GpuLayers::NONE),
            ("17", GpuLayers::Count(17)),
            ("auto", GpuLayers::Auto),
            ("all", GpuLayers::All),
        ] {
            assert_eq!(text.parse(), Ok(want));
            assert_eq!(want.to_string(), text);
        }
        for bad in ["", "-1", "some", "1.5", "ALL"] {
            let error = bad.parse::<GpuLayers>().unwrap_err();
            assert!(error.contains("auto or all"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_head_goes_after_all_layers() {
        let placed = |n| {
            let p = Placement::of_count(4, n);
            (p.cpu_layers(), p.gpu_layers, p.gpu_head, p.count())
        };
        assert_eq!(placed(0), (4, 0, false, 0));
        assert_eq!(placed(3), (1, 3, false, 3));
        assert_eq!(placed(4), (0, 4, false, 4));
        assert_eq!(placed(5), (0, 4, true, 5));
        assert_eq!(placed(usize::MAX), placed(5));
        assert!(!Placement::cpu(4).uses_gpu());
    }
}
