//! Plans that were made, kept for the next call of the same kind.

use super::instance::Algorithm;
use super::plan::{Core, Plan};
use super::problem::Problem;
use crate::cuda::runtime::Device;
use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Plans at most: those of batch sizes that come and go, a few types each.
const MOST: usize = 64;

/// The plans of a layer or a device by problem and algorithm, the last used first; those that were not used for long go.
#[derive(Debug, Default)]
pub(in crate::cuda) struct Plans(Mutex<Vec<(Algorithm, Arc<Core>)>>);

impl Plans {
    /// The plan for a problem, made where it is not there yet.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn get(&self, device: &Device, problem: Problem, algorithm: Algorithm) -> Result<Plan> {
        if let Some(core) = self.known(&problem, algorithm) {
            return Ok(Plan {
                device: device.arc(),
                core,
            });
        }
        // Made without the lock: measuring takes its time. Another thread may make the same; either serves.
        let plan = Plan::new(device, problem, algorithm)?;
        let mut plans = self.lock();
        plans.insert(0, (algorithm, plan.core.clone()));
        plans.truncate(MOST);
        Ok(plan)
    }

    fn known(&self, problem: &Problem, algorithm: Algorithm) -> Option<Arc<Core>> {
        let mut plans = self.lock();
        let same =
            |(by, core): &(Algorithm, Arc<Core>)| *by == algorithm && core.problem == *problem;
        let at = plans.iter().position(same)?;
        plans[..=at].rotate_right(1);
        Some(plans[0].1.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Algorithm, Arc<Core>)>> {
        // Entries are put in and moved whole, so a panic elsewhere leaves the list whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
