//! Buffers that all workers of a pass see, each element with one writer at a time.
//!
//! Why this is sound although its methods are safe:
//!
//! 1. A [`View`] is made from a `&mut [T]` that it borrows, so nobody outside the pass sees the
//!    elements, and it belongs to one [`Pass`], which runs once.
//! 2. [`Pass::run`] gives each worker of the team one [`Turn`], which cannot be cloned. A turn knows
//!    its worker, its step and its layer. It comes to the next step only by [`Turn::advance`], when
//!    all workers have met at the barrier; so all turns are in the same step, but for those that
//!    learned of a poisoned barrier: they may touch nothing any more.
//! 3. What a step may do with a buffer, and which elements belong to whom, is
//!    [`Shape::access`] and [`Shape::units`]: functions of the shape, the step and the worker alone,
//!    so the same for all turns. In one step a buffer is either only read, or every element belongs
//!    to at most one worker (tested over all steps and many shapes), and [`Part`] checks every access.
//! 4. What `read` and `part` return borrows the turn, `advance` borrows it mutably: no reference
//!    outlives its step. `part` gives a buffer once a step, and [`Part`] lends one piece at a time.

#![allow(unsafe_code)]

use std::{
    cell::Cell,
    marker::PhantomData,
    ops::Range,
    slice,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::backend::cpu::{
    schedule::{Access, Buf, Grid, Shape, Step, Units},
    team::{Member, Poisoned, Team, TeamError},
};

/// One walk of a team through all steps.
#[derive(Debug)]
pub(crate) struct Pass {
    shape: Shape,
    has_run: AtomicBool,
}

/// A buffer of a pass.
#[derive(Debug)]
pub(crate) struct View<'p, T> {
    pass: &'p Pass,
    buf: Buf,
    start: *mut T,
    len: usize,
    _borrows: PhantomData<&'p mut [T]>,
}

// SAFETY: a view gives references to its elements only through `Turn`; see the module's text. They
// go to other threads, shared (`Sync`) and exclusive (`Send`).
unsafe impl<T: Send + Sync> Sync for View<'_, T> {}

/// A worker's place in a pass.
#[derive(Debug)]
pub(crate) struct Turn<'p> {
    pass: &'p Pass,
    member: Member<'p>,
    step: Step,
    layer: usize,
    /// Bits of the buffers whose part was given out in this step.
    taken: Cell<u32>,
}

/// What belongs to one worker of a buffer in one step.
#[derive(Debug)]
pub(crate) struct Part<'t, T> {
    start: *mut T,
    len: usize,
    grid: Grid,
    units: Units,
    _borrows: PhantomData<&'t mut [T]>,
}

impl Pass {
    /// A pass of this shape.
    pub(crate) const fn new(shape: Shape) -> Self {
        Self {
            shape,
            has_run: AtomicBool::new(false),
        }
    }

    /// Its shape.
    pub(crate) const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Makes `elements` a buffer of the pass.
    ///
    /// # Panics
    ///
    /// If it is shorter than the shape needs.
    pub(crate) fn view<'p, T>(&'p self, buf: Buf, elements: &'p mut [T]) -> View<'p, T> {
        let (len, need) = (elements.len(), self.shape.len(buf));
        assert!(
            len >= need,
            "{buf:?} has {len} elements, the pass needs {need}"
        );
        View {
            pass: self,
            buf,
            start: elements.as_mut_ptr(),
            len,
            _borrows: PhantomData,
        }
    }

    /// Runs `job` on every worker of `team`.
    ///
    /// # Errors
    ///
    /// If a worker panicked.
    ///
    /// # Panics
    ///
    /// If the pass has run before or was made for another number of workers.
    pub(crate) fn run(
        &self,
        team: &mut Team,
        job: impl Fn(Turn<'_>) + Sync,
    ) -> Result<(), TeamError> {
        assert_eq!(
            team.n_threads(),
            self.shape.n_workers,
            "workers of the pass"
        );
        assert!(
            !self.has_run.swap(true, Ordering::Relaxed),
            "a pass runs once"
        );
        team.run(|member| {
            job(Turn {
                pass: self,
                member,
                step: self.shape.first_step(),
                layer: 0,
                taken: Cell::new(0),
            });
        })
    }
}

impl Turn<'_> {
    /// The step that all workers are in.
    pub(crate) const fn step(&self) -> Step {
        self.step
    }

    /// Whether this is the worker that speaks for all.
    pub(crate) fn is_first(&self) -> bool {
        self.member.index() == 0
    }

    /// The worker's units of this step.
    pub(crate) fn units(&self) -> Units {
        self.pass.shape.units(self.step, self.member.index())
    }

