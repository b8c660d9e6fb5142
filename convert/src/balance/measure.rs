//! The magnitudes of channels, and what follows from them.

use chaski_models::{
    forward::{Observed, Site},
    tensors::Role,
};
use chaski_quant::QuantType;

use super::Balanced;
use crate::{
    calibrate::{self, Calibration, CalibrationError, slice::Slice},
    error::ConvertError,
    inputs,
    mapping::{self, Mapped},
    pipeline::{Limits, go_on},
    plan::ConvertPlan,
    progress::{Event, Progress},
    runner::ModelRunner,
    source::Source,
};

/// Chunks of the text that are run: means need far fewer rows than second moments do.
const CHUNKS: usize = 4;

/// Types whose errors are below those of 8-bit activations, and that hold a weight times any factor as well
/// as the weight itself: `F16`'s exponents do not reach that far.
const FINE: [QuantType; 3] = [QuantType::Q8, QuantType::BF16, QuantType::F32];

/// The sites whose channels are balanced.
const SITES: [Site; 5] = [
    Site::Qkv,
    Site::AttnOutput,
    Site::GateUp,
    Site::Down,
    Site::Head,
];

/// What channels are balanced by.
pub(crate) struct Balance<'a, 'b> {
    pub(crate) source: &'a dyn Source,
    pub(crate) plan: &'b ConvertPlan,
    pub(crate) limits: Limits,
    pub(crate) progress: &'b dyn Progress,
}

impl<'a> Balance<'a, '_> {
    /// Runs the source on some of the text and balances channels by what is seen; `None`: of no channel
    /// that would be of use.
    ///
    /// # Errors
    ///
    /// As of a calibration: the source cannot be read or run, it has no tokenizer, the text is too
    /// short, an activation is not finite.
    pub(crate) fn run(
        &self,
        calibration: &Calibration,
        runner: &mut dyn ModelRunner,
    ) -> Result<Option<Balanced<'a>>, ConvertError> {
        let (source, config) = (self.source, &self.plan.config);
        let mapped = mapping::map(source)?.tensors;
        let n_layers = config.n_layers;
        let layers = (0..n_layers).flat_map(|layer| SITES.map(|site| (site, layer)));
        if !layers
            .into_iter()
            .any(|(site, layer)| self.pays(&mapped, site, layer))
        {
            return Ok(None);
        }
        let texts = inputs::texts(source, calibration)?;
        let n = texts.len().min(CHUNKS);
        let texts: Vec<_> = (0..n).map(|i| &texts[i * texts.len() / n][..]).collect();
        let lens: Vec<_> = texts.iter().map(|t| t.len()).collect();
        let mut hidden = inputs::embeddings(source, &mapped, config, &texts.concat())?;
        let mut balanced = Balanced::new(source);
        let memory = memory(&mapped, hidden.len());
        self.tell(0, memory)?;
        for layer in 0..n_layers {
            let is_last = layer + 1 == n_layers;
            let head = is_last && self.pays(&mapped, Site::Head, layer);
            let norm = match head {
                true => inputs::rows(source, inputs::tensor(&mapped, Role::OutputNorm), 0..1)?,
                false => vec![1.0; config.dim],
            };
            let slice = Slice::new(source, config, &mapped, layer, &hidden, &norm);
            let file = slice.file(self.limits)?;
            let mut seen: Vec<(Site, Vec<f64>)> = Vec::new();
            let ran = runner.observe(file, &lens, head, &mut |_, now: Observed<'_>| {
                if SITES.contains(&now.site) {
                    add(&mut seen, &now);
                }
            });
            // Before the runner's error, which follows from it.
            let is_broken = |s: &&(Site, Vec<f64>)| !s.1.iter().all(|x| x.is_finite());
            if let Some((site, _)) = seen.iter().find(is_broken) {
                let site = inputs::place(*site, layer);
                return Err(CalibrationError::NotFinite { site }.into());
            }
            hidden = ran.map_err(CalibrationError::Runner)?;
            inputs::check_states(&hidden, || inputs::behind(layer, config))?;
            for (site, sums) in seen {
                if !self.pays(&mapped, site, layer) {
                    continue;
                }
                match site {
                    Site::Qkv => balanced.norm(&mapped, Some(layer), Role::AttnNorm, &sums),
                    Site::AttnOutput => balanced.values(&mapped, layer, config, &sums),
                    Site::GateUp => balanced.norm(&mapped, Some(layer), Role::FfnNorm, &sums),
                    Site::Down => balanced.hidden(&mapped, layer, &sums),
                    Site::Head => balanced.norm(&mapped, None, Role::OutputNorm, &sums),
                    Site::Layer => {}
                }
            }
            self.tell(layer + 1, memory)?;
        }
        Ok(Some(balanced))
    }

    fn tell(&self, done: usize, memory: u64) -> Result<(), ConvertError> {
        let of = self.plan.config.n_layers;
        go_on(self.progress.event(Event::Balance { done, of, memory }))
    }

    /// Whether what is seen at a site is to be balanced: all matrices that multiply it are fine, and one
    /// of them is quantised, so that its activations are. What makes the channels has its rows scaled, which
    /// only F16 cannot hold: quantised rows have a scale each.
    fn pays(&self, mapped: &[Mapped], site: Site, layer: usize) -> bool {
        let tied = self.plan.config.tied_embeddings;
        let (roles, layer) = match site {
            // Tied to the embeddings, which no norm's gains go before.
            Site::Head if tied => return false,
            Site::Head => (calibrate::roles(site, tied), None),
            _ => (calibrate::roles(site, tied), Some(layer)),
        };
        let makers: &[Role] = match site {
            Site::AttnOutput => &[Role::AttnV],
            Site::Down => &[Role::FfnUp],
            _ => &[],
        };
        let types = |roles: &[Role]| -> Vec<QuantType> {
            let all = mapped.iter().zip(&self.plan.tensors);
            let own = all.filter(|(m, _)| m.spec.layer == layer && roles.contains(&m.spec.role));
            own.map(|(_, tensor)| tensor.qtype).collect()
        };
        let multiply = types(roles);
        multiply.iter().any(|t| t.is_quantized())
            && multiply.iter().all(|t| FINE.contains(t))
            && types(makers).iter().all(|&t| t != QuantType::F16)
    }
}

/// Bytes that are held at most beside what any conversion holds: a layer as floats, twice, and hidden
/// states, before and after it and as embeddings.
fn memory(mapped: &[Mapped], hidden: usize) -> u64 {
    let layer = mapped.iter().filter(|m| m.spec.layer == Some(0));
    let weights: usize = layer.map(|m| m.spec.rows * m.spec.cols).sum();
    2 * 4 * weights as u64 + 4 * 4 * hidden as u64
}

/// Adds the magnitudes of what is seen of a text, row by row.
fn add(seen: &mut Vec<(Site, Vec<f64>)>, now: &Observed<'_>) {
    let at = seen.iter().position(|s| s.0 == now.site);
    let at = at.unwrap_or_else(|| {
        seen.push((now.site, vec![0.0; now.width]));
        seen.len() - 1
    });
    for row in now.rows() {
        for (sum, &x) in seen[at].1.iter_mut().zip(row) {
            *sum += f64::from(x.abs());
        }
    }
}
