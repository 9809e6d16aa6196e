//! Products of int8 matrices.
use super::common::Machine;
use super::fixture::{Arg, Fixture, Outcome, Random, Trial};

/// What one product is made of: A `[m, k]`, B `[n, k]` row by row, what C held before.
struct Product {
    shape: [usize; 3],
    a: Vec<i8>,
    b: Vec<i8>,
    c: Vec<i32>,
}

impl Product {
    fn random([m, n, k]: [usize; 3], seed: u64) -> Self {
        let mut random = Random::new(seed);
        Product {
            shape: [m, n, k],
            a: random.bytes(m * k),
            b: random.bytes(n * k),
            c: vec![0; m * n],
        }
    }

    /// Sums that run towards one end of int32 each and start close to it: every second column towards the lower one.
    fn near_the_ends([m, n, k]: [usize; 3], seed: u64) -> Self {
        let mut p = Product::random([m, n, k], seed);
        let mut random = Random::new(seed + 1000);
        for x in &mut p.a {
            *x = (*x).max(-127).abs();
        }
        for (i, y) in p.b.iter_mut().enumerate() {
            let up = i / k % 2 == 0;
            *y = if up {
                (*y).max(-127).abs()
            } else {
                -(*y).max(-127).abs()
            };
        }
        for (i, c) in p.c.iter_mut().enumerate() {
            let from = random.below(2_000_000) as i32;
            *c = if i % n % 2 == 0 {
                i32::MAX - from
            } else {
                i32::MIN + from
            };
        }
        p
    }

    /// The sums, and whether some left int32; `saturating`: 32 products at a time, as `satfinite` adds them.
    fn sums(&self, saturating: bool) -> (Vec<i32>, bool) {
        let [m, n, k] = self.shape;
        let mut left = false;
        let mut out = self.c.clone();
        for row in 0..m {
            for column in 0..n {
                let (a, b) = (&self.a[row * k..][..k], &self.b[column * k..][..k]);
                let c = &mut out[row * n + column];
                for (a, b) in a.chunks(32).zip(b.chunks(32)) {
                    let part: i32 = a
                        .iter()
                        .zip(b)
                        .map(|(&x, &y)| i32::from(x) * i32::from(y))
                        .sum();
                    left |= c.checked_add(part).is_none();
                    *c = if saturating {
                        c.saturating_add(part)
                    } else {
                        c.wrapping_add(part)
                    };
                }
            }
        }
        (out, left)
    }
}

fn unsigned(bytes: &[i8]) -> Vec<u8> {
    bytes.iter().map(|&b| b as u8).collect()
}

fn same(f: &Fixture, seed: u64, have: &[u32], want: &[i32]) {
    assert_eq!(have.len(), want.len());
    let wrong = have
        .iter()
        .zip(want)
        .filter(|(h, w)| **h as i32 != **w)
        .count();
    assert_eq!(
        wrong,
        0,
        "{}, seed {seed}: {wrong} of {} sums are wrong",
        f.name,
        want.len()
    );
}

/// By pointers: whole tiles, or a ragged shape.
pub fn plain(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let [bm, bn, bk] = ["BM", "BN", "BK"].map(|name| f.constant(name));
    let steps = [1, 2, 3, 5][seed as usize % 4];
    let shape = match f.kernel.as_str() {
        "dot_s8" => [
            bm + 1 + 7 * seed as usize,
            2 * bn - 3,
            bk * steps + 5 + seed as usize,
        ],
        _ => [2 * bm, bn, bk * steps],
    };
    let mut p = match f.kernel.as_str() {
        "dot_s8_onto" => Product::near_the_ends(shape, seed),
        _ => Product::random(shape, seed),
    };
    let [m, n, k] = shape;
    let machine = f.machine();
    let (a, b) = (
        machine.bytes(&unsigned(&p.a)),
        machine.bytes(&unsigned(&p.b)),
    );
    let before: Vec<u32> = p.c.iter().map(|&c| c as u32).collect();
    let c = if f.kernel == "dot_s8_onto" {
        machine.words(&before)
    } else {
        machine.room(4 * (m * n) as u64)
    };
    let args = [
        Arg::Pointer(a),
        Arg::Pointer(b),
        Arg::Pointer(c),
        Arg::Number(m),
        Arg::Number(n),
        Arg::Number(k),
    ];
    let done = t.run(&machine, [m.div_ceil(bm), n.div_ceil(bn)], &args)?;
    if f.kernel == "dot_s8_changed" {
        p.a.iter_mut().for_each(|x| *x ^= 1);
    }
    // Triton multiplies with satfinite on compute capability 8.0, without it on 9.0.
    let (want, left) = p.sums(f.target == 80);
    assert_eq!(
        left,
        f.kernel == "dot_s8_onto",
        "{}: sums that leave int32",
        f.name
    );
    same(f, seed, &machine.read(c, m * n), &want);
    Ok(done)
}

/// A matrix whose rows start at multiples of 16 bytes; its address and the bytes from row to row.
fn padded(m: &Machine, rows: usize, columns: usize, bytes: &[i8]) -> (u64, usize) {
    let pitch = columns.next_multiple_of(16);
    let mut all = vec![0x55; rows * pitch];
    for (row, from) in all.chunks_mut(pitch).zip(bytes.chunks(columns)) {
        row[..columns].copy_from_slice(&unsigned(from));
    }
    (m.bytes(&all), pitch)
}

/// By tensor maps, ragged.
pub fn mapped(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let [bm, bn, bk] = ["BM", "BN", "BK"].map(|name| f.constant(name));
    let steps = [4, 1, 7, 2][seed as usize % 4];
    let shape @ [m, n, k] = [
        2 * bm - 9 * seed as usize,
        bn + 4,
        bk * steps + 3 * seed as usize,
    ];
    let p = Product::random(shape, seed);
    let machine = f.machine();
    let ((a, pa), (b, pb)) = (padded(&machine, m, k, &p.a), padded(&machine, n, k, &p.b));
    let c = machine.room(4 * (m * n) as u64);
    let args = [
        Arg::Matrix(a, [m, k], pa),
        Arg::Matrix(b, [n, k], pb),
        Arg::Matrix(c, [m, n], 4 * n),
        Arg::Number(k),
    ];
    let done = t.run(&machine, [m.div_ceil(bm), n.div_ceil(bn)], &args)?;
    same(f, seed, &machine.read(c, m * n), &p.sums(false).0);
    Ok(done)
}
