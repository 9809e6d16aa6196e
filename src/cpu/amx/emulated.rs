//! The tiles in plain Rust, by the definition of each instruction in Intel's manual, for machines without them.
//!
//! Bytes beyond a tile's shape are zeros after every instruction that writes it, and shapes that don't fit each other
//! are an error, as on the CPU.

use super::tiles::{Config, Tiles, TILES};
use crate::cpu::kernel::Kernel;
use crate::cpu::portable::Portable;

/// A tile: 16 rows of 64 bytes.
type Tile = [[u8; 64]; 16];

const ZERO: Tile = [[0; 64]; 16];

/// Eight tiles in memory.
pub(crate) struct Emulated {
    config: Config,
    tiles: [Tile; TILES],
}

impl Tiles for Emulated {
    const NAME: &'static str = "amx_emulated";
    type Kernel = Portable;

    fn proof() -> Option<Portable> {
        Portable::new()
    }

    unsafe fn configure(config: &Config) -> Self {
        Emulated {
            config: *config,
            tiles: [ZERO; TILES],
        }
    }

    fn zero<const T: usize>(&mut self) {
        self.tiles[T] = ZERO;
    }

    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the caller's.
        unsafe { self.load_tile(T, from, stride) };
    }

    unsafe fn stream<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the caller's.
        unsafe { self.load_tile(T, from, stride) };
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: the caller's.
        unsafe { self.store_tile(T, to, stride) };
    }

    fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
        const { assert!(C != A && C != B && A != B) };
        self.dot_tiles(C, A, B);
    }
}

/// The instructions, each compiled once: in the loops over them they would be most of the crate.
impl Emulated {
    /// # Safety
    /// As [`Tiles::load`].
    #[inline(never)]
    unsafe fn load_tile(&mut self, tile: usize, from: *const u8, stride: usize) {
        let (rows, colsb) = self.config.shape(tile);
        let tile = &mut self.tiles[tile];
        *tile = ZERO;
        for (r, row) in tile[..rows].iter_mut().enumerate() {
            // SAFETY: the caller's: `colsb` bytes of each of the tile's rows can be read.
            unsafe {
                let from = from.add(r * stride);
                core::ptr::copy_nonoverlapping(from, row.as_mut_ptr(), colsb);
            }
        }
    }

    /// # Safety
    /// As [`Tiles::store`].
    #[inline(never)]
    unsafe fn store_tile(&self, tile: usize, to: *mut u8, stride: usize) {
        let (rows, colsb) = self.config.shape(tile);
        for (r, row) in self.tiles[tile][..rows].iter().enumerate() {
            // SAFETY: the caller's: `colsb` bytes of each of the tile's rows can be written.
            unsafe { core::ptr::copy_nonoverlapping(row.as_ptr(), to.add(r * stride), colsb) };
        }
    }

    #[inline(never)]
    fn dot_tiles(&mut self, c: usize, a: usize, b: usize) {
        let [(m, c_colsb), (a_rows, a_colsb), (b_rows, b_colsb)] =
            [c, a, b].map(|t| self.config.shape(t));
        assert!(m == a_rows && a_colsb == 4 * b_rows && c_colsb == b_colsb);
        let (a, b) = (self.tiles[a], self.tiles[b]);
        for (r, (row, a)) in self.tiles[c].iter_mut().zip(&a).enumerate() {
            if r >= m {
                *row = [0; 64];
                continue;
            }
            let (sums, _) = row.as_chunks_mut::<4>();
            for (word, b) in a.as_chunks::<4>().0[..b_rows].iter().zip(&b) {
                let word = word.map(|x| i32::from(x as i8));
                for (sum, b) in sums[..c_colsb / 4].iter_mut().zip(b.as_chunks::<4>().0) {
                    let mut s = i32::from_le_bytes(*sum);
                    for (a, b) in word.iter().zip(b) {
                        s = s.wrapping_add(a * i32::from(*b as i8));
                    }
                    *sum = s.to_le_bytes();
                }
            }
            row[c_colsb..].fill(0);
        }
    }
}
