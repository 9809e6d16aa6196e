//! What a kernel reaches when nothing but its dot products costs anything.

use super::engine::Engine;
use super::kernel::{Kernel, Trailing};
use super::select::with_engine;
use super::Cpu;
use std::hint::black_box;
use std::time::Instant;

/// Both operands of a tile stay below the 32 KiB that first-level caches have at least.
const CACHE: usize = 28 << 10;

impl Cpu {
    /// int8 operations a second (2 a multiply-add) of this backend's kernel and threads over operands that stay in the
    /// first-level cache: the ceiling for a product, measured for about `seconds`.
    ///
    /// It counts the kernel's whole tile, so it lies a few percent below the rate of its dot-product instruction.
    ///
    /// ```
    /// let peak = imma::Cpu::new().with_threads(1)?.peak(0.01);
    /// println!("{:.0} GOPS", peak * 1e-9);
    /// # Ok::<(), imma::Error>(())
    /// ```
    pub fn peak(&self, seconds: f64) -> f64 {
        let one = || with_engine!(self.kernel, engine => engine.rate(seconds));
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads()).map(|_| scope.spawn(one)).collect();
            let own = one();
            own + others
                .into_iter()
                .map(|thread| thread.join().unwrap_or(0.0))
                .sum::<f64>()
        })
    }
}

/// The best of several rounds on this thread.
pub(crate) fn of_kernel<L: Kernel>(kernel: L, seconds: f64) -> f64 {
    let (kr, nr) = (L::LAYOUT.kr, L::LAYOUT.nr);
    let groups = CACHE / (4 * L::MR + nr * kr);
    let lhs = vec![0x0102_7f80_u32; groups * L::MR];
    let rhs = vec![0x5a_u8; groups * nr * kr];
    let init = vec![0; L::MR];
    let mut acc = vec![0; L::MR * nr];
    let operations = (2 * groups * kr * nr * L::MR) as f64;
    let mut best = 0.0f64;
    let start = Instant::now();
    kernel.vectorize(|| loop {
        let round = Instant::now();
        for _ in 0..256 {
            kernel.tile(
                L::MR,
                groups,
                black_box(&lhs),
                &rhs,
                &init,
                &mut acc,
                Trailing::NONE,
            );
            black_box(&mut acc);
        }
        best = best.max(256.0 * operations / round.elapsed().as_secs_f64());
        if start.elapsed().as_secs_f64() >= seconds {
            return best;
        }
    })
}
