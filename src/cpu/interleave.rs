//! From rows of bytes to words by group: the order of the left panel, and of K-major weights.
//!
//! ```text
//!   rows   r0: k0 k1 k2 k3 k4 ...        words  [r0 k0..3][r1 k0..3]..[rh k0..3] [r0 k4..7] ...
//!          r1: k0 k1 k2 k3 k4 ...
//! ```

/// Four bytes, as the activations' words or the weights' bytes.
pub(crate) trait Word: Copy {
    fn new(little_endian: u32) -> Self;
}

impl Word for u32 {
    #[inline(always)]
    fn new(w: u32) -> Self {
        w
    }
}

impl Word for [u8; 4] {
    #[inline(always)]
    fn new(w: u32) -> Self {
        w.to_le_bytes()
    }
}

/// Writes `words[g * h + r]` = bytes `4g..4g+4` of row `r`, little-endian, each byte xor-ed with `flip`.
///
/// `rows` holds `h` rows of `stride` bytes; `words` holds `groups * h` words, `4 * groups <= stride`.
#[inline(always)]
pub(crate) fn bytes4<W: Word>(
    rows: &[i8],
    stride: usize,
    h: usize,
    groups: usize,
    flip: u8,
    words: &mut [W],
) {
    let flip = u32::from_ne_bytes([flip; 4]);
    let words = &mut words[..groups * h];
    let mut r = 0;
    // Four rows by four groups at a time: a transposition of 4 x 4 words. (Loops, not `map`: a function of the
    // standard library may stay a call, and then it is not compiled for the leaf's instructions.)
    while r + 4 <= h {
        let mut quad = [[].as_slice(); 4];
        for (i, row) in quad.iter_mut().enumerate() {
            *row = &rows[(r + i) * stride..][..groups * 4];
        }
        let mut g = 0;
        while g + 4 <= groups {
            let mut block = [[0u32; 4]; 4];
            for (block, row) in block.iter_mut().zip(quad) {
                let bytes = &row[g * 4..g * 4 + 16];
                for (j, w) in block.iter_mut().enumerate() {
                    *w = word(&bytes[4 * j..4 * j + 4]) ^ flip;
                }
            }
            for j in 0..4 {
                let out = &mut words[(g + j) * h + r..][..4];
                for i in 0..4 {
                    out[i] = W::new(block[i][j]);
                }
            }
            g += 4;
        }
        while g < groups {
            for (i, row) in quad.iter().enumerate() {
                words[g * h + r + i] = W::new(word(&row[g * 4..g * 4 + 4]) ^ flip);
            }
            g += 1;
        }
        r += 4;
    }
    while r < h {
        let row = &rows[r * stride..][..groups * 4];
        for (g, bytes) in row.chunks_exact(4).enumerate() {
            words[g * h + r] = W::new(word(bytes) ^ flip);
        }
        r += 1;
    }
}

/// Writes `words[g * h + r]` = values `2g` and `2g + 1` of row `r`, each widened to 16 bits, the first one low.
#[inline(always)]
pub(crate) fn widened2(rows: &[i8], stride: usize, h: usize, groups: usize, words: &mut [u32]) {
    let words = &mut words[..groups * h];
    for r in 0..h {
        let row = &rows[r * stride..][..groups * 2];
        for (g, pair) in row.chunks_exact(2).enumerate() {
            let (lo, hi) = (i16::from(pair[0]) as u16, i16::from(pair[1]) as u16);
            words[g * h + r] = u32::from(lo) | (u32::from(hi) << 16);
        }
    }
}

/// Writes the bytes `2g` and `2g + 1` of row `r` at `out[(g * h + r) * 2]`: the weights' order for pairs.
#[inline(always)]
pub(crate) fn bytes2(rows: &[i8], stride: usize, h: usize, groups: usize, out: &mut [u8]) {
    let out = &mut out[..groups * h * 2];
    for r in 0..h {
        let row = &rows[r * stride..][..groups * 2];
        for (g, pair) in row.chunks_exact(2).enumerate() {
            out[(g * h + r) * 2] = pair[0] as u8;
            out[(g * h + r) * 2 + 1] = pair[1] as u8;
        }
    }
}

#[inline(always)]
fn word(bytes: &[i8]) -> u32 {
    u32::from_le_bytes([
        bytes[0] as u8,
        bytes[1] as u8,
        bytes[2] as u8,
        bytes[3] as u8,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_lands_in_its_word() {
        for (h, k) in [(1, 4), (3, 8), (4, 16), (7, 20), (12, 36), (32, 64)] {
            let stride = k + 16;
            let value = |r: usize, k: usize| (r * 31 + k * 7) as i8;
            let rows: Vec<i8> = (0..h * stride)
                .map(|i| value(i / stride, i % stride))
                .collect();
            let mut words = vec![0u32; k / 4 * h];
            bytes4(&rows, stride, h, k / 4, 0x80, &mut words);
            let mut wide = vec![0; k / 2 * h];
            widened2(&rows, stride, h, k / 2, &mut wide);
            let mut pairs = vec![0; k * h];
            bytes2(&rows, stride, h, k / 2, &mut pairs);
            for r in 0..h {
                for k in 0..k {
                    let got = words[k / 4 * h + r].to_le_bytes()[k % 4];
                    assert_eq!(got ^ 0x80, value(r, k) as u8);
                    let got = (wide[k / 2 * h + r] >> (16 * (k % 2))) as i16;
                    assert_eq!(got, i16::from(value(r, k)));
                    assert_eq!(pairs[(k / 2 * h + r) * 2 + k % 2], value(r, k) as u8);
                }
            }
        }
    }
}
