//! The registers of one warp: `[register][lane]`, so that an instruction is one loop over lanes.
use std::cell::Cell;

use super::cluster::{stop, Step};
use super::FaultKind;
use crate::ptx::ir::{PredSrc, Reg, Src};

/// One value a lane.
pub type Lanes<T> = [T; 32];

/// All 32 lanes.
pub const FULL: u32 = u32::MAX;

/// The register files.
pub struct Regs {
    w32: Vec<Lanes<u32>>,
    w64: Vec<Lanes<u64>>,
    preds: Vec<u32>,
    watch: Option<Box<Watch>>,
}

/// What wgmma needs to know of one 32-bit register.
#[derive(Clone, Default)]
struct Watched {
    /// `wgmma.fence`s run when it was last accessed.
    fences: Cell<u32>,
    /// The wgmma group that owns it, from 1; 0 for none.
    group: Cell<u32>,
    /// Columns of the wgmma whose accumulator it is; 0 for a fragment of A.
    columns: Cell<u16>,
}

/// Accesses to registers, in a kernel with wgmma.
struct Watch {
    fences: u32,
    regs: Vec<Watched>,
    owned: Vec<u32>,
    /// A register that was accessed while a wgmma owned it.
    offence: Cell<Option<u32>>,
}

impl Watch {
    fn note(&self, i: u32) {
        let r = &self.regs[i as usize];
        r.fences.set(self.fences);
        if r.group.get() != 0 {
            self.offence.set(Some(i));
        }
    }
}

fn wrong<T>(text: impl Into<String>) -> Step<T> {
    stop(0, FaultKind::Warpgroup(text.into()))
}

impl Regs {
    /// Registers full of garbage.
    ///
    /// With `watched`, accesses to 32-bit registers are followed for wgmma.
    pub fn new(w32: u32, w64: u32, preds: u32, watched: bool) -> Self {
        let watch = || {
            Box::new(Watch {
                fences: 0,
                regs: vec![Watched::default(); w32 as usize],
                owned: Vec::new(),
                offence: Cell::new(None),
            })
        };
        Regs {
            watch: watched.then(watch),
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

    fn note(&self, r: Reg) {
        if let (Some(watch), Reg::W32(i)) = (&self.watch, r) {
            watch.note(i);
        }
    }

    /// Refuses the instruction that ran if it accessed a register that a wgmma owns.
    pub fn check(&self, lane: usize) -> Step {
        match self.watch.as_ref().and_then(|watch| watch.offence.get()) {
            None => Ok(()),
            Some(_) => stop(
                lane,
                FaultKind::Warpgroup(String::from(
                    "a register of a wgmma in flight is accessed: wgmma.wait_group comes first",
                )),
            ),
        }
    }

    /// `wgmma.fence`.
    pub fn fence(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.fences += 1;
        }
    }

    fn claim(&mut self, i: u32, columns: u16, group: u32) -> Step {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        let r = &watch.regs[i as usize];
        if r.group.get() != 0 {
            if r.columns.get() != columns {
                return wrong("a register of a wgmma in flight is used by one of another shape or as another operand");
            }
        } else if r.fences.get() >= watch.fences {
            return wrong(
                "a register was accessed (or nothing was fenced yet) and no wgmma.fence followed",
            );
        } else {
            watch.owned.push(i);
        }
        r.group.set(group);
        r.columns.set(columns);
        Ok(())
    }

    /// Makes a wgmma of group `group` the owner of its accumulators.
    pub fn claim_accumulators(&mut self, d: &[u32], columns: u16, group: u32) -> Step {
        d.iter().try_for_each(|&i| self.claim(i, columns, group))
    }

    /// Makes a wgmma of group `group` the owner of its fragment of A; what it holds.
    pub fn claim_fragment(&mut self, list: &[Src], group: u32) -> Step<Vec<Lanes<u32>>> {
        list.iter()
            .map(|s| match *s {
                Src::Reg(Reg::W32(i)) => {
                    self.claim(i, 0, group)?;
                    Ok(self.w32[i as usize])
                }
                Src::Imm(v) => Ok([v as u32; 32]),
                _ => wrong("a fragment of A that is no 32-bit register"),
            })
            .collect()
    }

    /// Ends the ownership of groups up to number `done`.
    pub fn retire(&mut self, done: u32) {
        if let Some(watch) = &mut self.watch {
            let regs = &watch.regs;
            watch.owned.retain(|&i| {
                let keep = regs[i as usize].group.get() > done;
                if !keep {
                    regs[i as usize].group.set(0);
                }
                keep
            });
        }
    }

    /// A 32-bit register, whoever owns it.
    pub fn raw(&self, i: u32) -> Lanes<u32> {
        self.w32[i as usize]
    }

    /// Writes a 32-bit register, whoever owns it.
    pub fn set_raw(&mut self, i: u32, values: Lanes<u32>) {
        self.w32[i as usize] = values;
    }

    /// Zero-extended lanes.
    pub fn get64(&self, r: Reg) -> Lanes<u64> {
        self.note(r);
        match r {
            Reg::W32(i) => self.w32[i as usize].map(u64::from),
            Reg::W64(i) => self.w64[i as usize],
            Reg::Sink => [0; 32],
        }
    }

    /// Low 32 bits of the lanes.
    pub fn get32(&self, r: Reg) -> Lanes<u32> {
        self.note(r);
        match r {
            Reg::W32(i) => self.w32[i as usize],
            Reg::W64(i) => self.w64[i as usize].map(|v| v as u32),
            Reg::Sink => [0; 32],
        }
    }

    /// Writes the lanes of `mask`, zero-extended to the register.
    pub fn set32(&mut self, r: Reg, mask: u32, values: &Lanes<u32>) {
        self.note(r);
        match r {
            Reg::W32(i) => select(&mut self.w32[i as usize], mask, values),
            Reg::W64(i) => select(&mut self.w64[i as usize], mask, &values.map(u64::from)),
            Reg::Sink => {}
        }
    }

    /// Writes the lanes of `mask`, cut to the register.
    pub fn set64(&mut self, r: Reg, mask: u32, values: &Lanes<u64>) {
        self.note(r);
        match r {
            Reg::W32(i) => select(&mut self.w32[i as usize], mask, &values.map(|v| v as u32)),
            Reg::W64(i) => select(&mut self.w64[i as usize], mask, values),
            Reg::Sink => {}
        }
    }

    /// Writes one lane, cut to the register.
    pub fn set_lane(&mut self, r: Reg, lane: usize, value: u64) {
        self.note(r);
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
