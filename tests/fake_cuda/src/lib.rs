//! A strict emulated CUDA driver: answers the driver API and interprets PTX.
//!
//! Data goes one way: [`ptx`] turns text into a typed program, [`exec`] runs it on [`memory`] as
//! the machine that [`device`] describes. The C ABI in front of them lives in modules of its own.
pub mod device;
pub mod exec;
pub mod memory;
pub mod ptx;
