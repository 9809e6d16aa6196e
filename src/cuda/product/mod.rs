//! A product: what is asked for, who multiplies, a plan, its run.
//!
//! ```text
//!   problem      shape, operands' kinds, epilogue         instance    kernel, tile and split by one name
//!   candidates   who could multiply, what models say      choose      who does, and why
//!   plan         everything decided                       autotune    measured instead, by a job; cache keeps it in a file
//!   decide       a plan from a problem, by either          heuristic   by the models alone
//!   checked      what a run reads and writes              run         its launches      plans   kept for the next call
//! ```

mod autotune;
mod cache;
mod candidates;
mod checked;
mod choose;
mod decide;
mod heuristic;
mod instance;
mod job;
mod plan;
mod plans;
mod problem;
mod run;

pub use autotune::{tune, Tuning, TuningProgress};
pub use cache::{CacheKey, ChoiceCache, Measured};
pub use candidates::Prediction;
pub use checked::{DeviceLhs, Operands, WeightsView};
pub use instance::{Algorithm, Instance};
pub use plan::Plan;
pub use problem::{Input, Problem};

pub(super) use checked::ScalesView;
pub(super) use plans::Plans;
pub(super) use problem::PAD;
