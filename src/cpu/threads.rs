//! Who runs the tasks: the calling thread alone, rayon's current pool, or a pool of one's own.

use rayon::prelude::*;
use std::sync::Arc;

/// A number of threads and where they come from.
#[derive(Clone)]
pub(crate) enum Threads {
    /// Rayon's current pool, whatever its size.
    Ambient,
    /// The calling thread.
    One,
    /// A pool of this backend's own.
    Pool(Arc<rayon::ThreadPool>),
}

impl Threads {
    pub fn count(&self) -> usize {
        match self {
            Threads::Ambient => rayon::current_num_threads(),
            Threads::One => 1,
            Threads::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Runs `f(0)..f(tasks - 1)`, on the calling thread when one worker is enough.
    pub fn run(&self, workers: usize, tasks: usize, f: impl Fn(usize) + Sync) {
        if workers <= 1 || tasks <= 1 {
            (0..tasks).for_each(f);
            return;
        }
        let work = || (0..tasks).into_par_iter().with_max_len(1).for_each(&f);
        match self {
            Threads::Pool(pool) => pool.install(work),
            _ => work(),
        }
    }

    /// Runs `f(i, item)` for each item, which it owns.
    pub fn run_each<T: Send>(&self, workers: usize, items: Vec<T>, f: impl Fn(usize, T) + Sync) {
        if workers <= 1 || items.len() <= 1 {
            items
                .into_iter()
                .enumerate()
                .for_each(|(i, item)| f(i, item));
            return;
        }
        let work = || {
            items
                .into_par_iter()
                .with_max_len(1)
                .enumerate()
                .for_each(|(i, item)| f(i, item))
        };
        match self {
            Threads::Pool(pool) => pool.install(work),
            _ => work(),
        }
    }
}
