//! Files as users meet them: outputs that are there whole or not at all, and what a file is by its first bytes.
//!
//! ```text
//!   output      writes beside the target and renames; writes into what is no regular file
//!   signature   recognises files that stand where another kind was expected
//! ```

mod output;
mod signature;

pub(crate) use output::describe;
pub use output::{is_stdout, write, write_seekable, Sink, WriteRefused};
pub(crate) use signature::{of_start, START};
