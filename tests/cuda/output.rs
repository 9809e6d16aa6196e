//! What the tests of the GEMMs know of an output type.

use crate::support::same;
use half::{bf16, f16};
use imma::cuda::cudarc::driver::CudaViewMut;
use imma::cuda::{DeviceOutput, OutputElement};
use imma::epilogue::Output;
use imma::reference::Product;
use imma::DType;

/// An output type with how it is asked for, read from the oracle and compared.
pub trait Out: OutputElement + Copy + PartialEq + std::fmt::Debug {
    const TYPE: DType;
    /// The epilogue's last step.
    const OUTPUT: Output;
    /// What the output holds before the launch.
    const POISON: Self;
    /// What lies around it.
    const GAP: Self;
    fn of(product: Product) -> Vec<Self>;
    fn equal(a: Self, b: Self) -> bool;
    fn place(view: CudaViewMut<'_, Self>) -> DeviceOutput<'_>;
}
macro_rules! out {
    ($t:ty, $tag:ident, $output:expr, $poison:expr, $gap:expr, $equal:expr) => {
        impl Out for $t {
            const TYPE: DType = DType::$tag;
            const OUTPUT: Output = $output;
            const POISON: Self = $poison;
            const GAP: Self = $gap;
            fn of(product: Product) -> Vec<Self> {
                match product {
                    Product::$tag(array) => array.into_iter().collect(),
                    other => panic!("the oracle answered {other:?}"),
                }
            }
            fn equal(a: Self, b: Self) -> bool {
                $equal(a, b)
            }
            fn place(view: CudaViewMut<'_, Self>) -> DeviceOutput<'_> {
                DeviceOutput::$tag(view)
            }
        }
    };
}
out!(f32, F32, Output::F32, -77.0, -78.0, same);
out!(f16, F16, Output::F16, f16::NEG_ONE, f16::MAX, same);
out!(bf16, BF16, Output::BF16, bf16::NEG_ONE, bf16::MAX, same);
out!(i32, I32, Output::Raw, -77, -78, |a, b| a == b);
out!(i8, I8, Output::Int8 { scale: 0.037 }, -77, -78, |a, b| a
    == b);
