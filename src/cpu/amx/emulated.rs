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
        let (rows, colsb) = self.config.shape(T);
        let tile = &mut self.tiles[T];
        *tile = ZERO;
        for (r, row) in tile[..rows].iter_mut().enumerate() {
            // SAFETY: the caller's: `colsb` bytes of each of the tile's rows can be read.
            unsafe {
                let from = from.add(r * stride);
                core::ptr::copy_nonoverlapping(from, row.as_mut_ptr(), colsb);
            }
        }
    }

    unsafe fn stream<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the caller's.
        unsafe { self.load::<T>(from, stride) };
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        let (rows, colsb) = self.config.shape(T);
        for (r, row) in self.tiles[T][..rows].iter().enumerate() {
            // SAFETY: the caller's: `colsb` bytes of each of the tile's rows can be written.
            unsafe { core::ptr::copy_nonoverlapping(row.as_ptr(), to.add(r * stride), colsb) };
        }
    }

    fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
        const { assert!(C != A && C != B && A != B) };
        let [(m, c_colsb), (a_rows, a_colsb), (b_rows, b_colsb)] =
            [C, A, B].map(|t| self.config.shape(t));
        assert!(m == a_rows && a_colsb == 4 * b_rows && c_colsb == b_colsb);
        let (a, b) = (self.tiles[A], self.tiles[B]);
        for (r, (row, a)) in self.tiles[C].iter_mut().zip(&a).enumerate() {
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
