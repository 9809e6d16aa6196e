//! The registers of one warp: `[register][lane]`, so that an instruction is one loop over lanes.
use crate::ptx::ir::{PredSrc, Reg};

/// One value a lane.
pub type Lanes<T> = [T; 32];

/// All 32 lanes.
pub const FULL: u32 = u32::MAX;

/// The register files.
pub struct Regs {
    w32: Vec<Lanes<u32>>,
    w64: Vec<Lanes<u64>>,
    preds: Vec<u32>,
}

impl Regs {
    /// Registers full of garbage.
    pub fn new(w32: u32, w64: u32, preds: u32) -> Self {
        Regs {
            w32: vec![[0xdead_beef; 32]; w32 as usize],
            w64: vec![[0xdead_beef_dead_beef; 32]; w64 as usize],
            preds: vec![0xa5a5_a5a5; preds as usize],
        }
    }

    /// The lanes in which a predicate holds.
    pub fn pred(&self, p: PredSrc) -> u32 {
        match p {
            PredSrc::Reg(i, false) => self.preds[i as usize],
            PredSrc::Reg(i, true) => !self.preds[i as usize],
            PredSrc::Const(true) => FULL,
            PredSrc::Const(false) => 0,
        }
    }

    /// Writes the lanes of `mask` of a predicate.
    pub fn set_pred(&mut self, i: u32, mask: u32, bits: u32) {
        let p = &mut self.preds[i as usize];
        *p = (*p & !mask) | (bits & mask);
    }

    /// Zero-extended lanes.
    pub fn get64(&self, r: Reg) -> Lanes<u64> {
        match r {
            Reg::W32(i) => self.w32[i as usize].map(u64::from),
            Reg::W64(i) => self.w64[i as usize],
            Reg::Sink => [0; 32],
        }
    }

    /// Low 32 bits of the lanes.
    pub fn get32(&self, r: Reg) -> Lanes<u32> {
        match r {
            Reg::W32(i) => self.w32[i as usize],
            Reg::W64(i) => self.w64[i as usize].map(|v| v as u32),
            Reg::Sink => [0; 32],
        }
    }

    /// Writes the lanes of `mask`, zero-extended to the register.
    pub fn set32(&mut self, r: Reg, mask: u32, values: &Lanes<u32>) {
        match r {
            Reg::W32(i) => select(&mut self.w32[i as usize], mask, values),
            Reg::W64(i) => select(&mut self.w64[i as usize], mask, &values.map(u64::from)),
            Reg::Sink => {}
        }
    }

    /// Writes the lanes of `mask`, cut to the register.
    pub fn set64(&mut self, r: Reg, mask: u32, values: &Lanes<u64>) {
        match r {
            Reg::W32(i) => select(&mut self.w32[i as usize], mask, &values.map(|v| v as u32)),
            Reg::W64(i) => select(&mut self.w64[i as usize], mask, values),
            Reg::Sink => {}
        }
    }

    /// Writes one lane, cut to the register.
    pub fn set_lane(&mut self, r: Reg, lane: usize, value: u64) {
        match r {
            Reg::W32(i) => self.w32[i as usize][lane] = value as u32,
            Reg::W64(i) => self.w64[i as usize][lane] = value,
            Reg::Sink => {}
        }
    }
}

fn select<T: Copy>(into: &mut Lanes<T>, mask: u32, values: &Lanes<T>) {
    if mask == FULL {
        *into = *values;
        return;
    }
    for (l, (d, v)) in into.iter_mut().zip(values).enumerate() {
        if mask >> l & 1 == 1 {
            *d = *v;
        }
    }
}

/// The lanes of a mask, lowest first.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}

/// Mask of the lanes for which `f` holds.
pub fn ballot(f: impl Fn(usize) -> bool) -> u32 {
    (0..32).fold(0, |m, l| m | u32::from(f(l)) << l)
}

/// `f` of each lane.
pub fn each<T: Copy + Default>(f: impl Fn(usize) -> T) -> Lanes<T> {
    let mut out = [T::default(); 32];
    for (l, d) in out.iter_mut().enumerate() {
        *d = f(l);
    }
    out
}
