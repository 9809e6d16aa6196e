//! A plan from a problem: who multiplies is asked, measured or looked up.

use super::autotune;
use super::choose::asked;
use super::heuristic::heuristic;
use super::instance::Algorithm;
use super::plan::Plan;
use super::problem::Problem;
use crate::cuda::runtime::Device;
use crate::error::Result;

impl Plan {
    /// Decides everything for a product. Allocates nothing on the device and waits for nothing, except that it measures
    /// where the algorithm is [`Autotuned`](Algorithm::Autotuned) and the cache has no answer.
    ///
    /// # Errors
    /// [`Error::Epilogue`](crate::Error::Epilogue) and [`Error::Value`](crate::Error::Value) for parts that contradict each other, [`Error::KTooLong`](crate::Error::KTooLong) when int32
    /// could overflow, [`Error::Unavailable`](crate::Error::Unavailable) for an algorithm that this device does not have.
    pub fn new(device: &Device, problem: Problem, algorithm: Algorithm) -> Result<Self> {
        problem.check()?;
        match algorithm {
            Algorithm::Autotuned => {
                let choice = autotune::choice(device, &problem)?;
                Self::with_choice(device, problem, choice)
            }
            Algorithm::Heuristic => heuristic(device, &problem),
            Algorithm::Instance(instance) => Self::with_choice(device, problem, asked(instance)),
        }
    }
}
