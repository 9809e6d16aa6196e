//! The ring of `cuda/igemm_sm90.cu` as a model: every interleaving of its producer, its consumers and the copies under
//! way, for small sizes, explored by [stateright].
//!
//! | kernel | here |
//! |---|---|
//! | `mbarrier_init`, `arrive`, `expect_tx`, `try_wait.parity`, `complete_tx` | [`barrier`] |
//! | `igemm`, `init_barriers`, the two barriers of a cluster | [`model`] |
//! | `produce`, `load_tall`, `load_wide` (`ring_sm90.cuh`) | [`producer`] |
//! | `consume`, `multiply`, `release` | [`consumer`] |
//! | `finish_item`, `is_last`, `take_sums` (`finish_item.cuh`, `finish_plain.cuh`) | [`finish`] |
//!
//! Each step names the function it stands for. [`kernel`] reads the instances out of the kernel's own source and holds the
//! model's arithmetic (arrival counts, parities, who waits for what) to the statements it was written from: whoever
//! changes one of them is told which step of the model to look at.
//!
//! What holds in every state: [`model::Wrong`] lists what must never happen, and a state from which nothing can go on
//! is the end of the launch, with counters and sums zero and every tile written once.
//!
//! Left out: what lanes and warps of one warpgroup do among themselves (a warpgroup is one actor), shared memory of the
//! epilogue, and memory order (steps are seen by all in the order in which they happen; of the fences only their place
//! is modelled). The emulated driver's vector clocks look at those.
pub mod barrier;
pub mod config;
pub mod consumer;
pub mod finish;
pub mod kernel;
pub mod model;
pub mod producer;
pub mod state;
