//! Kernels over words.
use super::fixture::{Arg, Outcome, Random, Trial};

/// A matrix of words and its transpose.
pub fn transpose(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let [rows, columns] = [100 - 4 * seed as usize, 64 + 4 * seed as usize];
    let words = Random::new(seed).words(rows * columns);
    let m = f.machine();
    let (from, to) = (m.words(&words), m.room(4 * words.len() as u64));
    let args = [
        Arg::Matrix(from, [rows, columns], 4 * columns),
        Arg::Matrix(to, [columns, rows], 4 * rows),
    ];
    let tiles = [
        rows.div_ceil(f.constant("R")),
        columns.div_ceil(f.constant("C")),
    ];
    let done = t.run(&m, tiles, &args)?;
    let have = m.read(to, words.len());
    let want = |i: usize| words[i % rows * columns + i / rows];
    assert!(
        (0..words.len()).all(|i| have[i] == want(i)),
        "{}, seed {seed}",
        f.name
    );
    Ok(done)
}

/// Tiles added into one by reducing stores.
pub fn reduce(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let [r, c] = ["R", "C"].map(|name| f.constant(name));
    let tiles = 5;
    let mut random = Random::new(seed);
    let (words, mut want) = (random.words(tiles * r * c), random.words(r * c));
    let m = f.machine();
    let (from, to) = (m.words(&words), m.words(&want));
    let args = [
        Arg::Matrix(from, [tiles * r, c], 4 * c),
        Arg::Matrix(to, [r, c], 4 * c),
    ];
    let done = t.run(&m, [tiles, 1], &args)?;
    for tile in words.chunks(r * c) {
        want.iter_mut()
            .zip(tile)
            .for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
    }
    assert!(m.read(to, r * c) == want, "{}, seed {seed}", f.name);
    Ok(done)
}

/// Counters, bounds and bits of all values, and a lock.
pub fn atomics(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let n = 1000 + 77 * seed as usize;
    let words = Random::new(seed).words(n);
    let signed = || words.iter().map(|&w| w as i32);
    let mut start = vec![0; 24];
    (start[16], start[17], start[19]) = (i32::MIN as u32, i32::MAX as u32, u32::MAX);
    let m = f.machine();
    let (from, to) = (m.words(&words), m.words(&start));
    let blocks = n.div_ceil(f.constant("BLOCK"));
    let args = [Arg::Pointer(from), Arg::Pointer(to), Arg::Number(n)];
    let done = t.run(&m, [blocks, 1], &args)?;
    let mut want: Vec<u32> = (0..16)
        .map(|i| words.iter().filter(|w| **w & 15 == i).count() as u32)
        .collect();
    // What a masked lane loads as 0 takes no part.
    want.push(signed().max().expect("values") as u32);
    want.push(signed().min().expect("values") as u32);
    want.push(words.iter().fold(0, |a, w| a | w));
    want.push(words.iter().fold(u32::MAX, |a, w| a & w));
    want.push(words.iter().fold(0, |a, w| a ^ w));
    want.push(words.iter().fold(0, |a, w| a.wrapping_add(*w)));
    want.extend([0, blocks as u32]);
    assert_eq!(m.read(to, 24), want, "{}, seed {seed}", f.name);
    Ok(done)
}

/// Prefix sums, prefix maxima, the row sorted.
pub fn scan(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let (rows, columns) = (3, f.constant("COLUMNS"));
    let words = Random::new(seed).words(rows * columns);
    let m = f.machine();
    let (from, to) = (m.words(&words), m.room(12 * words.len() as u64));
    let done = t.run(&m, [rows, 1], &[Arg::Pointer(from), Arg::Pointer(to)])?;
    let mut want: Vec<u32> = Vec::new();
    for row in words.chunks(columns) {
        let running = |f: fn(i32, i32) -> i32, from: i32| {
            row.iter().scan(from, move |acc, &w| {
                *acc = f(*acc, w as i32);
                Some(*acc as u32)
            })
        };
        want.extend(running(i32::wrapping_add, 0));
        want.extend(running(i32::max, i32::MIN));
        let mut sorted: Vec<i32> = row.iter().map(|&w| w as i32).collect();
        sorted.sort_unstable();
        want.extend(sorted.iter().map(|&w| w as u32));
    }
    assert!(m.read(to, want.len()) == want, "{}, seed {seed}", f.name);
    Ok(done)
}

/// A copy of a matrix, tile by tile.
pub fn turns(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let [r, c, steps] = ["R", "C", "STEPS"].map(|name| f.constant(name));
    let [rows, columns] = [r * steps - seed as usize, 2 * c - 4];
    let words = Random::new(seed).words(rows * columns);
    let m = f.machine();
    let (from, to) = (m.words(&words), m.room(4 * words.len() as u64));
    let matrix = |at| Arg::Matrix(at, [rows, columns], 4 * columns);
    let done = t.run(&m, [columns.div_ceil(c), 1], &[matrix(from), matrix(to)])?;
    assert!(m.read(to, words.len()) == words, "{}, seed {seed}", f.name);
    Ok(done)
}

/// A copy of words.
pub fn half_written(t: &Trial<'_>) -> Outcome {
    let (f, seed) = (t.fixture, t.seed);
    let n = 1000 + seed as usize;
    let words = Random::new(seed).words(n);
    let m = f.machine();
    let (from, to) = (m.words(&words), m.room(4 * n as u64));
    let args = [Arg::Pointer(from), Arg::Pointer(to), Arg::Number(n)];
    let done = t.run(&m, [n.div_ceil(f.constant("BLOCK")), 1], &args)?;
    assert!(m.read(to, n) == words, "{}, seed {seed}", f.name);
    Ok(done)
}
