//! The emulation against the definition of the product, and the CPU's instructions against the emulation.

use super::emulated::Emulated;
use super::tiles::{Config, Tiles, TILES};

/// Bytes that reach every value, from a xorshift generator.
fn bytes(len: usize, mut seed: u64) -> Vec<u8> {
    let next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Rows and bytes a row of A, B and C for a product of `m` rows, `k` words and `n` columns, as tiles 4, 6 and 0; the others
/// are whole.
fn shapes(m: usize, k: usize, n: usize) -> [(usize, usize); TILES] {
    let mut shapes = [(16, 64); TILES];
    (shapes[4], shapes[6], shapes[0]) = ((m, 4 * k), (k, 4 * n), (m, 4 * n));
    shapes
}

/// What memory holds after one product through the tiles, and after the tiles of rows and of zeros were stored.
struct Seen {
    c: Vec<u8>,
    copy: Vec<u8>,
    zero: Vec<u8>,
}

/// Strides longer than a tile's rows, so that what is written beside them shows.
const STRIDE: usize = 80;
const PLACE: usize = 16 * STRIDE;

/// # Safety
/// As [`Tiles::configure`].
unsafe fn through<T: Tiles>(shapes: [(usize, usize); TILES], a: &[u8], b: &[u8], c: &[u8]) -> Seen {
    assert!([a, b, c].iter().all(|x| x.len() == PLACE));
    let mut seen = Seen {
        c: c.to_vec(),
        copy: c.to_vec(),
        zero: c.to_vec(),
    };
    // SAFETY: the caller's; every place holds 16 rows of 64 bytes, 80 apart.
    unsafe {
        let mut t = T::configure(&Config::new(shapes));
        t.load::<4>(a.as_ptr(), STRIDE);
        t.stream::<6>(b.as_ptr(), STRIDE);
        t.load::<0>(c.as_ptr(), STRIDE);
        t.dot::<0, 4, 6>();
        t.dot::<0, 4, 6>();
        t.store::<0>(seen.c.as_mut_ptr(), STRIDE);
        t.store::<4>(seen.copy.as_mut_ptr(), STRIDE);
        t.zero::<0>();
        t.store::<0>(seen.zero.as_mut_ptr(), STRIDE);
    }
    seen
}

/// The definition, on whole matrices of numbers: C plus twice A times B.
fn naive(m: usize, k: usize, n: usize, a: &[u8], b: &[u8], c: &[u8]) -> Vec<u8> {
    let mut out = c.to_vec();
    let at = |x: &[u8], row: usize, byte: usize| i32::from(x[row * STRIDE + byte] as i8);
    for row in 0..m {
        for col in 0..n {
            let place = row * STRIDE + 4 * col..row * STRIDE + 4 * col + 4;
            let start = i32::from_le_bytes(out[place.clone()].try_into().expect("four bytes"));
            let sum: i32 = (0..4 * k)
                .map(|i| at(a, row, i) * at(b, i / 4, 4 * col + i % 4))
                .sum();
            let sum = start.wrapping_add(sum).wrapping_add(sum);
            out[place].copy_from_slice(&sum.to_le_bytes());
        }
    }
    out
}

/// Whole tiles, single rows and columns, and what lies between.
fn cases() -> impl Iterator<Item = (usize, usize, usize)> {
    let sides = [1, 16, 5];
    let all = sides.into_iter().flat_map(move |m| {
        sides
            .into_iter()
            .flat_map(move |k| sides.map(|n| (m, k, n)))
    });
    all.chain([
        (15, 16, 16),
        (16, 15, 16),
        (16, 16, 15),
        (2, 3, 9),
        (9, 2, 3),
        (3, 9, 2),
    ])
}

/// Operands of a case: random ones, and the ends of int8 against each other.
fn operands() -> impl Iterator<Item = [Vec<u8>; 3]> {
    let random = [1u64, 2].map(|s| [5, 7, 9].map(|t| bytes(PLACE, s * 0x9E37_79B9 + t)));
    // Sums that wrap: from the largest int32 up, and from the smallest down.
    let full = |start: i32| start.to_le_bytes().repeat(PLACE / 4);
    let ends = [
        (0x80, 0x80, i32::MAX),
        (0x80, 0x7f, i32::MIN),
        (0x7f, 0x7f, 0),
    ]
    .map(|(a, b, start)| [vec![a; PLACE], vec![b; PLACE], full(start)]);
    random.into_iter().chain(ends)
}

#[test]
fn the_emulation_is_the_definition() {
    for (m, k, n) in cases() {
        for [a, b, c] in operands() {
            // SAFETY: the emulation needs no proof, and there is one value at a time.
            let seen = unsafe { through::<Emulated>(shapes(m, k, n), &a, &b, &c) };
            assert_eq!(seen.c, naive(m, k, n, &a, &b, &c), "{m}x{k}x{n}");
            for (r, (row, c)) in seen.copy.chunks(STRIDE).zip(c.chunks(STRIDE)).enumerate() {
                let width = if r < m { 4 * k } else { 0 };
                assert_eq!(row[..width], a[r * STRIDE..][..width], "{m}x{k}x{n}");
                assert_eq!(row[width..], c[width..], "{m}x{k}x{n}");
            }
            for (r, (row, c)) in seen.zero.chunks(STRIDE).zip(c.chunks(STRIDE)).enumerate() {
                let width = if r < m { 4 * n } else { 0 };
                assert!(row[..width].iter().all(|x| *x == 0), "{m}x{k}x{n}");
                assert_eq!(row[width..], c[width..], "{m}x{k}x{n}");
            }
        }
    }
}

/// `ldtilecfg`, `tilezero`, `tileloadd`, `tileloaddt1`, `tdpbssd`, `tilestored`; `tilerelease` is what the next `ldtilecfg`
/// of each case comes after.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_cpus_tiles_are_the_emulations() {
    use super::tiles::Hardware;
    if Hardware::proof().is_none() {
        println!("not run: amx_int8 ({})", super::status());
        return;
    }
    for (m, k, n) in cases() {
        for [a, b, c] in operands() {
            let shapes = shapes(m, k, n);
            // SAFETY: the proof was given, and there is one value at a time.
            let (got, want) = unsafe {
                (
                    through::<Hardware>(shapes, &a, &b, &c),
                    through::<Emulated>(shapes, &a, &b, &c),
                )
            };
            assert_eq!(got.c, want.c, "dot, {m}x{k}x{n}");
            assert_eq!(got.copy, want.copy, "load and store, {m}x{k}x{n}");
            assert_eq!(got.zero, want.zero, "zero, {m}x{k}x{n}");
        }
    }
}

