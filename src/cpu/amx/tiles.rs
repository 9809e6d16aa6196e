//! The tile instructions of AMX, one function each, and the contract that the emulation shares.
//!
//! ```text
//!   eight tiles tmm0..tmm7, each at most 16 rows of 64 bytes; a configuration gives rows and bytes a row of each
//!
//!   dot  C[m][n] += sum over k < 16, i < 4 of A[m][4 k + i] * B[k][4 n + i]        int8 x int8 -> wrapping int32
//!        A: m rows of k values    B: a row holds four k of each column    C: m rows of int32
//! ```

use super::few::FewRows;

/// Tiles there are.
pub(crate) const TILES: usize = 8;

/// The shape of each tile, in the form that `ldtilecfg` reads.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    colsb: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Tiles of that many rows (1 to 16) and bytes a row (1 to 64, whole words).
    pub fn new(shapes: [(usize, usize); TILES]) -> Self {
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            colsb: [0; 16],
            rows: [0; 16],
        };
        for (t, (rows, colsb)) in shapes.into_iter().enumerate() {
            assert!((1..=16).contains(&rows) && (4..=64).contains(&colsb) && colsb % 4 == 0);
            (config.rows[t], config.colsb[t]) = (rows as u8, colsb as u16);
        }
        config
    }

    /// Rows and bytes a row of a tile.
    pub fn shape(&self, tile: usize) -> (usize, usize) {
        (usize::from(self.rows[tile]), usize::from(self.colsb[tile]))
    }
}

/// Eight configured tiles of the thread that made the value. Dropping it gives the tiles back.
pub(crate) trait Tiles: Sized {
    /// The name of the kernel that computes with them.
    const NAME: &'static str;
    /// What runs everything around them; a value beside [`proof`](Self::proof) shows that this CPU can.
    type Kernel: FewRows;

    /// The proof, where this process may use the tiles.
    fn proof() -> Option<Self::Kernel>;

    /// `ldtilecfg`: all tiles are zeros of these shapes.
    ///
    /// # Safety
    /// [`proof`](Self::proof) has given a value. The thread has no other value of this type, and the value stays on it.
    unsafe fn configure(config: &Config) -> Self;

    /// `tilezero`
    fn zero<const T: usize>(&mut self);

    /// `tileloadd`: row `r` from `from + r * stride` on.
    ///
    /// # Safety
    /// Every row of the tile's shape can be read there.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// `tileloaddt1`: as [`load`](Self::load), with the hint that the bytes are not needed again soon, so that they do not
    /// displace others in the first level.
    ///
    /// # Safety
    /// Every row of the tile's shape can be read there.
    unsafe fn stream<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// `tilestored`: row `r` from `to + r * stride` on.
    ///
    /// # Safety
    /// Every row of the tile's shape can be written there, and nobody else touches them.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);

    /// `tdpbssd`: C plus A times B. The shapes must fit: C's rows are A's, C's bytes a row B's, and A has four bytes for
    /// each row of B.
    fn dot<const C: usize, const A: usize, const B: usize>(&mut self);
}

#[cfg(target_arch = "x86_64")]
pub(crate) use hardware::Hardware;

#[cfg(target_arch = "x86_64")]
mod hardware {
    use super::{Config, Tiles};
    use crate::cpu::amx::status::{status, AmxStatus};
    use crate::cpu::avx512_vnni::Avx512Vnni;
    use crate::cpu::kernel::Kernel;
    use core::arch::asm;
    use std::marker::PhantomData;

    /// The CPU's tiles. The compiler knows nothing of them and uses none, so that they keep their values between the
    /// instructions below. Not `Send`: they belong to the thread.
    pub(crate) struct Hardware(PhantomData<*mut ()>);

    impl Tiles for Hardware {
        const NAME: &'static str = "amx_int8";
        // Every CPU with AMX has AVX-512 VNNI, and a system that saves tiles saves its registers.
        type Kernel = Avx512Vnni;

        fn proof() -> Option<Avx512Vnni> {
            (status() == AmxStatus::Ready)
                .then(Avx512Vnni::new)
                .flatten()
        }

        #[inline(always)]
        unsafe fn configure(config: &Config) -> Self {
            // SAFETY: the CPU has the instruction and the process its permission (the caller's); it reads the 64 bytes of
            // `config`, whose shapes `Config::new` has checked.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly, preserves_flags))
            };
            Hardware(PhantomData)
        }

        #[inline(always)]
        fn zero<const T: usize>(&mut self) {
            // SAFETY: `self` is the proof that tile T is configured; nothing but the tile changes.
            unsafe { asm!("tilezero tmm{}", const T, options(nostack, nomem, preserves_flags)) };
        }

        #[inline(always)]
        unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
            // SAFETY: the rows can be read (the caller's); nothing but the tile changes.
            unsafe {
                asm!("tileloadd tmm{}, [{} + {}]", const T, in(reg) from, in(reg) stride,
                    options(nostack, readonly, preserves_flags));
            }
        }

        #[inline(always)]
        unsafe fn stream<const T: usize>(&mut self, from: *const u8, stride: usize) {
            // SAFETY: as `load`.
            unsafe {
                asm!("tileloaddt1 tmm{}, [{} + {}]", const T, in(reg) from, in(reg) stride,
                    options(nostack, readonly, preserves_flags));
            }
        }

        #[inline(always)]
        unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
            // SAFETY: the rows can be written (the caller's).
            unsafe {
                asm!("tilestored [{} + {}], tmm{}", in(reg) to, in(reg) stride, const T,
                    options(nostack, preserves_flags));
            }
        }

        #[inline(always)]
        fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
            const { assert!(C != A && C != B && A != B) };
            // SAFETY: `self` is the proof that the tiles are configured; nothing but tile C changes.
            unsafe {
                asm!("tdpbssd tmm{}, tmm{}, tmm{}", const C, const A, const B,
                    options(nostack, nomem, preserves_flags));
            }
        }
    }

    impl Drop for Hardware {
        #[inline(always)]
        fn drop(&mut self) {
            // SAFETY: as above. Afterwards the thread's tiles are as if never used.
            unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
        }
    }
}
