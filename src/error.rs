//! The one error type of the crate: each message names what was found and what was expected.

use crate::element::DType;

/// What a call of this crate can answer instead of a result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused. Nothing has been computed or written when one of these comes back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two operands do not fit together.
    #[error("{op}: shapes {lhs:?} and {rhs:?} do not fit: {expected}")]
    ShapeMismatch {
        /// The function that was called.
        op: &'static str,
        /// Shape of the left operand.
        lhs: Vec<usize>,
        /// Shape of the right operand.
        rhs: Vec<usize>,
        /// What would have fitted.
        expected: String,
    },
    /// One argument has the wrong number of dimensions.
    #[error("{op}: {what} has shape {found:?}, expected {expected}")]
    Shape {
        /// The function that was called.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What was expected.
        expected: String,
    },
    /// A vector that belongs to the rows or columns of a product has the wrong length.
    #[error("{what} has {found} elements, expected {expected}")]
    Length {
        /// Which vector.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that was expected.
        expected: usize,
    },
    /// The contracted dimension is too long for exact int32 sums.
    #[error("K = {found} is too long for exact int32 sums: at most {limit} for {operands}")]
    KTooLong {
        /// The contracted dimension.
        found: usize,
        /// The largest one that is exact.
        limit: usize,
        /// Which operands the limit is for.
        operands: &'static str,
    },
    /// An argument's value makes no sense.
    #[error("{what} is {found}, expected {expected}")]
    Value {
        /// Which argument.
        what: &'static str,
        /// What it was.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// There is no memory for the result, or for what it is made with.
    #[error("{op}: {what} takes {bytes} bytes, more than {}", there_is(*free))]
    Memory {
        /// The function that was called.
        op: &'static str,
        /// What takes the memory.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// Bytes that were free, where the system says so.
        free: Option<u64>,
    },
    /// Parts of an epilogue contradict each other.
    #[error("epilogue: {what} with {output} output: {expected}")]
    Epilogue {
        /// The part that does not fit.
        what: &'static str,
        /// The output type asked for.
        output: DType,
        /// What would have fitted.
        expected: &'static str,
    },
    /// Weights were packed for one kernel and given to another.
    #[error("weights were packed for layout '{found}', this backend reads '{expected}': pack them with this backend")]
    PackedElsewhere {
        /// The layout they carry.
        found: String,
        /// The layout that was expected.
        expected: String,
    },
    /// A kernel or backend that this machine or build does not have.
    #[error("{what} '{found}' is not available here: {expected}")]
    Unavailable {
        /// What kind of thing was asked for.
        what: &'static str,
        /// Its name.
        found: String,
        /// Which ones are there, or how to get it.
        expected: String,
    },
    /// Ranks that work on one layer do not fit together, or one of them failed.
    #[error("rank {rank} of {ranks}: {what}")]
    Group {
        /// The rank that says so.
        rank: usize,
        /// How many there are.
        ranks: usize,
        /// What happened, with the ranks that it happened to.
        what: String,
    },
    /// The CUDA driver refused a call.
    #[error("{call}: CUDA error {code} ({name})")]
    Cuda {
        /// The driver's function.
        call: &'static str,
        /// Its result.
        code: u32,
        /// The result's name.
        name: String,
    },
}

/// The memory that there is, after "more than".
fn there_is(free: Option<u64>) -> String {
    free.map_or("can be allocated here".into(), |free| {
        format!("the {free} bytes that are free")
    })
}
