//! Kernels as nvcc 13.0 compiles them (`ptx/kernels.cu`).
mod common;

use common::{Arg, Machine};
use fake_cuda::exec::FaultKind;

const PTX: &str = include_str!("ptx/kernels.ptx");

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

fn bytes(seed: u32, n: usize) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn vector_add() {
    let m = Machine::new(PTX);
    let a: Vec<f32> = (0..1000).map(|i| i as f32 * 0.37).collect();
    let b: Vec<f32> = (0..1000).map(|i| 5.0 - i as f32).collect();
    let (pa, pb, pc) = (m.words(&bits(&a)), m.words(&bits(&b)), m.room(4000));
    let stats = m.run(
        "vector_add",
        4,
        256,
        0,
        &[Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::U32(1000)],
    );
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(m.read(pc, 1000), bits(&want));
    assert_eq!(stats.blocks, 4);
    assert!(stats.thread_instructions > 10_000);
}

#[test]
fn reduction_by_shuffles_shared_memory_and_atomics() {
    let m = Machine::new(PTX);
    let a: Vec<f32> = (0..5000).map(|i| (i % 17) as f32).collect();
    let (pa, out) = (m.words(&bits(&a)), m.words(&[0]));
    m.run(
        "reduce_sum",
        7,
        192,
        0,
        &[Arg::Ptr(pa), Arg::Ptr(out), Arg::U32(5000)],
    );
    assert_eq!(f32::from_bits(m.read(out, 1)[0]), a.iter().sum::<f32>());
}

#[test]
fn calls_tables_variables_and_switches() {
    let m = Machine::new(PTX);
    let k = 3;
    let input: Vec<u32> = (0..64u32)
        .map(|i| i.wrapping_mul(2_654_435_761) >> 20)
        .collect();
    let (pin, out) = (m.words(&input), m.room(256));
    // The struct takes 16 bytes, so the packed parameters are written out here.
    let mut params = 7u64.to_le_bytes().to_vec();
    params.extend(pin.to_le_bytes());
    params.extend(out.to_le_bytes());
    params.extend((k as u32).to_le_bytes());
    let launch = fake_cuda::exec::Launch {
        module: &m.module,
        entry: "misc",
        grid: [1; 3],
        block: [64, 1, 1],
        cluster: [1; 3],
        explicit_cluster: false,
        dependent: false,
        dynamic_shared: 0,
        params: &params,
        memory: &m.memory,
        device: &m.device,
        seed: 3,
        relaxed: Default::default(),
    };
    fake_cuda::exec::launch(&launch).unwrap_or_else(|e| panic!("{e}"));
    let want: Vec<u32> = (0..64i32)
        .map(|i| {
            let x = input[i as usize] as i32;
            let s: i32 = (0..k).map(|j| x * ((j * k) & 7)).sum();
            let v = s + [1, 20, 300, 4000][(i & 3) as usize] + 7;
            (match (k + i) % 9 {
                0 => 1,
                1 => v + 3,
                2 => v * 3,
                3 => v - 3,
                4 => k,
                5 => v ^ 0x55,
                6 => v << 2,
                _ => v / 7,
            }) as u32
        })
        .collect();
    assert_eq!(m.read(out, 64), want);
    let (visits, size) = m.module.global("visits").unwrap();
    assert_eq!((m.read(visits, 1)[0], size), (5 + 64, 4));
}

#[test]
fn a_failed_assert_says_its_text() {
    let m = Machine::new(PTX);
    // v = 0 + table[0] + bias at lane 0, case (0 + 0) % 9 = 0 sets 1; lane 1: case 1, v + 3 = 20 + bias + 3.
    let (pin, out) = (m.words(&[0; 32]), m.room(128));
    let mut params = (77777u64 - 23).to_le_bytes().to_vec();
    params.extend(pin.to_le_bytes());
    params.extend(out.to_le_bytes());
    params.extend(0u32.to_le_bytes());
    let launch = fake_cuda::exec::Launch {
        module: &m.module,
        entry: "misc",
        grid: [1; 3],
        block: [32, 1, 1],
        cluster: [1; 3],
        explicit_cluster: false,
        dependent: false,
        dynamic_shared: 0,
        params: &params,
        memory: &m.memory,
        device: &m.device,
        seed: 3,
        relaxed: Default::default(),
    };
    let fault = fake_cuda::exec::launch(&launch).unwrap_err();
    assert!(
        matches!(&fault.kind, FaultKind::Assert(text) if text.contains("v != 77777")),
        "{fault}"
    );
    assert_eq!(fault.thread, [1, 0, 0]);
}

