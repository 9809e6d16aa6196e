//! How fast the emulator is. Ignored by default: a time is not a test.
//!
//! `cargo test -p fake_cuda --release --test speed -- --ignored --nocapture`; with
//! `RAYON_NUM_THREADS=1` for the figure of one core.
mod common;

use common::{Arg, Machine};
use std::time::Instant;

const PTX: &str = include_str!("ptx/kernels.ptx");

fn report(what: &str, stats: fake_cuda::exec::LaunchStats, start: Instant) {
    let s = start.elapsed().as_secs_f64();
    let rate = stats.thread_instructions as f64 / s / 1e6;
    println!(
        "{what}: {} thread-instructions in {s:.3} s, {rate:.0} million a second",
        stats.thread_instructions
    );
}

#[test]
#[ignore = "a measurement"]
fn thread_instructions_a_second() {
    let m = Machine::new(PTX);
    let n = 1 << 20;
    let a = m.words(&vec![0x3f80_0000; n]);
    let (b, out) = (m.room(4 * n as u64), m.words(&[0]));
    let start = Instant::now();
    let grid = (n / 256) as u32;
    report(
        "vector_add",
        m.run(
            "vector_add",
            grid,
            256,
            0,
            &[Arg::Ptr(a), Arg::Ptr(a), Arg::Ptr(b), Arg::U32(n as u32)],
        ),
        start,
    );
    let start = Instant::now();
    report(
        "reduce_sum",
        m.run(
            "reduce_sum",
            64,
            256,
            0,
            &[Arg::Ptr(a), Arg::Ptr(out), Arg::U32(n as u32)],
        ),
        start,
    );
    let (a, b, c) = (
        m.bytes(&vec![3; 64 * 4096]),
        m.bytes(&vec![2; 2048 * 4096]),
        m.room(64 * 2048 * 4),
    );
    let start = Instant::now();
    let args = [
        Arg::Ptr(a),
        Arg::Ptr(b),
        Arg::Ptr(c),
        Arg::U32(2048),
        Arg::U32(4096),
    ];
    report(
        "igemm 64x2048x4096",
        m.run("igemm", 32, 128, 3 * 8192, &args),
        start,
    );
}