    /// Waits until all workers are done with this step and goes on to the next.
    ///
    /// # Errors
    ///
    /// If a worker panicked; this turn is over then.
    pub(crate) fn advance(&mut self) -> Result<(), Poisoned> {
        self.taken.set(0);
        let met = self.member.meet();
        (self.step, self.layer) = match met {
            Ok(()) => self.pass.shape.next(self.step, self.layer),
            Err(Poisoned) => (Step::End, self.layer),
        };
        met
    }

    fn access<T>(&self, view: &View<'_, T>) -> Access {
        assert!(
            std::ptr::eq(self.pass, view.pass),
            "{:?} is of another pass",
            view.buf
        );
        self.pass.shape.access(self.step, view.buf)
    }

    /// All of a buffer that this step only reads.
    ///
    /// # Panics
    ///
    /// If this step may not read it as a whole.
    pub(crate) fn read<'t, T>(&'t self, view: &View<'t, T>) -> &'t [T] {
        let access = self.access(view);
        assert!(
            access == Access::Read,
            "{:?} is not read in {:?}",
            view.buf,
            self.step
        );
        // SAFETY: the elements are borrowed by the view for longer than `'t`; in this step, which
        // `'t` does not outlive, every worker only reads them.
        unsafe { slice::from_raw_parts(view.start, view.len) }
    }

    /// This worker's part of a buffer that this step writes.
    ///
    /// # Panics
    ///
    /// If this step may not write it, or the part was given out in this step before.
    pub(crate) fn part<'t, T>(&'t self, view: &View<'t, T>) -> Part<'t, T> {
        let Access::Write(grid) = self.access(view) else {
            panic!("{:?} is not written in {:?}", view.buf, self.step);
        };
        self.take(view.buf);
        Part {
            start: view.start,
            len: view.len,
            grid,
            units: self.units(),
            _borrows: PhantomData,
        }
    }

    /// This worker's own element of a buffer.
    ///
    /// # Panics
    ///
    /// If the buffer has no such elements, or it was given out in this step before.
    pub(crate) fn own<'t, T>(&'t self, view: &View<'t, T>) -> &'t mut T {
        assert!(
            self.access(view) == Access::Own,
            "{:?} has no elements of workers",
            view.buf
        );
        self.take(view.buf);
        let index = self.member.index();
        assert!(index < view.len, "{:?} has no element {index}", view.buf);
        // SAFETY: in bounds; element `index` belongs to this worker alone in every step, it is given
        // out once in this step, and the reference does not outlive the step.
        unsafe { &mut *view.start.add(index) }
    }

    fn take(&self, buf: Buf) {
        let taken = self.taken.get();
        assert!(
            taken & buf.bit() == 0,
            "{buf:?} was taken in this step before"
        );
        self.taken.set(taken | buf.bit());
    }
}

impl<T> Part<'_, T> {
    /// Columns `cols` of row `row`.
    ///
    /// # Panics
    ///
    /// If one of them belongs to another worker, or leaves the buffer.
    pub(crate) fn row(&mut self, row: usize, cols: Range<usize>) -> &mut [T] {
        let Range { start, end } = cols;
        assert!(
            start <= end && end <= self.grid.cols,
            "columns {start}..{end} of {:?}",
            self.grid
        );
        if start == end {
            return &mut [];
        }
        let (first, last) = (self.grid.unit(row, start), self.grid.unit(row, end - 1));
        // The units of a row's columns are neighbours: the first and the last speak for all.
        let mine = self.units.contains(first)
            && (first == last || self.units.are_neighbours() && self.units.contains(last));
        assert!(
            mine,
            "columns {start}..{end} of row {row} belong to another worker"
        );
        let offset = row
            .checked_mul(self.grid.stride)
            .and_then(|o| o.checked_add(start));
        let fits = |o: &usize| {
            o.checked_add(end - start)
                .is_some_and(|end| end <= self.len)
        };
        let offset = offset.filter(fits);
        let offset = offset.unwrap_or_else(|| panic!("row {row} leaves the buffer"));
        // SAFETY: in bounds; the elements belong to this worker alone in this step, which the borrow of `self` does not
        // outlive; this is the only part of the buffer that the worker has, and the result borrows
        // it mutably.
        unsafe { slice::from_raw_parts_mut(self.start.add(offset), end - start) }
    }
}

#[cfg(test)]
mod tests {
    use chaski_models::forward::kv::KvGeometry;
    use chaski_quant::scalar::attention::KvType;

    use super::*;
    use crate::backend::cpu::schedule::{AttendBy, Begin};

