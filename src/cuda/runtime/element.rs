//! Numbers that lie in device memory.

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for i32 {}
    impl Sealed for i8 {}
    impl Sealed for u8 {}
}

/// A number that lies in device memory and of which every bit pattern is one. Sealed.
pub trait OutputElement: sealed::Sealed + Copy + Default + DeviceRepr + ValidAsZeroBits {}
impl<T: sealed::Sealed + Copy + Default + DeviceRepr + ValidAsZeroBits> OutputElement for T {}
