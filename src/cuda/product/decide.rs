//! A plan from a problem: who multiplies is asked, measured or looked up.

use super::autotune;
use super::choose::choose;
use super::instance::Algorithm;
use super::plan::Plan;
use super::problem::Problem;
use crate::cuda::kernels::igemm_sm90;
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
        let choice = match algorithm {
            Algorithm::Autotuned => autotune::choice(device, &problem)?,
            _ => {
                let has_sm90 = igemm_sm90::available(device).is_ok();
                choose(&problem, algorithm, device.properties(), has_sm90)
            }
        };
        Self::with_choice(device, problem, choice)
    }
}
