//! Kernels over floats, whose every bit is compared; one NaN is as good as another.
use half::{bf16, f16};

use super::fixture::{Arg, Fixture, Outcome, Random, Trial};

fn is_nan(bits: u32) -> bool {
    f32::from_bits(bits).is_nan()
}

fn same(f: &Fixture, seed: u64, have: &[u32], want: &[u32], nan: impl Fn(u32) -> bool) {
    for (i, (&h, &w)) in have.iter().zip(want).enumerate() {
        let same = h == w || (nan(h) && nan(w));
        assert!(
            same,
            "{}, seed {seed}: word {i} is {h:#x}, want {w:#x}",
            f.name
        );
    }
    assert_eq!(have.len(), want.len());
}

/// Floats of every kind: random bits, and random values near what int8 and int32 hold.
fn floats(seed: u64, n: usize) -> Vec<u32> {
    let mut random = Random::new(seed);
    let special = [
        0,
        0x8000_0000,
        1,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x3f00_0000,
        0x42fe_ffff,
    ];
    let mut draw = |i: usize| match i % 4 {
        0 => random.word(),
        1 => (random.word() as i32 as f32 / 16_777_216.0).to_bits(),
        2 => (random.word() as i32 as f32).to_bits(),
        _ => special[random.below(special.len())],
    };
    (0..n).map(&mut draw).collect()
}

/// From f32 and back.
pub fn conversions(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let n = 700 + seed as usize;
    let bits = floats(seed, n);
    let m = f.machine();
    let (from, to) = (m.words(&bits), m.room(32 * n as u64));
    let args = [Arg::Pointer(from), Arg::Pointer(to), Arg::Number(n)];
    let done = t.run(&m, [n.div_ceil(f.constant("BLOCK")), 1], &args)?;
    let have = m.read(to, 8 * n);
    let below = |x: f32, limit: f32| if x.abs() < limit { x } else { 0.0 };
    let wide = |half: u16| half as i16 as i32 as u32;
    let expect: [&dyn Fn(u32) -> u32; 8] = [
        &|b| wide(f16::from_f32(f32::from_bits(b)).to_bits()),
        &|b| wide(bf16::from_f32(f32::from_bits(b)).to_bits()),
        &|b| below(f32::from_bits(b), 2_147_483_648.0) as i32 as u32,
        &|b| i32::from(below(f32::from_bits(b), 128.0) as i8) as u32,
        &|b| (b as i32 as f32).to_bits(),
        &|b| f16::from_bits(b as u16).to_f32().to_bits(),
        &|b| bf16::from_bits(b as u16).to_f32().to_bits(),
        &|b| f32::from(b as u8).to_bits(),
    ];
    for (part, (have, expect)) in have.chunks(n).zip(expect).enumerate() {
        let want: Vec<u32> = bits.iter().map(|&b| expect(b)).collect();
        let nan = |h: u32| match part {
            0 => f16::from_bits(h as u16).is_nan(),
            1 => bf16::from_bits(h as u16).is_nan(),
            5 | 6 => is_nan(h),
            _ => false,
        };
        same(f, seed, have, &want, nan);
    }
    Ok(done)
}

/// What IEEE 754 gives bit for bit.
pub fn float_bits(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let n = 600 + seed as usize;
    let (a, b) = (floats(2 * seed, n), floats(2 * seed + 1, n));
    let m = f.machine();
    let (pa, pb, to) = (m.words(&a), m.words(&b), m.room(32 * n as u64));
    let args = [
        Arg::Pointer(pa),
        Arg::Pointer(pb),
        Arg::Pointer(to),
        Arg::Number(n),
    ];
    let done = t.run(&m, [n.div_ceil(f.constant("BLOCK")), 1], &args)?;
    let expect: [fn(f32, f32) -> f32; 8] = [
        |x, y| x + y,
        |x, y| x * y,
        |x, y| x.mul_add(y, x),
        |x, y| x / y,
        |x, _| x.abs().sqrt(),
        |x, _| x.floor(),
        // A zero is larger than a negative one.
        |x, y| {
            if x == y {
                f32::from_bits(x.to_bits() & y.to_bits())
            } else {
                x.max(y)
            }
        },
        |_, y| y.ceil(),
    ];
    for (have, expect) in m.read(to, 8 * n).chunks(n).zip(expect) {
        let pairs = a
            .iter()
            .zip(&b)
            .map(|(&x, &y)| (f32::from_bits(x), f32::from_bits(y)));
        let want: Vec<u32> = pairs.map(|(x, y)| expect(x, y).to_bits()).collect();
        same(f, seed, have, &want, is_nan);
    }
    Ok(done)
}

/// Rows of floats to int8.
pub fn quantise(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let (rows, columns) = (3, f.constant("BLOCK") - 100 * seed as usize - 1);
    let mut random = Random::new(seed);
    let x: Vec<f32> = (0..rows * columns)
        .map(|_| random.word() as i32 as f32 * 1e-7)
        .collect();
    let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
    let m = f.machine();
    let (from, q, scales) = (
        m.words(&bits),
        m.room((rows * columns) as u64),
        m.room(4 * rows as u64),
    );
    let args = [
        Arg::Pointer(from),
        Arg::Pointer(q),
        Arg::Pointer(scales),
        Arg::Number(columns),
    ];
    let done = t.run(&m, [rows, 1], &args)?;
    let mut have = vec![0; rows * columns];
    m.memory.read(q, &mut have).expect("all bytes written");
    for (r, row) in x.chunks(columns).enumerate() {
        let scale = row.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
        assert_eq!(
            m.read(scales, rows)[r],
            scale.to_bits(),
            "{}, seed {seed}",
            f.name
        );
        let want = row.iter().map(|x| (x / scale + 0.5).floor() as i8 as u8);
        assert!(
            want.eq(have[r * columns..][..columns].iter().copied()),
            "{}, seed {seed}",
            f.name
        );
    }
    Ok(done)
}
