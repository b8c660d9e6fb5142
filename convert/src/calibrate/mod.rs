//! Watching the source model read a text, and quantising with what was seen.
//!
//! The source is run layer by layer, with one layer's weights in memory. What enters its matrices
//! gives the second moments of each matrix's input; their factors are the
//! [`Feedback`](chaski_quant::quantize::Feedback) that the layer is quantised with before the next
//! one is run. The tiles wait in a [`Spill`] until the file is written in its own order: a tied
//! output matrix is the first tensor of the file and the last to be seen.

mod moments;
pub(crate) mod slice;
mod text;

use std::path::Path;

use chaski_models::{
    forward::{Observed, Site},
    tensors::Role,
};
use chaski_quant::quantize::TileStats;

use crate::{
    error::ConvertError,
    inputs,
    mapping::{self, Mapped},
    pipeline::{
        Limits, go_on,
        schedule::{Shape, schedule_range},
        spill::Spill,
        tiles::Tiler,
    },
    plan::ConvertPlan,
    progress::{Event, Progress},
    runner::{ModelRunner, Products},
    source::Source,
};
use moments::Moments;
use slice::Slice;

pub use text::{Calibration, CalibrationError};

/// What is added to the mean square of every column, as a share of it.
const DAMPING: f64 = 0.2;

/// The inputs of a layer's matrices.
const SITES: [Site; 4] = [Site::Qkv, Site::AttnOutput, Site::GateUp, Site::Down];

/// The matrices that multiply what is seen at a site; of the head, where embeddings are tied.
pub(crate) fn roles(site: Site, tied: bool) -> &'static [Role] {
    match site {
        Site::Layer => &[],
        Site::Qkv => &[Role::AttnQ, Role::AttnK, Role::AttnV],
        Site::AttnOutput => &[Role::AttnOut],
        Site::GateUp => &[Role::FfnGate, Role::FfnUp],
        Site::Down => &[Role::FfnDown],
        Site::Head if tied => &[Role::TokenEmbd],
        Site::Head => &[Role::Output],
    }
}

/// A calibrated conversion of a source.
pub(crate) struct Calibrate<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) plan: &'a ConvertPlan,
    pub(crate) limits: Limits,
    pub(crate) progress: &'a dyn Progress,
}

