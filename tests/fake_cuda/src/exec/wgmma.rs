//! Integer wgmma: D[64,N] += A[64,32] B[N,32]^T. Each warp of the warpgroup computes its 16 rows.
//!
//! With g = lane / 4 and t = lane % 4, accumulator i of warp w holds row 16 w + g + 8 (i / 2 % 2), column
//! 8 (i / 4) + 2 t + i % 2. A in registers lies as for `mma.m16n8k32`.
//!
//! Both operands are K-major. Without a swizzle they are made of core matrices, 8 rows of 16 bytes side by side: the
//! next one along K is the leading byte offset away, the next 8 rows the stride byte offset. Under a swizzle over
//! 32, 64 or 128 bytes a row takes that many bytes, the next 8 rows are the stride byte offset away, and the 16-byte
//! chunks change places by the address bits that TMA uses.
use super::access::shared_fault;
use super::cluster::{stop, Cluster, Step};
use super::planted::{planted, Planted};
use super::regs::{Lanes, FULL};
use super::tensor::swizzle;
use super::warp::Warp;
use super::FaultKind;
use crate::memory::Who;
use crate::ptx::ir::{PredSrc, Src, WgmmaA, WgmmaShape};

/// A row of 32 values along K.
type Row = [i16; 32];

fn wrong<T>(text: impl Into<String>) -> Step<T> {
    stop(0, FaultKind::Warpgroup(text.into()))
}

/// A decoded matrix descriptor.
struct Matrix {
    start: u64,
    leading: u64,
    stride: u64,
    /// `CUtensorMapSwizzle`'s number.
    swizzle: u8,
}

impl Matrix {
    /// ```text
    /// bits 0-13 start address   16-29 leading byte offset   32-45 stride byte offset   (each / 16)
    ///      49-51 base offset    62-63 swizzle: 0 none, 1 over 128 bytes, 2 over 64, 3 over 32
    /// ```
    fn decode(bits: u64, rows: u64) -> Step<Self> {
        const UNUSED: u64 = 0x3ff1_c000_c000_c000;
        if bits & UNUSED != 0 {
            return wrong(format!(
                "matrix descriptor {bits:#x} has bits outside its fields"
            ));
        }
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let (leading, stride) = match planted(Planted::OffsetsSwapped) {
            true => (field(32), field(16)),
            false => (field(16), field(32)),
        };
        let m = Matrix {
            start: field(0),
            leading,
            stride,
            swizzle: [0, 3, 2, 1][(bits >> 62) as usize],
        };
        if bits >> 49 & 7 != 0 {
            return wrong("matrix descriptors with a base offset are not emulated");
        }
        if m.swizzle == 0 {
            return Ok(m);
        }
        let span = 16u64 << m.swizzle;
        if m.start >> 7 & (span / 16 - 1) != 0 {
            return wrong(format!(
                "matrix at {:#x}: with base offset 0 the pattern of a {span}-byte swizzle starts at a multiple of {}",
                m.start,
                8 * span
            ));
        }
        if m.start % span + 32 > span {
            return wrong(format!(
                "matrix at {:#x}: 32 bytes along K leave the {span}-byte row",
                m.start
            ));
        }
        if rows > 8 && !m.stride.is_multiple_of(8 * span) {
            return wrong(format!(
                "stride byte offset {} under a {span}-byte swizzle, want a multiple of {}",
                m.stride,
                8 * span
            ));
        }
        Ok(m)
    }

    /// Address of the 16 bytes of `row` from byte 16 `half` on.
    fn chunk(&self, row: u64, half: u64) -> u64 {
        let group = self.start + row / 8 * self.stride;
        match self.swizzle {
            0 => group + row % 8 * 16 + half * self.leading,
            mode => swizzle(mode, group + row % 8 * (16 << mode) + half * 16),
        }
    }
}

fn widen(bytes: [u8; 32], signed: bool) -> Row {
    match signed {
        true => bytes.map(|b| i16::from(b as i8)),
        false => bytes.map(i16::from),
    }
}

/// The 16 rows that a warp holds in four registers.
fn fragment(regs: &[Lanes<u32>], signed: bool) -> Vec<Row> {
    let mut rows = vec![[0u8; 32]; 16];
    for (r, lanes) in regs.iter().enumerate() {
        for (lane, bits) in lanes.iter().enumerate() {
            let (row, k) = (lane / 4 + 8 * (r % 2), 4 * (lane % 4) + 16 * (r / 2));
            rows[row][k..k + 4].copy_from_slice(&bits.to_le_bytes());
        }
    }
    rows.into_iter().map(|row| widen(row, signed)).collect()
}