    fn shape(n_workers: usize) -> Shape {
        Shape {
            begin: Begin::Tokens,
            n_workers,
            n_rows: 3,
            n_head_rows: 0,
            attend: AttendBy::Rows { block_rows: 1 },
            dim: 64,
            ffn_dim: 96,
            n_heads: 4,
            vocab_size: 10,
            kv: KvGeometry {
                kv_type: KvType::F32,
                n_layers: 1,
                n_kv_heads: 2,
                head_dim: 16,
            },
            n_pages: 1,
            observed: false,
            rounded: false,
        }
    }

    /// What the team says of a job that panics in every worker.
    fn panic_of(job: impl Fn(&mut Turn<'_>, &View<'_, f32>, &View<'_, f32>) + Sync) -> String {
        let mut team = Team::new(2, 2).unwrap();
        let pass = Pass::new(shape(2));
        let (mut x, mut q) = (vec![0.0; 3 * 64], vec![0.0; 3 * 64]);
        let (x, q) = (pass.view(Buf::X, &mut x), pass.view(Buf::Q, &mut q));
        match pass.run(&mut team, |mut turn| job(&mut turn, &x, &q)) {
            Err(TeamError::Panicked { message, .. }) => message,
            other => panic!("expected a panic, got {other:?}"),
        }
    }

    #[test]
    fn every_worker_writes_its_part_and_reads_all_of_it_in_the_next_step() {
        for n_workers in [1, 2, 3, 5] {
            let mut team = Team::new(n_workers, 2).unwrap();
            let mut elements = vec![0.0_f32; 3 * 64];
            let pass = Pass::new(shape(n_workers));
            let x = pass.view(Buf::X, &mut elements);
            pass.run(&mut team, |mut turn| {
                let mut part = turn.part(&x);
                for row in turn.units() {
                    part.row(row, 0..64).fill(row as f32);
                }
                turn.advance().unwrap();
                assert_eq!(turn.step(), Step::NormAttn);
                for (row, x) in turn.read(&x).chunks_exact(64).enumerate() {
                    assert!(x.iter().all(|v| *v == row as f32), "{n_workers} workers");
                }
                while turn.step() != Step::AttnOutput {
                    turn.advance().unwrap();
                }
                let mut part = turn.part(&x);
                for unit in turn.units() {
                    (0..3).for_each(|row| part.row(row, unit * 16..unit * 16 + 16).fill(-1.0));
                }
            })
            .unwrap();
            assert_eq!(elements, [-1.0; 3 * 64]);
        }
    }

    #[test]
    fn whatever_the_schedule_forbids_panics() {
        let said = panic_of(|turn, x, _| drop(turn.read(x).to_vec()));
        assert_eq!(said, "X is not read in Embed");
        let said = panic_of(|turn, _, q| {
            let _ = turn.part(q);
        });
        assert_eq!(said, "Q is not written in Embed");
        let said = panic_of(|turn, x, _| {
            let _ = (turn.part(x), turn.part(x));
        });
        assert_eq!(said, "X was taken in this step before");
        let said = panic_of(|turn, x, _| {
            let mut part = turn.part(x);
            (0..3).for_each(|row| part.row(row, 0..9).fill(0.0));
        });
        assert!(said.ends_with("belong to another worker"), "{said}");
        let said = panic_of(|turn, x, _| turn.part(x).row(0, 60..65).fill(0.0));
        assert!(said.starts_with("columns 60..65"), "{said}");
    }

    #[test]
    fn a_turn_that_met_the_poison_may_touch_nothing() {
        let mut team = Team::new(2, 2).unwrap();
        let pass = Pass::new(shape(2));
        let mut x = vec![0.0_f32; 3 * 64];
        let x = pass.view(Buf::X, &mut x);
        let result = pass.run(&mut team, |mut turn| {
            assert!(turn.units().contains(0), "the first panic");
            assert_eq!(turn.advance(), Err(Poisoned));
            assert_eq!(turn.step(), Step::End);
            assert_eq!(turn.access(&x), Access::None);
        });
        assert!(
            matches!(result, Err(TeamError::Panicked { worker: 1, .. })),
            "{result:?}"
        );
    }

    #[test]
    #[should_panic(expected = "a pass runs once")]
    fn a_pass_runs_once() {
        let mut team = Team::new(1, 1).unwrap();
        let pass = Pass::new(shape(1));
        pass.run(&mut team, |_| ()).unwrap();
        let _ = pass.run(&mut team, |_| ());
    }

    #[test]
    #[should_panic(expected = "X has 191 elements, the pass needs 192")]
    fn a_buffer_that_is_too_short_is_refused() {
        Pass::new(shape(1)).view(Buf::X, &mut [0.0_f32; 3 * 64 - 1]);
    }
}
