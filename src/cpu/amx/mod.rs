//! AMX: `tdpbssd` on tiles of 16 rows by 64 bytes, signed by signed, so that nothing is biased or corrected.
//!
//! ```text
//!   activations, a strip of 16 rows              weights, a panel of 16 columns
//!   step 0  [r0 k0..k63][r1 k0..k63]..[r15]      [c0 k0..3][c1 k0..3]..[c15] [c0 k4..7]..    1 KiB each: one tile load
//!   step 1  [r0 k64..127]...                     [c0 k64..67]...
//! ```
//!
//! K is padded with zeros to whole steps. The weights' order is that of dot products of four k with 16 columns a panel.
//!
//! `tiles` are the instructions, `emulated` the same in plain Rust, `steps` the sequence of them for a set of sums, `blocking` the
//! order of sets, `product` puts them together and finishes; `status` says whether this process may use them. `few` multiplies up to three rows by vectors instead, over the same panels.

mod blocking;
mod emulated;
mod few;
mod product;
mod status;
mod steps;
#[cfg(test)]
mod tests;
mod tiles;

pub(crate) use status::status;
pub use status::AmxStatus;

use super::engine::{Engine, Place};
use super::kernel::Layout;
use super::lhs::LhsBlock;
use super::store::Output;
use emulated::Emulated;
use tiles::Tiles;

/// Signed bytes, four k a group, 16 columns a panel; activations in strips of 16 rows.
const LAYOUT: Layout = Layout {
    name: "amx-n16k64-i8",
    nr: 16,
    kr: 4,
    biased: false,
    strips: true,
};

/// The engine on one kind of tiles.
pub(crate) struct OnTiles<T: Tiles>(T::Kernel);

/// The CPU's tiles.
#[cfg(target_arch = "x86_64")]
pub(crate) type Amx = OnTiles<tiles::Hardware>;
/// Tiles in memory: for tests, never the best of a machine.
pub(crate) type AmxEmulated = OnTiles<Emulated>;

impl<T: Tiles> Clone for OnTiles<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Tiles> Copy for OnTiles<T> {}

impl<T: Tiles + 'static> Engine for OnTiles<T> {
    const NAME: &'static str = T::NAME;
    const LAYOUT: Layout = LAYOUT;
    const MR: usize = 32;
    const PANELS: usize = 4;
    type Kernel = T::Kernel;

    fn new() -> Option<Self> {
        T::proof().map(OnTiles)
    }

    #[inline(always)]
    fn kernel(self) -> T::Kernel {
        self.0
    }

    unsafe fn tiles<O: Output>(self, block: &LhsBlock, weights: &[u8], place: Place<'_, '_, O>) {
        // SAFETY: `self` is made of the proof; the rest is the caller's.
        unsafe {
            if block.rows() <= few::FEW {
                few::run(self.0, block, weights, place)
            } else {
                product::run::<T, O>(self.0, block, weights, place)
            }
        }
    }

    fn rate(self, seconds: f64) -> f64 {
        steps::rate::<T>(self.0, seconds)
    }
}
