//! A plan by the models alone.

use super::choose::{choose, Kernels};
use super::plan::Plan;
use super::problem::Problem;
use crate::cuda::runtime::Device;
use crate::error::Result;

/// The plan by the models; by ours alone where the library was chosen and turns out not to serve the product.
pub(super) fn heuristic(device: &Device, problem: &Problem) -> Result<Plan> {
    let by = |kernels| {
        let choice = choose(problem, device.properties(), kernels);
        Plan::with_choice(device, problem.clone(), choice)
    };
    let all = Kernels::of(device);
    by(all).or_else(|error| match all.library {
        true => by(Kernels {
            library: false,
            ..all
        })
        .map_err(|_| error),
        false => Err(error),
    })
}
