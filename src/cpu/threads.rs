//! Who runs the tasks: the calling thread alone, rayon's current pool, or a pool of one's own.

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Most threads of a pool for each CPU. More than one gains nothing; a few leave room for tests and for numbers that were meant for
/// a larger machine, and without a bound a slip of the keyboard takes the machine down.
const PER_CPU: usize = 8;

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
    /// The calling thread for 1, else a pool of that many.
    ///
    /// # Errors
    /// [`Error::Value`] for none, for more than [`PER_CPU`] for each CPU that this process may use, and when the system refuses to
    /// start them.
    pub fn new(threads: usize) -> Result<Self> {
        let refuse = |expected: String| Error::Value {
            what: "the number of threads",
            found: threads.to_string(),
            expected,
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let most = cpus.saturating_mul(PER_CPU);
        match threads {
            0 => Err(refuse("at least 1".into())),
            1 => Ok(Threads::One),
            n if n > most => Err(refuse(format!(
                "at most {most}, which is {PER_CPU} for each CPU and {cpus} of them here"
            ))),
            n => rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .thread_name(|i| format!("imma-{i}"))
                .build()
                .map(|pool| Threads::Pool(Arc::new(pool)))
                .map_err(|e| refuse(format!("a number the system can start ({e})"))),
        }
    }

    pub fn count(&self) -> usize {
        match self {
            Threads::Ambient => rayon::current_num_threads(),
            Threads::One => 1,
            Threads::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Runs `f(0)..f(tasks - 1)`, on the calling thread when one worker is enough.
    ///
    /// One function for all tasks: rayon's machinery, compiled anew for each of the hundreds of products, was half of the crate.
    pub fn run(&self, workers: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        if workers <= 1 || tasks <= 1 {
            (0..tasks).for_each(f);
            return;
        }
        let work = || (0..tasks).into_par_iter().with_max_len(1).for_each(f);
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
        // Each is taken once, by the task of its number.
        let items: Vec<_> = items.into_iter().map(|x| Mutex::new(Some(x))).collect();
        self.run(workers, items.len(), &|i| {
            let item = items[i]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(item) = item {
                f(i, item);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_as_the_bound_and_not_one_more() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let most = cpus * PER_CPU;
        assert_eq!(Threads::new(1).unwrap().count(), 1);
        assert_eq!(Threads::new(most).unwrap().count(), most);
        for (threads, parts) in [
            (0, ["is 0", "at least 1"].map(String::from)),
            (
                most + 1,
                [format!("is {}", most + 1), format!("at most {most},")],
            ),
            (
                1_000_000_000,
                ["is 1000000000".into(), format!("{cpus} of them")],
            ),
            (
                usize::MAX,
                [format!("is {}", usize::MAX), format!("at most {most},")],
            ),
        ] {
            let Err(error) = Threads::new(threads) else {
                panic!("{threads} threads were started");
            };
            let message = error.to_string();
            for part in parts {
                assert!(message.contains(&part), "'{part}' is not in: {message}");
            }
        }
    }
}