impl Calibrate<'_> {
    /// Quantises every matrix whose input is seen; the tiles are kept in `folder`.
    pub(crate) fn run(
        &self,
        calibration: &Calibration,
        runner: &mut dyn ModelRunner,
        folder: &Path,
    ) -> Result<Spill, ConvertError> {
        let mapped = mapping::map(self.source)?.tensors;
        let texts = inputs::texts(self.source, calibration)?;
        let lens: Vec<_> = texts.iter().map(Vec::len).collect();
        let mut hidden =
            inputs::embeddings(self.source, &mapped, &self.plan.config, &texts.concat())?;
        let pool = self.limits.pool()?;
        let products = runner.products();
        let mut spill = Spill::new(folder, &self.plan.inner.data)?;
        let config = &self.plan.config;
        let steps = config.n_layers + 1;
        let memory = self.memory(hidden.len());
        self.tell(0, steps, memory)?;
        for layer in 0..config.n_layers {
            let is_last = layer + 1 == config.n_layers;
            let norm = if is_last {
                inputs::rows(self.source, inputs::tensor(&mapped, Role::OutputNorm), 0..1)?
            } else {
                vec![1.0; config.dim]
            };
            let slice = Slice::new(self.source, config, &mapped, layer, &hidden, &norm);
            let file = slice.file(self.limits)?;
            let mut seen: Vec<(Site, Moments)> = SITES
                .into_iter()
                .chain(is_last.then_some(Site::Head))
                .map(|site| (site, Moments::new(self.width(site))))
                .collect();
            let mut rows = Vec::new();
            let mut not_finite = None;
            let ran = runner.observe(file, &lens, is_last, &mut |_, now: Observed<'_>| {
                let Some((site, moments)) = seen.iter_mut().find(|s| s.0 == now.site) else {
                    return;
                };
                rows.clear();
                now.rows().for_each(|row| rows.extend_from_slice(row));
                if rows.iter().any(|x| !x.is_finite()) {
                    not_finite.get_or_insert(*site);
                }
                moments.add(&*products, &rows);
            });
            // Before the runner's error, which follows from it.
            if let Some(site) = not_finite {
                let site = inputs::place(site, layer);
                return Err(CalibrationError::NotFinite { site }.into());
            }
            ran.map_err(CalibrationError::Runner)?;
            drop(rows);
            for (site, moments) in seen {
                let layer = (site != Site::Head).then_some(layer);
                self.quantise(&mut spill, &pool, &*products, &mapped, site, layer, moments)?;
            }
            // What the next layer sees is what the quantised layers make of the text, so that it can
            // make up for them.
            let file = slice.file_with(self.limits, layer, self.plan, &mapped, &spill, folder)?;
            let ran = runner.observe(file, &lens, false, &mut |_, _| ());
            hidden = ran.map_err(CalibrationError::Runner)?;
            inputs::check_states(&hidden, || inputs::behind(layer, config))?;
            self.tell(layer + 1, steps, memory)?;
        }
        self.tell(steps, steps, memory)?;
        Ok(spill)
    }

    fn tell(&self, done: usize, of: usize, memory: u64) -> Result<(), ConvertError> {
        go_on(self.progress.event(Event::Calibrate { done, of, memory }))
    }

    /// Numbers of a row at a site.
    fn width(&self, site: Site) -> usize {
        let c = &self.plan.config;
        match site {
            Site::AttnOutput => c.q_dim(),
            Site::Down => c.ffn_dim,
            _ => c.dim,
        }
    }

    /// Bytes that are held at most beside what any conversion holds.
    fn memory(&self, hidden: usize) -> u64 {
        let moments: u64 = SITES.map(|s| Moments::bytes(self.width(s))).iter().sum();
        let widest = SITES.map(|s| self.width(s)).into_iter().max().unwrap_or(0);
        let layer: u64 = self
            .plan
            .tensors
            .iter()
            .filter(|t| t.name.starts_with("blk.0."))
            .map(|t| t.source_bytes.max(2 * t.n_weights()))
            .sum();
        // The update of a factorisation and the feedback come when the other moments may still be
        // there; hidden states are there before and after, and as embeddings.
        moments
            + Moments::bytes(widest)
            + chaski_quant::quantize::Feedback::bytes(widest)
            + 2 * layer
            + 4 * 4 * hidden as u64
    }

    /// Quantises the matrices of a site.
    #[expect(clippy::too_many_arguments, reason = "where, what and with what")]
    fn quantise(
        &self,
        spill: &mut Spill,
        pool: &rayon::ThreadPool,
        products: &dyn Products,
        mapped: &[Mapped],
        site: Site,
        layer: Option<usize>,
        moments: Moments,
    ) -> Result<(), ConvertError> {
        let work = &self.plan.inner.work[..];
        let feedback = moments.feedback(products, DAMPING).map_err(|cause| {
            let tensor = site.to_string();
            ConvertError::Quantize { tensor, cause }
        })?;
        let tiler =
            Tiler::new(self.source, &self.plan.tensors, work, pool).with_feedback(&feedback);
        let roles = roles(site, self.plan.config.tied_embeddings);
        let is_here = |i: usize| {
            let spec = &mapped[i].spec;
            roles.contains(&spec.role) && spec.layer == layer
        };
        let mut stats = vec![TileStats::default(); self.plan.tensors.len()];
        let (mut raw, mut tiles) = (Vec::new(), Vec::new());
        let mut next = 0;
        while next < work.len() {
            let first = next;
            next += 1;
            if !is_here(first) || !self.plan.tensors[first].qtype.is_quantized() {
                continue;
            }
            if let Shape::Matrix { paired: true, .. } = work[first].shape {
                next += 1;
            }
            for chunk in schedule_range(work, first..next, self.limits.chunk) {
                raw.clear();
                for segment in &chunk {
                    let index = self.plan.tensors[segment.tensor].source;
                    self.source
                        .read_raw(index, segment.rows.clone(), &mut raw)?;
                }
                tiler.run(&chunk, &raw, &mut tiles, &mut stats)?;
                spill.put(work, &chunk, &tiles)?;
            }
            for tensor in first..next {
                spill.complete(tensor, stats[tensor]);
            }
        }
        Ok(())
    }
}
