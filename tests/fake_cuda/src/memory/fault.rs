//! What can go wrong with one access.
use thiserror::Error;

/// A refused access, allocation or release.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MemoryFault {
    /// No allocation holds all the bytes.
    #[error("out of bounds: {bytes} bytes at {addr:#x}{near}")]
    OutOfBounds {
        /// First byte of the access.
        addr: u64,
        /// Length of the access.
        bytes: u64,
        /// Where the nearest allocation lies, as text; empty if there is none.
        near: Box<str>,
    },
    /// The bytes were part of an allocation that has been freed.
    #[error(
        "use after free: {bytes} bytes at {addr:#x}, in the freed allocation {base:#x}+{size}"
    )]
    UseAfterFree {
        /// First byte of the access.
        addr: u64,
        /// Length of the access.
        bytes: u64,
        /// Base of the freed allocation.
        base: u64,
        /// Its size.
        size: u64,
    },
    /// A byte that nobody has written was read.
    #[error("uninitialised read: {bytes} bytes at {addr:#x}")]
    Uninitialised {
        /// First byte of the access.
        addr: u64,
        /// Length of the access.
        bytes: u64,
    },
    /// The address is no multiple of the access size.
    #[error("misaligned: {bytes}-byte access at {addr:#x}")]
    Misaligned {
        /// First byte of the access.
        addr: u64,
        /// Required alignment.
        bytes: u64,
    },
    /// `free` of an address that is no allocation's base.
    #[error("free of {addr:#x}, which is not the base of a live allocation")]
    BadFree {
        /// The address given.
        addr: u64,
    },
    /// The device has not that much memory left.
    #[error("out of memory: {bytes} bytes asked, {free} free")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes left.
        free: u64,
    },
    /// An allocation of zero bytes.
    #[error("allocation of zero bytes")]
    ZeroSize,
}