fn dot(a: &Row, b: &Row) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| i32::from(x) * i32::from(y))
        .sum()
}

impl Cluster<'_> {
    fn wgmma_actor(&self, w: &Warp) -> u16 {
        self.clocks
            .warpgroup(w.rank * self.warps().div_ceil(4) + w.id / 4)
    }

    fn uniform(&self, w: &Warp, s: Src, what: &str) -> Step<u64> {
        let all = self.src64(w, s);
        match all.iter().position(|v| *v != all[0]) {
            Some(lane) => stop(
                lane,
                FaultKind::Warpgroup(format!("{what} differs from lane to lane")),
            ),
            None => Ok(all[0]),
        }
    }

    fn panel(
        &mut self,
        w: &Warp,
        bits: u64,
        rows: std::ops::Range<u64>,
        signed: bool,
        who: Who,
    ) -> Step<Vec<Row>> {
        let matrix = Matrix::decode(bits, rows.end)?;
        let mut out = Vec::with_capacity(rows.clone().count());
        for row in rows {
            let mut bytes = [0; 32];
            for (half, chunk) in (0..2).zip(bytes.chunks_exact_mut(16)) {
                let memory = &mut self.blocks[w.rank].shared;
                let at = matrix.chunk(row, half);
                if let Err(fault) = memory.read(&self.clocks, at, chunk, who) {
                    return stop(0, shared_fault(fault));
                }
            }
            out.push(widen(bytes, signed));
        }
        Ok(out)
    }

    pub(super) fn wgmma(
        &mut self,
        w: &mut Warp,
        shape: WgmmaShape,
        d: &[u32],
        a: &WgmmaA,
        b: Src,
        scale_d: PredSrc,
    ) -> Step {
        let scale = w.regs.pred(scale_d);
        if scale != FULL && scale != 0 {
            return wrong("scale-d differs from lane to lane");
        }
        let b_bits = self.uniform(w, b, "descriptor B")?;
        let a_bits = match a {
            WgmmaA::Shared(s) => self.uniform(w, *s, "descriptor A")?,
            WgmmaA::Regs(_) => 0,
        };
        self.call(w, [a_bits, b_bits, u64::from(scale == FULL)])?;
        let group = w.group.committed + 1;
        w.regs.claim_accumulators(d, shape.n, group)?;
        let who = Who {
            warp: w.index,
            actor: self.wgmma_actor(w),
            clock: group,
            asynchronous: true,
            lane: None,
        };
        let first = 16 * (w.id as u64 % 4);
        let a = match a {
            WgmmaA::Shared(_) => self.panel(w, a_bits, first..first + 16, shape.a_signed, who)?,
            WgmmaA::Regs(list) => {
                let regs = w.regs.claim_fragment(list, group)?;
                fragment(&regs, shape.a_signed)
            }
        };
        let b = self.panel(w, b_bits, 0..shape.n.into(), shape.b_signed, who)?;
        for (i, &reg) in d.iter().enumerate() {
            let old = if scale == FULL {
                w.regs.raw(reg)
            } else {
                [0; 32]
            };
            let sums = std::array::from_fn(|lane| {
                let (g, t) = (lane / 4, lane % 4);
                let dot = dot(&a[g + 8 * (i / 2 % 2)], &b[8 * (i / 4) + 2 * t + i % 2]);
                let old = old[lane] as i32;
                (if shape.satfinite && !planted(Planted::NoSatfinite) {
                    old.saturating_add(dot)
                } else {
                    old.wrapping_add(dot)
                }) as u32
            });
            w.regs.set_raw(reg, sums);
        }
        Ok(())
    }

    pub(super) fn wgmma_fence(&mut self, w: &mut Warp) -> Step {
        self.call(w, [0; 3])?;
        w.regs.fence();
        Ok(())
    }

    pub(super) fn wgmma_commit(&mut self, w: &mut Warp) -> Step {
        self.call(w, [0; 3])?;
        w.group.committed += 1;
        Ok(())
    }

    /// All groups but the `keep` newest are done when the other warps have issued their part of them.
    pub(super) fn wgmma_wait(&mut self, w: &mut Warp, keep: u32) -> Step {
        if !w.group.waiting {
            self.call(w, [0; 3])?;
        }
        w.group.waiting = !self.all_came(w);
        if w.group.waiting {
            self.blocked = true;
            return Ok(());
        }
        let done = w.group.committed.saturating_sub(keep);
        let actor = self.wgmma_actor(w);
        self.clocks.learn(w.index, actor, done);
        w.regs.retire(done);
        Ok(())
    }
}