/// A tile that was loaded in a larger shape holds nothing of it after a smaller one was configured.
#[test]
fn configuring_clears() {
    let a = bytes(PLACE, 3);
    let look = |seen: &[u8]| assert!(seen.iter().all(|x| *x == 0));
    /// # Safety
    /// As [`Tiles::configure`].
    unsafe fn twice<T: Tiles>(a: &[u8]) -> Vec<u8> {
        let mut seen = vec![1; 16 * 64];
        // SAFETY: the caller's; the places hold 16 rows of 64 bytes.
        unsafe {
            let mut t = T::configure(&Config::new([(16, 64); TILES]));
            t.load::<2>(a.as_ptr(), 64);
            drop(t);
            let mut t = T::configure(&Config::new([(16, 64); TILES]));
            t.store::<2>(seen.as_mut_ptr(), 64);
        }
        seen
    }
    // SAFETY: the emulation needs no proof.
    look(&unsafe { twice::<Emulated>(&a) });
    #[cfg(target_arch = "x86_64")]
    if super::tiles::Hardware::proof().is_some() {
        // SAFETY: the proof was given.
        look(&unsafe { twice::<super::tiles::Hardware>(&a) });
    } else {
        println!("not run: amx_int8 ({})", super::status());
    }
}

#[test]
#[should_panic(expected = "m == a_rows")]
fn shapes_that_do_not_fit_are_an_error() {
    let mut shapes = [(16, 64); TILES];
    shapes[4].0 = 5;
    // SAFETY: the emulation needs no proof.
    let mut t = unsafe { Emulated::configure(&Config::new(shapes)) };
    t.dot::<0, 4, 6>();
}

/// Few rows, by vectors and in plain Rust: the sums of the definition, extremes among them.
#[test]
fn few_rows_are_summed_alike() {
    use super::few::{FewRows, FEW, WIDTH};
    #[cfg(target_arch = "x86_64")]
    use crate::cpu::kernel::Kernel;
    use crate::cpu::portable::Portable;

    #[cfg(target_arch = "x86_64")]
    let vectors = crate::cpu::avx512_vnni::Avx512Vnni::new();
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = None::<Portable>;
    if vectors.is_none() {
        println!("not run: vectors of few rows, which this CPU lacks");
    }
    for m in 1..=FEW {
        for steps in [0, 1, 2, 7] {
            for extreme in [false, true] {
                let make = |len, seed| match extreme {
                    true => vec![0x80u8; len],
                    false => bytes(len, seed),
                };
                let strip = make(1024 * steps, 3 + m as u64);
                let (first, second) = (make(1024 * steps, 5), make(1024 * steps, 7));
                let panels = [first.as_ptr(), second.as_ptr()];
                let mut naive = vec![0i32; m * WIDTH];
                for (i, sum) in naive.iter_mut().enumerate() {
                    let (row, col) = (i / WIDTH, i % WIDTH);
                    let panel = if col < 16 { &first } else { &second };
                    for k in 0..64 * steps {
                        let (step, k) = (k / 64 * 1024, k % 64);
                        let a = strip[step + row * 64 + k] as i8;
                        let w = panel[step + k / 4 * 64 + col % 16 * 4 + k % 4] as i8;
                        *sum += i32::from(a) * i32::from(w);
                    }
                }
                let mut sums = vec![-1i32; m * WIDTH];
                // SAFETY: strip and panels hold the steps.
                unsafe { Portable.few_rows(m, steps, strip.as_ptr(), panels, &mut sums) };
                assert_eq!(sums, naive, "by the definition, {m} rows, {steps} steps");
                if let Some(kernel) = vectors {
                    sums.fill(-1);
                    // SAFETY: as above.
                    unsafe { kernel.few_rows(m, steps, strip.as_ptr(), panels, &mut sums) };
                    assert_eq!(sums, naive, "by vectors, {m} rows, {steps} steps");
                }
            }
        }
    }
}
