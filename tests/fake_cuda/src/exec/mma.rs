//! Integer `mma.sync`, and how its fragments lie in the lanes.
//!
//! With g = lane / 4 and t = lane % 4, a register holds four consecutive k, lowest byte first:
//!
//! ```text
//! m16n8k32   A  a0: row g,   k 4t..4t+3      B  b0: column g, k 4t..4t+3     C  c0: row g,   column 2t
//!               a1: row g+8, k 4t..4t+3         b1: column g, k 16+4t..         c1: row g,   column 2t+1
//!               a2: row g,   k 16+4t..                                          c2: row g+8, column 2t
//!               a3: row g+8, k 16+4t..                                          c3: row g+8, column 2t+1
//! m16n8k16   A  a0, a1 as above              B  b0 as above                  C  as above
//! m8n8k16    A  a0: row g                    B  b0                           C  c0, c1
//! ```
use super::planted::{planted, Planted};
use super::regs::Lanes;
use crate::ptx::ir::MmaShape;

/// Operand with each row's (A) or column's (B) k run side by side.
type Panel = [[i16; 32]; 16];

fn panel(regs: &[Lanes<u32>], rows_in_regs: usize, signed: bool) -> Panel {
    let mut out = [[0i16; 32]; 16];
    for (r, lanes) in regs.iter().enumerate() {
        let (row, k) = (8 * (r % rows_in_regs), 16 * (r / rows_in_regs));
        for (group, four) in lanes.as_chunks::<4>().0.iter().enumerate() {
            let run = &mut out[(row + group) % 16][k..k + 16];
            for (values, bits) in run.as_chunks_mut::<4>().0.iter_mut().zip(four) {
                *values = match signed {
                    true => bits.to_le_bytes().map(|b| i16::from(b as i8)),
                    false => bits.to_le_bytes().map(i16::from),
                };
            }
        }
    }
    out
}

/// Exact: 32 products of at most 2^16 each.
fn dot(a: &[i16; 32], b: &[i16; 32]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| i32::from(x) * i32::from(y))
        .sum()
}

/// D = A B + C for one warp.
pub fn mma(s: MmaShape, a: &[Lanes<u32>], b: &[Lanes<u32>], c: &mut [Lanes<u32>]) {
    let a = panel(a, if s.m == 16 { 2 } else { 1 }, s.a_signed);
    let b = panel(b, 1, s.b_signed);
    for (r, sums) in c.iter_mut().enumerate() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let (row, column) = (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2);
            let dot = dot(&a[row % 16], &b[column]);
            *sum = match s.satfinite && !planted(Planted::NoSatfinite) {
                true => (*sum as i32).saturating_add(dot) as u32,
                false => sum.wrapping_add(dot as u32),
            };
        }
    }
}
