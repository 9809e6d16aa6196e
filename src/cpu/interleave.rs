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
/// `row(r)` is row `r`, at least `4 * groups` bytes long; `words` holds `groups * h` words.
#[inline(always)]
pub(crate) fn bytes4<'a, W: Word>(
    row: impl Fn(usize) -> &'a [i8],
    h: usize,
    groups: usize,
    flip: u8,
    words: &mut [W],
) {
    let words = &mut words[..groups * h];
    if h < 4 {
        let flip = u32::from_ne_bytes([flip; 4]);
        for r in 0..h {
            for (g, bytes) in row(r)[..groups * 4].chunks_exact(4).enumerate() {
                words[g * h + r] = W::new(word(bytes) ^ flip);
            }
        }
        return;
    }
    let mut r = 0;
    while r < h {
        // The last four rows may overlap those before: the same words are written twice.
        let first = r.min(h - 4);
        let rows = [row(first), row(first + 1), row(first + 2), row(first + 3)];
        four_rows(rows, h, first, groups, flip, words);
        r += 4;
    }
}

/// Rows `r..r + 4`, four groups at a time: a transposition of 4 x 4 words.
#[inline(always)]
fn four_rows<W: Word>(
    rows: [&[i8]; 4],
    h: usize,
    r: usize,
    groups: usize,
    flip: u8,
    words: &mut [W],
) {
    let rows = [
        &rows[0][..groups * 4],
        &rows[1][..groups * 4],
        &rows[2][..groups * 4],
        &rows[3][..groups * 4],
    ];
    let flips = u32::from_ne_bytes([flip; 4]);
    let mut g = 0;
    while g + 4 <= groups {
        // (Loops, not `map`: a function of the standard library may stay a call, and then it is not compiled
        // for the kernel's instructions.)
        let mut block = [[0i8; 16]; 4];
        for (block, row) in block.iter_mut().zip(rows) {
            block.copy_from_slice(&row[g * 4..g * 4 + 16]);
        }
        let block = transpose(block, flip);
        for (j, block) in block.iter().enumerate() {
            let out = &mut words[(g + j) * h + r..][..4];
            for (out, bytes) in out.iter_mut().zip(block.chunks_exact(4)) {
                *out = W::new(word(bytes));
            }
        }
        g += 4;
    }
    while g < groups {
        for (i, row) in rows.iter().enumerate() {
            words[g * h + r + i] = W::new(word(&row[g * 4..g * 4 + 4]) ^ flips);
        }
        g += 1;
    }
}

/// Transposes 4 x 4 words of four bytes, each byte xor-ed with `flip`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose(rows: [[i8; 16]; 4], flip: u8) -> [[i8; 16]; 4] {
    use core::arch::x86_64::*;
    // SAFETY: SSE2 is part of the architecture; every 64 bytes are four such vectors.
    unsafe {
        let [a, b, c, d]: [__m128i; 4] = core::mem::transmute(rows);
        let flip = _mm_set1_epi8(flip as i8);
        let (ab0, ab1) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        let (cd0, cd1) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
        let out = [
            _mm_xor_si128(_mm_unpacklo_epi64(ab0, cd0), flip),
            _mm_xor_si128(_mm_unpackhi_epi64(ab0, cd0), flip),
            _mm_xor_si128(_mm_unpacklo_epi64(ab1, cd1), flip),
            _mm_xor_si128(_mm_unpackhi_epi64(ab1, cd1), flip),
        ];
        core::mem::transmute(out)
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn transpose(rows: [[i8; 16]; 4], flip: u8) -> [[i8; 16]; 4] {
    let mut out = [[0i8; 16]; 4];
    for (i, row) in rows.iter().enumerate() {
        for (j, word) in row.chunks_exact(4).enumerate() {
            for (o, b) in out[j][4 * i..4 * i + 4].iter_mut().zip(word) {
                *o = b ^ flip as i8;
            }
        }
    }
    out
}

/// The sum of a row.
#[inline(always)]
pub(crate) fn sum(bytes: &[i8]) -> i32 {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let rest: i32 = rest.iter().map(|x| i32::from(*x)).sum();
    rest + sum64(chunks)
}

/// Sums of eight bytes in one instruction: as unsigned, plus 128 each.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sum64(chunks: &[[i8; 64]]) -> i32 {
    use core::arch::x86_64::*;
    // SAFETY: SSE2 is part of the architecture; every 64 bytes are four such vectors.
    let total: [i64; 2] = unsafe {
        let mut sums = [_mm_setzero_si128(); 4];
        for chunk in chunks {
            let x: [__m128i; 4] = core::mem::transmute(*chunk);
            for (sum, x) in sums.iter_mut().zip(x) {
                let biased = _mm_xor_si128(x, _mm_set1_epi8(-128));
                *sum = _mm_add_epi64(*sum, _mm_sad_epu8(biased, _mm_setzero_si128()));
            }
        }
        let (a, b) = (
            _mm_add_epi64(sums[0], sums[1]),
            _mm_add_epi64(sums[2], sums[3]),
        );
        core::mem::transmute(_mm_add_epi64(a, b))
    };
    (total[0] + total[1] - 128 * 64 * chunks.len() as i64) as i32
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn sum64(chunks: &[[i8; 64]]) -> i32 {
    chunks.as_flattened().iter().map(|x| i32::from(*x)).sum()
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
        for (h, k) in [
            (1, 4),
            (3, 8),
            (4, 16),
            (7, 20),
            (12, 36),
            (11, 132),
            (32, 64),
        ] {
            let stride = k + 16;
            let value = |r: usize, k: usize| (r * 31 + k * 7) as i8;
            let rows: Vec<i8> = (0..h * stride)
                .map(|i| value(i / stride, i % stride))
                .collect();
            let mut words = vec![0u32; k / 4 * h];
            let row = |r: usize| &rows[r * stride..][..k];
            bytes4(row, h, k / 4, 0x80, &mut words);
            assert_eq!(
                sum(row(0)),
                row(0).iter().map(|x| i32::from(*x)).sum::<i32>()
            );
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
