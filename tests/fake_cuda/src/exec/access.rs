//! Loads, stores, atomics and `cp.async`, lane by lane.
use super::cluster::{stop, Cluster, Step};
use super::float::{f32x2, half2, halves};
use super::regs::lanes;
use super::warp::{Copy, Warp};
use super::FaultKind;
use crate::memory::{
    MemoryFault, SharedFault, ALL_LANES, BLOCK_WINDOW_BYTES, LOCAL_WINDOW, PARAM_WINDOW,
    SHARED_WINDOW, WINDOW_BYTES,
};
use crate::ptx::ir::{Addr, AtomOp, Float2, FloatMods, Reg, Round, Space, Src, Ty};

/// Plain rounding, nothing flushed.
const PLAIN: FloatMods = FloatMods {
    ftz: false,
    sat: false,
    relu: false,
    round: Round::Rn,
};

pub(super) fn shared_fault(f: SharedFault) -> FaultKind {
    match f {
        SharedFault::Memory(m) => FaultKind::Shared(m),
        SharedFault::Race(text) => FaultKind::Race(text),
        SharedFault::Pending(text) => FaultKind::AsyncPending(text),
        SharedFault::Proxy(text) => FaultKind::Proxy(text),
        SharedFault::Mbarrier(text) => FaultKind::Mbarrier(text),
    }
}

/// The space a generic address points into, and the address there.
pub(super) fn resolve(space: Space, addr: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, addr);
    }
    match addr {
        SHARED_WINDOW.. if addr - SHARED_WINDOW < WINDOW_BYTES => {
            (Space::Cluster, addr - SHARED_WINDOW)
        }
        LOCAL_WINDOW.. if addr - LOCAL_WINDOW < WINDOW_BYTES => (Space::Local, addr - LOCAL_WINDOW),
        PARAM_WINDOW.. if addr - PARAM_WINDOW < WINDOW_BYTES => (Space::Param, addr - PARAM_WINDOW),
        _ => (Space::Global, addr),
    }
}

fn extend(ty: Ty, v: u64) -> u64 {
    let shift = 64 - ty.bits();
    match ty.is_signed() {
        true => ((v << shift) as i64 >> shift) as u64,
        false => v,
    }
}

