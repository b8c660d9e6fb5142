//! `sliding_window` and the fields that say where it holds.

use serde_json::Value;

use super::Reader;
use super::fields::brief;
use crate::ConfigError;
use crate::arch::{Arch, WindowRule};

impl Reader<'_> {
    /// The window, and the layers that have it where it is not all of them.
    pub(super) fn window(
        &mut self,
        arch: &Arch,
        n_layers: usize,
    ) -> Result<(Option<usize>, Option<Vec<usize>>), ConfigError> {
        let f = self.fields;
        let named = self.layer_types(n_layers)?;
        let absent = !f.map.contains_key("sliding_window");
        let mut window = f.size("sliding_window")?;
        let layers: Option<Vec<usize>> = match arch.window {
            WindowRule::Never => {
                if window.take().is_some() {
                    self.notes.push(format!(
                        "config field `sliding_window` has no effect on {}",
                        arch.hf_class
                    ));
                }
                None
            }
            WindowRule::Everywhere { default } => {
                if absent {
                    self.note_default("sliding_window", &default);
                    window = Some(default);
                }
                None
            }
            WindowRule::FromLayer {
                default,
                max_window_layers,
            } => {
                if !f.bool("use_sliding_window")?.unwrap_or(false) {
                    window = None;
                } else if absent {
                    self.note_default("sliding_window", &default);
                    window = Some(default);
                }
                let from = f.size("max_window_layers")?.unwrap_or(max_window_layers);
                Some(
                    named
                        .clone()
                        .unwrap_or_else(|| (from.min(n_layers)..n_layers).collect()),
                )
            }
        };
        let windowed = match (&layers, window) {
            (_, None) => 0,
            (Some(layers), Some(_)) => layers.len(),
            (None, Some(_)) => n_layers,
        };
        // Where the rule takes its layers from elsewhere, `layer_types` may only repeat it.
        if named.is_some_and(|named| named.len() != windowed) {
            let expected = format!("{windowed} layers of \"sliding_attention\"");
            let hint = "this pattern contradicts the other sliding window fields";
            return Err(f.unsupported("layer_types", &expected, hint));
        }
        match (window, layers) {
            (Some(_), Some(layers)) if layers.is_empty() => Ok((None, None)),
            (Some(_), Some(layers)) if layers.len() == n_layers => Ok((window, None)),
            (Some(_), layers) => Ok((window, layers)),
            (None, _) => Ok((None, None)),
        }
    }

    /// The layers that `layer_types` gives a sliding window.
    fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<usize>>, ConfigError> {
        let f = self.fields;
        let Some(types) = f.typed("layer_types", "a list of strings", Value::as_array)? else {
            return Ok(None);
        };
        if types.len() != n_layers {
            let expected = format_args!("{n_layers} entries, one a layer");
            return Err(ConfigError::inconsistent(
                "layer_types",
                expected,
                types.len(),
            ));
        }
        let mut windowed = Vec::new();
        for (layer, kind) in types.iter().enumerate() {
            match kind.as_str() {
                Some("full_attention") => {}
                Some("sliding_attention") => windowed.push(layer),
                _ => {
                    return Err(ConfigError::Unsupported {
                        field: format!("layer_types[{layer}]"),
                        expected: "\"full_attention\" or \"sliding_attention\"".to_owned(),
                        got: brief(kind),
                        hint: "other kinds of layers are not implemented",
                    });
                }
            }
        }
        Ok(Some(windowed))
    }
}
