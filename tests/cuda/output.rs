//! What the tests of the GEMMs know of an output type.

use crate::support::same;
use half::{bf16, f16};
use imma::cuda::OutputElement;
use imma::reference::Product;

/// An output type with how it is read from the oracle and compared.
pub trait Out: OutputElement + Copy + PartialEq + std::fmt::Debug {
    /// What the output holds before the launch.
    const POISON: Self;
    /// What lies around it.
    const GAP: Self;
    fn of(product: Product) -> Vec<Self>;
    fn equal(a: Self, b: Self) -> bool;
}
macro_rules! out {
    ($t:ty, $tag:ident, $poison:expr, $gap:expr, $equal:expr) => {
        impl Out for $t {
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
        }
    };
}
out!(f32, F32, -77.0, -78.0, same);
out!(f16, F16, f16::NEG_ONE, f16::MAX, same);
out!(bf16, BF16, bf16::NEG_ONE, bf16::MAX, same);
out!(i32, I32, -77, -78, |a, b| a == b);
out!(i8, I8, -77, -78, |a, b| a == b);