pub(super) fn combine(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let signed = |v: u64| extend(ty, v) as i64;
    match op {
        AtomOp::Add => match ty {
            Ty::F32 => f32x2(Float2::Add, PLAIN, old as u32, b as u32).into(),
            Ty::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => {
                halves(ty, [old as u32, b as u32], |[x, y]| {
                    half2(Float2::Add, ty, PLAIN, x, y)
                })
                .into()
            }
            _ => old.wrapping_add(b),
        },
        AtomOp::Min if ty.is_signed() => signed(old).min(signed(b)) as u64,
        AtomOp::Max if ty.is_signed() => signed(old).max(signed(b)) as u64,
        AtomOp::Min => old.min(b),
        AtomOp::Max => old.max(b),
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

impl Cluster<'_> {
    /// The address of each lane. 32-bit bases are shared addresses.
    pub(super) fn addresses(&self, w: &Warp, addr: Addr) -> [u64; 32] {
        let base = self.src64(w, addr.base);
        let narrow = matches!(addr.base, Src::Reg(Reg::W32(_)));
        base.map(|b| {
            let a = b.wrapping_add(addr.offset as u64);
            if narrow {
                a & 0xffff_ffff
            } else {
                a
            }
        })
    }

    pub(super) fn aligned(&self, lane: usize, space: Space, addr: u64, bytes: u64) -> Step {
        if addr.is_multiple_of(bytes) {
            return Ok(());
        }
        let fault = MemoryFault::Misaligned { addr, bytes };
        stop(
            lane,
            match space {
                Space::Shared | Space::Cluster => FaultKind::Shared(fault),
                Space::Local => FaultKind::Local(fault),
                Space::Param => FaultKind::Param(fault),
                Space::Global | Space::Generic => FaultKind::Global(fault),
            },
        )
    }

    /// The block (by rank) and the address in it that a shared address names.
    pub(super) fn locate(
        &self,
        w: &Warp,
        lane: usize,
        space: Space,
        addr: u64,
    ) -> Step<(usize, u64)> {
        let (rank, offset) = match (addr / BLOCK_WINDOW_BYTES) as usize {
            n if n == 0 || n > self.blocks.len() => return Ok((w.rank, addr)),
            n => (n - 1, addr % BLOCK_WINDOW_BYTES),
        };
        if rank == w.rank {
            return Ok((rank, offset));
        }
        if space == Space::Shared {
            let text = format!(
                ".shared::cta access to {addr:#x}, which is in block {rank} of the cluster; this one is {}",
                w.rank
            );
            return stop(lane, FaultKind::Cluster(text));
        }
        self.reachable(w, lane, rank)?;
        Ok((rank, offset))
    }

    /// Whether the shared memory of a block is there for certain.
    pub(super) fn reachable(&self, w: &Warp, lane: usize, rank: usize) -> Step {
        if rank == w.rank {
            return Ok(());
        }
        let each = self.warps();
        let text = if self.blocks[rank].alive == 0 {
            format!("the shared memory of block {rank} of the cluster, which has exited")
        } else if w.cluster_waited == 0
            && !self
                .clocks
                .heard_of(w.index, rank * each..(rank + 1) * each)
        {
            format!("the shared memory of block {rank} of the cluster, which may not have started: barrier.cluster comes first")
        } else {
            return Ok(());
        };
        stop(lane, FaultKind::Cluster(text))
    }

    /// Reads `n` elements of `width` bytes for one lane.
    pub(super) fn load(
        &mut self,
        w: &mut Warp,
        lane: usize,
        place: (Space, u64),
        width: u64,
        out: &mut [u64],
    ) -> Step {
        let (space, addr) = resolve(place.0, place.1);
        let total = width * out.len() as u64;
        self.aligned(lane, space, addr, total)?;
        if space == Space::Global {
            let Some(a) = self.env.view.find(addr, total, &mut w.hint) else {
                return stop(
                    lane,
                    FaultKind::Global(self.env.memory.explain_miss(addr, total)),
                );
            };
            self.released(w, lane, addr, false)?;
            for (i, v) in (0u64..).zip(out) {
                let at = addr + i * width;
                if !a.is_initialised(at, width) {
                    return stop(
                        lane,
                        FaultKind::Global(MemoryFault::Uninitialised {
                            addr: at,
                            bytes: width,
                        }),
                    );
                }
                *v = a.load(at, width);
            }
            return Ok(());
        }
        let mut bytes = [0u8; 64];
        let bytes = &mut bytes[..total as usize];
        let done = match space {
            Space::Shared | Space::Cluster => {
                let (rank, addr) = self.locate(w, lane, space, addr)?;
                self.visit(w, rank, None);
                let who = self.who_lane(w, lane);
                let memory = &mut self.blocks[rank].shared;
                memory
                    .read(&self.clocks, addr, bytes, who)
                    .map_err(shared_fault)
            }
            Space::Local => w.local.read(lane, addr, bytes).map_err(FaultKind::Local),
            _ => self.env.read_param(addr, bytes).map_err(FaultKind::Param),
        };
        if let Err(kind) = done {
            return stop(lane, kind);
        }
        for (v, chunk) in out.iter_mut().zip(bytes.chunks_exact(width as usize)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            *v = u64::from_le_bytes(word);
        }
        Ok(())
    }

    fn store(
        &mut self,
        w: &mut Warp,
        lane: usize,
        place: (Space, u64),
        width: u64,
        values: &[u64],
    ) -> Step {
        let (space, addr) = resolve(place.0, place.1);
        let total = width * values.len() as u64;
        self.aligned(lane, space, addr, total)?;
        if space == Space::Global {
            let Some(a) = self.env.view.find(addr, total, &mut w.hint) else {
                return stop(
                    lane,
                    FaultKind::Global(self.env.memory.explain_miss(addr, total)),
                );
            };
            self.released(w, lane, addr, true)?;
            a.mark_written();
            for (i, v) in (0u64..).zip(values) {
                a.store(addr + i * width, width, *v);
            }
            return Ok(());
        }
        let mut bytes = [0u8; 64];
        for (chunk, v) in bytes.chunks_exact_mut(width as usize).zip(values) {
            chunk.copy_from_slice(&v.to_le_bytes()[..width as usize]);
        }
        let bytes = &bytes[..total as usize];
        let done = match space {
            Space::Shared | Space::Cluster => {
                let (rank, addr) = self.locate(w, lane, space, addr)?;
                self.visit(w, rank, None);
                let who = self.who_lane(w, lane);
                let memory = &mut self.blocks[rank].shared;
                memory
                    .write(&self.clocks, addr, bytes, who)
                    .map_err(shared_fault)
            }
            Space::Local => w.local.write(lane, addr, bytes).map_err(FaultKind::Local),
            _ => Err(FaultKind::Undefined(format!(
                "store to the parameter at {addr:#x}"
            ))),
        };
        done.or_else(|kind| stop(lane, kind))
    }

    pub(super) fn ld(
        &mut self,
        w: &mut Warp,
        exec: u32,
        space: Space,
        ty: Ty,
        d: &[Reg],
        addr: Addr,
    ) -> Step {
        let at = self.addresses(w, addr);
        let mut values = [0u64; 8];
        for lane in lanes(exec) {
            let values = &mut values[..d.len()];
            self.load(w, lane, (space, at[lane]), u64::from(ty.bytes()), values)?;
            for (&reg, &v) in d.iter().zip(values.iter()) {
                w.regs.set_lane(reg, lane, extend(ty, v));
            }
        }
        Ok(())
    }

    pub(super) fn st(
        &mut self,
        w: &mut Warp,
        exec: u32,
        space: Space,
        ty: Ty,
        v: &[Src],
        addr: Addr,
    ) -> Step {
        let at = self.addresses(w, addr);
        let mut all = [[0u64; 32]; 8];
        for (slot, &src) in all.iter_mut().zip(v) {
            *slot = self.src64(w, src);
        }
        for lane in lanes(exec) {
            let mut values = [0u64; 8];
            values
                .iter_mut()
                .zip(&all)
                .for_each(|(v, src)| *v = src[lane]);
            self.store(
                w,
                lane,
                (space, at[lane]),
                u64::from(ty.bytes()),
                &values[..v.len()],
            )?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn atom(
        &mut self,
        w: &mut Warp,
        exec: u32,
        space: Space,
        op: AtomOp,
        ty: Ty,
        d: Option<Reg>,
        addr: Addr,
        b: Src,
        c: Src,
    ) -> Step {
        let (at, b, c) = (self.addresses(w, addr), self.src64(w, b), self.src64(w, c));
        let width = u64::from(ty.bytes());
        let keep = u64::MAX >> (64 - ty.bits());
        for lane in lanes(exec) {
            let (space, addr) = resolve(space, at[lane]);
            self.aligned(lane, space, addr, width)?;
            let f = |old: u64| combine(op, ty, old, b[lane] & keep, c[lane] & keep) & keep;
            let old = match space {
                Space::Shared | Space::Cluster => {
                    let (rank, addr) = self.locate(w, lane, space, addr)?;
                    self.visit(w, rank, None);
                    let who = self.who_lane(w, lane);
                    let memory = &mut self.blocks[rank].shared;
                    match memory.update(&self.clocks, addr, width, who, f) {
                        Ok(old) => old,
                        Err(fault) => return stop(lane, shared_fault(fault)),
                    }
                }
                Space::Global => {
                    let Some(a) = self.env.view.find(addr, width, &mut w.hint) else {
                        return stop(
                            lane,
                            FaultKind::Global(self.env.memory.explain_miss(addr, width)),
                        );
                    };
                    if !a.is_initialised(addr, width) {
                        return stop(
                            lane,
                            FaultKind::Global(MemoryFault::Uninitialised { addr, bytes: width }),
                        );
                    }
                    self.released(w, lane, addr, true)?;
                    a.mark_written();
                    a.update(addr, width, f)
                }
                _ => {
                    return stop(
                        lane,
                        FaultKind::Undefined(format!(
                            "atomic at {addr:#x}, which is neither global nor shared"
                        )),
                    )
                }
            };
            if let Some(d) = d {
                w.regs.set_lane(d, lane, extend(ty, old));
            }
        }
        Ok(())
    }

    /// Before `griddepcontrol.wait`, a dependent launch may read what the kernel before it did not write; nothing else.
    pub(super) fn released(&self, w: &Warp, lane: usize, addr: u64, writes: bool) -> Step {
        if w.unreleased >> lane & 1 == 0 || !(writes || self.env.view.is_unready(addr)) {
            return Ok(());
        }
        let what = match writes {
            true => "written",
            false => "read, in an allocation that the kernel before writes to,",
        };
        let text = format!("{addr:#x} is {what} before griddepcontrol.wait");
        stop(lane, FaultKind::Dependent(text))
    }

    /// Reads the source now; the bytes arrive in shared memory at the wait.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn cp_async(
        &mut self,
        w: &mut Warp,
        exec: u32,
        bytes: u8,
        dst: Addr,
        src: Addr,
        src_bytes: Option<Src>,
        ignore: u32,
    ) -> Step {
        let (dst, src) = (self.addresses(w, dst), self.addresses(w, src));
        let sizes = src_bytes.map_or([u32::from(bytes); 32], |s| self.src32(w, s));
        for lane in lanes(exec) {
            let total = u64::from(bytes);
            self.aligned(lane, Space::Shared, dst[lane], total)?;
            self.aligned(lane, Space::Global, src[lane], total)?;
            let size = if ignore >> lane & 1 == 1 {
                0
            } else {
                sizes[lane]
            };
            if size > u32::from(bytes) {
                return stop(
                    lane,
                    FaultKind::Undefined(format!(
                        "cp.async of {bytes} bytes with a source size of {size}"
                    )),
                );
            }
            let mut data = [0u8; 16];
            // Whole words where the source is whole; a shorter source is read byte by byte.
            let width = if size == u32::from(bytes) {
                size.min(8)
            } else {
                1
            };
            for (at, piece) in (src[lane]..)
                .step_by(width as usize)
                .zip(data[..size as usize].chunks_mut(width as usize))
            {
                let mut value = [0];
                self.load(w, lane, (Space::Global, at), u64::from(width), &mut value)?;
                piece.copy_from_slice(&value[0].to_le_bytes()[..piece.len()]);
            }
            let who = self.who_lane(w, lane);
            let memory = &mut self.blocks[w.rank].shared;
            if let Err(fault) = memory.promise(&self.clocks, dst[lane], total, who) {
                return stop(lane, shared_fault(fault));
            }
            let lane_copies = &mut w.copies[lane];
            let group = lane_copies.committed;
            lane_copies.flying.push_back(Copy {
                group,
                dst: dst[lane],
                len: bytes,
                data,
            });
        }
        Ok(())
    }

    /// Completes the lane's groups except the `keep` newest; `all` includes copies not yet committed.
    pub(super) fn cp_async_wait(&mut self, w: &mut Warp, exec: u32, keep: u32, all: bool) -> Step {
        for lane in lanes(exec) {
            let limit = if all {
                u32::MAX
            } else {
                w.copies[lane].committed.saturating_sub(keep)
            };
            while let Some(copy) = w.copies[lane].flying.pop_front() {
                if copy.group >= limit {
                    w.copies[lane].flying.push_front(copy);
                    break;
                }
                let who = self.who_lane(w, lane);
                let memory = &mut self.blocks[w.rank].shared;
                let data = &copy.data[..copy.len.into()];
                if let Err(fault) = memory.complete(&self.clocks, copy.dst, data, who) {
                    return stop(lane, shared_fault(fault));
                }
            }
        }
        Ok(())
    }

    /// Row addresses come from lanes 0-7 (matrix 0), 8-15 (matrix 1), ...; a lane receives elements
    /// 2t and 2t+1 of row g, or of column g with `.trans` (g = lane / 4, t = lane % 4).
    pub(super) fn ldmatrix(&mut self, w: &mut Warp, trans: bool, d: &[Reg], addr: Addr) -> Step {
        let at = self.addresses(w, addr);
        for (m, &reg) in d.iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * m + r;
                self.aligned(lane, Space::Shared, at[lane], 16)?;
                let mut bytes = [0u8; 16];
                let who = self.who_lane(w, ALL_LANES.into());
                let memory = &mut self.blocks[w.rank].shared;
                if let Err(fault) = memory.read(&self.clocks, at[lane], &mut bytes, who) {
                    return stop(lane, shared_fault(fault));
                }
                *row =
                    std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
            }
            for lane in 0..32 {
                let (g, t) = (lane / 4, 2 * (lane % 4));
                let (low, high) = if trans {
                    (rows[t][g], rows[t + 1][g])
                } else {
                    (rows[g][t], rows[g][t + 1])
                };
                w.regs
                    .set_lane(reg, lane, u64::from(low) | u64::from(high) << 16);
            }
        }
        Ok(())
    }

    /// The inverse of `ldmatrix`.
    pub(super) fn stmatrix(&mut self, w: &mut Warp, trans: bool, v: &[Src], addr: Addr) -> Step {
        let at = self.addresses(w, addr);
        for (m, &src) in v.iter().enumerate() {
            let values = self.src32(w, src);
            for r in 0..8 {
                let lane = 8 * m + r;
                self.aligned(lane, Space::Shared, at[lane], 16)?;
                let mut bytes = [0u8; 16];
                for i in 0..8 {
                    let (g, t) = if trans { (i, r) } else { (r, i) };
                    let half = (values[4 * g + t / 2] >> (16 * (t % 2))) as u16;
                    bytes[2 * i..2 * i + 2].copy_from_slice(&half.to_le_bytes());
                }
                let who = self.who_lane(w, ALL_LANES.into());
                let memory = &mut self.blocks[w.rank].shared;
                if let Err(fault) = memory.write(&self.clocks, at[lane], &bytes, who) {
                    return stop(lane, shared_fault(fault));
                }
            }
        }
        Ok(())
    }
}
