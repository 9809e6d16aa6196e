//! Kernels by name, each tied to the parameters that it takes.
//!
//! A family `F` is the entries of one `cuda/*.cu` that take the same parameters. An entry can't be launched with another
//! family's:
//!
//! ```compile_fail,E0308
//! use imma::cuda::launch_contract::{Entry, Peak, QuantizeRows};
//! const ENTRY: Entry<Peak> = Entry::new("peak_mma_s8");
//! // An entry of the family QuantizeRows takes QuantizeRowsParams.
//! let entry: Entry<QuantizeRows> = ENTRY;
//! ```
//!
//! nor can a name be made an entry of a family whose names begin otherwise:
//!
//! ```compile_fail,E0080
//! use imma::cuda::launch_contract::{Entry, QuantizeRows};
//! const ENTRY: Entry<QuantizeRows> = Entry::new("peak_mma_s8");
//! # let _ = ENTRY;
//! ```

use crate::element::DType;
use std::ffi::c_void;
use std::marker::PhantomData;

/// Kernels that take the same parameters.
pub trait Family {
    /// What each of them takes, by value.
    type Params: Arguments;
    /// How their names begin.
    const PREFIX: &'static str;
}

/// The name of a kernel, as one of its family.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<F> {
    name: &'static str,
    family: PhantomData<fn(F)>,
}

impl<F> Clone for Entry<F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Entry<F> {}

impl<F: Family> Entry<F> {
    /// An entry of that name, which must begin as the family's do: in a constant that is checked when it is compiled.
    pub const fn new(name: &'static str) -> Self {
        let (name_bytes, prefix) = (name.as_bytes(), F::PREFIX.as_bytes());
        assert!(name_bytes.len() > prefix.len());
        let mut i = 0;
        while i < prefix.len() {
            assert!(name_bytes[i] == prefix[i], "an entry of another family");
            i += 1;
        }
        Entry {
            name,
            family: PhantomData,
        }
    }

    /// The name of the kernel.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Of the entries for f32, f16 and bf16 that for a type.
    pub(in crate::cuda) fn by_type(dtype: DType, entries: [Self; 3]) -> Self {
        match dtype {
            DType::F16 => entries[1],
            DType::BF16 => entries[2],
            // Floats alone get here: the trait of their elements is sealed to three types.
            _ => entries[0],
        }
    }
}

/// What a kernel takes by value: one parameter, or several in order.
///
/// # Safety
/// `pointers` gives the address, inside `self`, of each of the kernel's parameters, in order and of its very type.
pub unsafe trait Arguments {
    /// Where each parameter lies.
    fn pointers(&self) -> [*mut c_void; 4];
}

/// Where the one parameter lies of a kernel that has one.
pub(in crate::cuda) fn one<P>(params: &P) -> [*mut c_void; 4] {
    let mut pointers = [std::ptr::null_mut(); 4];
    pointers[0] = (&raw const *params).cast_mut().cast();
    pointers
}