#[test]
fn conversions_of_a_row() {
    let m = Machine::new(PTX);
    let n = 300;
    let x: Vec<f32> = (0..n)
        .map(|i| (i as f32 - 150.0) * 0.01 * if i % 7 == 0 { 30.0 } else { 1.0 })
        .collect();
    let (px, h, b, q) = (m.words(&bits(&x)), m.room(600), m.room(600), m.room(300));
    let args = [
        Arg::Ptr(px),
        Arg::Ptr(h),
        Arg::Ptr(b),
        Arg::Ptr(q),
        Arg::F32(50.0),
        Arg::U32(n),
    ];
    m.run("convert", 3, 128, 0, &args);
    let (mut hb, mut bb, mut qb) = (vec![0; 600], vec![0; 600], vec![0; 300]);
    m.memory.read(h, &mut hb).unwrap();
    m.memory.read(b, &mut bb).unwrap();
    m.memory.read(q, &mut qb).unwrap();
    for (i, &x) in x.iter().enumerate() {
        let at = |v: &[u8]| u16::from_le_bytes([v[2 * i], v[2 * i + 1]]);
        assert_eq!(at(&hb), half::f16::from_f32(x).to_bits(), "{x}");
        assert_eq!(at(&bb), half::bf16::from_f32(x).to_bits(), "{x}");
        assert_eq!(
            qb[i] as i8,
            (x * 50.0).round_ties_even().clamp(-127.0, 127.0) as i8,
            "{x}"
        );
    }
}

#[test]
fn diverged_lanes_that_spin_do_not_starve_the_lane_with_the_lock() {
    let m = Machine::new(PTX);
    let (lock, sum) = (m.words(&[0]), m.words(&[0]));
    m.run("spin", 2, 48, 0, &[Arg::Ptr(lock), Arg::Ptr(sum)]);
    assert_eq!(m.read(sum, 1)[0], 2 * (47 * 48 / 2));
}

#[test]
fn staged_igemm_is_exact_under_every_schedule() {
    let m = Machine::new(PTX);
    let (rows, cols, depth) = (128usize, 64usize, 320usize);
    let (a, b) = (bytes(1, rows * depth), bytes(2, cols * depth));
    let (pa, pb) = (m.bytes(&a), m.bytes(&b));
    let want: Vec<u32> = (0..rows * cols)
        .map(|i| {
            let (r, c) = (i / cols, i % cols);
            (0..depth)
                .map(|k| i32::from(a[r * depth + k] as i8) * i32::from(b[c * depth + k] as i8))
                .sum::<i32>() as u32
        })
        .collect();
    for seed in 0..4 {
        let pc = m.room((rows * cols * 4) as u64);
        let mut params = Vec::new();
        for p in [pa, pb, pc] {
            params.extend(p.to_le_bytes());
        }
        params.extend((cols as u32).to_le_bytes());
        params.extend((depth as u32).to_le_bytes());
        let launch = fake_cuda::exec::Launch {
            module: &m.module,
            entry: "igemm",
            grid: [1, 2, 1],
            block: [128, 1, 1],
            cluster: [1; 3],
            explicit_cluster: false,
            dependent: false,
            dynamic_shared: 3 * 8192,
            params: &params,
            memory: &m.memory,
            device: &m.device,
            seed,
            relaxed: Default::default(),
        };
        fake_cuda::exec::launch(&launch).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(m.read(pc, rows * cols), want, "seed {seed}");
    }
}
