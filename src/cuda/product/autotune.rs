//! The fastest instance for a product, measured once a shape and remembered in a file.

use super::cache::{CacheKey, ChoiceCache, Measured};
use super::candidates::Ours;
use super::choose::{asked, choose, Choice, Kernels, Reason};
use super::heuristic::heuristic;
use super::instance::Instance;
use super::job::Job;
use super::plan::Plan;
use super::problem::Problem;
use crate::cuda::runtime::{Device, Sampling};
use crate::error::{Error, Result};
use std::sync::{Mutex, PoisonError};

/// Of the tiles of each kernel, the model's favourites: what [`Algorithm::Autotuned`](super::Algorithm::Autotuned) measures.
const TILES: usize = 6;

/// Samples of a candidate: nine where they are quick.
const SAMPLING: Sampling = Sampling {
    seconds: 0.05,
    least: 3,
    most: 9,
    sample: 1e-3,
};

/// What was measured on a device, read from its file by the first use.
#[derive(Default)]
struct Known(Mutex<Option<ChoiceCache>>);

impl Known {
    /// The cache, read from its file by the first call.
    fn with<R>(&self, device: &Device, use_it: impl FnOnce(&mut ChoiceCache) -> R) -> R {
        let properties = device.properties();
        let read = || match ChoiceCache::path(properties) {
            Some(path) => {
                let (cache, warning) = ChoiceCache::load(&path, properties);
                if let Some(warning) = warning {
                    eprintln!("imma: {warning}");
                }
                cache
            }
            None => ChoiceCache::new(properties),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        use_it(known.get_or_insert_with(read))
    }

    /// What was measured, where its instance can still be had: another release of cuBLASLt may have fewer candidates.
    fn get(&self, device: &Device, problem: &Problem) -> Option<Measured> {
        let measured = self.with(device, |cache| cache.get(&CacheKey::of(problem)))?;
        let plan = Plan::with_choice(device, problem.clone(), asked(measured.instance));
        plan.is_ok().then_some(measured)
    }

    /// Remembers a measurement, and writes the file.
    fn insert(&self, device: &Device, problem: &Problem, measured: Measured) {
        self.with(device, |cache| {
            cache.insert(CacheKey::of(problem), measured);
            let path = ChoiceCache::path(device.properties());
            if let Some(Err(e)) = path.map(|path| cache.save(&path)) {
                eprintln!("imma: the measured choices could not be saved: {e}");
            }
        });
    }
}

/// The choice for a product: from the cache where its answer still holds, else measured and written there.
pub(super) fn choice(device: &Device, problem: &Problem) -> Result<Choice> {
    if problem.shape().outputs() == 0 {
        let kernels = Kernels::of(device);
        return Ok(choose(problem, device.properties(), kernels));
    }
    let Tuning { best, all } = known_or_measured(device, problem, TILES, &mut |_| {})?;
    Ok(Choice {
        instance: best.instance,
        reason: match all.len() {
            0 => Reason::MeasuredEarlier(best.microseconds),
            of => Reason::Measured(best.microseconds, of),
        },
    })
}

/// What [`tune`] found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tuning {
    /// The fastest, and what the heuristic's choice took beside it.
    pub best: Measured,
    /// Every candidate with its median in microseconds, in the order in which they were measured; none where the cache had
    /// the answer.
    pub all: Vec<(Instance, f64)>,
}

/// How far [`tune`] has come with a product.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TuningProgress {
    /// What is measured next.
    pub instance: Instance,
    /// Candidates that are done.
    pub done: usize,
    /// Candidates in all.
    pub of: usize,
}

/// Measures every candidate for a product - all of our tiles that can serve, with the model's split of K and without, and
/// all that cuBLASLt offers - and writes the fastest into the [cache](ChoiceCache) that
/// [`Autotuned`](super::Algorithm::Autotuned) plans read. What the cache has already is answered at once, so that a tuning that was
/// stopped goes on.
///
/// Each candidate is timed as [`time_graph`](crate::cuda::time_graph) does it, over operands that are rotated past the L2
/// cache; the result is a matter of this device, its clocks and its neighbours at this time.
///
/// # Errors
/// Those of [`Plan::new`]; [`Error::Value`] for a product without elements, which has nothing to measure.
pub fn tune(
    device: &Device,
    problem: &Problem,
    progress: &mut dyn FnMut(TuningProgress),
) -> Result<Tuning> {
    problem.check()?;
    if problem.shape().outputs() == 0 {
        let (m, n) = (problem.m, problem.n);
        return Err(Error::Value {
            what: "the product to tune",
            found: format!("an [{m}, {n}] result"),
            expected: "one with elements".into(),
        });
    }
    known_or_measured(device, problem, usize::MAX, progress)
}

/// From the cache where its answer still holds, else measured and written there.
fn known_or_measured(
    device: &Device,
    problem: &Problem,
    tiles: usize,
    progress: &mut dyn FnMut(TuningProgress),
) -> Result<Tuning> {
    let known = device.attached(Known::default);
    if let Some(best) = known.get(device, problem) {
        let all = Vec::new();
        return Ok(Tuning { best, all });
    }
    let tuning = measure(device, problem, tiles, progress)?;
    known.insert(device, problem, tuning.best);
    Ok(tuning)
}

/// Measures the candidates: of the tiles of each kernel so many.
fn measure(
    device: &Device,
    problem: &Problem,
    tiles: usize,
    progress: &mut dyn FnMut(TuningProgress),
) -> Result<Tuning> {
    let first = heuristic(device, problem)?.instance();
    let candidates = candidates(device, problem, first, tiles)?;
    let job = Job::new(device, problem, first)?;
    let mut all = Vec::with_capacity(candidates.len());
    for (done, instance) in candidates.iter().copied().enumerate() {
        let of = candidates.len();
        progress(TuningProgress { instance, done, of });
        all.push((instance, job.measure(device, problem, instance, SAMPLING)?));
    }
    let best = all.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let (instance, microseconds) = *best.expect("the heuristic's choice is among them");
    Ok(Tuning {
        best: Measured {
            instance,
            microseconds,
            // It is measured first.
            heuristic: all[0].1,
        },
        all,
    })
}

/// What is worth measuring, each once: the heuristic's choice, our tiles that the model likes, with and without a split of K,
/// and cuBLASLt's candidates where the library is there.
fn candidates(
    device: &Device,
    problem: &Problem,
    first: Instance,
    tiles: usize,
) -> Result<Vec<Instance>> {
    let ours = Ours::of(problem, device.properties(), Kernels::of(device).sm90);
    let favourites = [&ours.sm90, &ours.sm80]
        .into_iter()
        .flat_map(|kernel| kernel.iter().take(tiles).map(|c| c.instance))
        .flat_map(|instance| [instance, instance.unsplit()]);
    // Those that these operands allow.
    let plan = |instance: Instance| Plan::with_choice(device, problem.clone(), asked(instance));
    let mut all = vec![plan(first)?.instance()];
    let mut add = |plan: Plan| {
        if !all.contains(&plan.instance()) {
            all.push(plan.instance());
        }
    };
    favourites
        .chain(ours.groupwise)
        .filter_map(|instance| plan(instance).ok())
        .for_each(&mut add);
    if let Ok(library) = plan(Instance::CublasLt(0)) {
        (0..library.library_candidates())
            .filter_map(|i| plan(Instance::CublasLt(i)).ok())
            .for_each(&mut add);
    }
    Ok(all)
}
