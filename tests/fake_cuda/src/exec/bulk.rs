//! `cp.async.bulk`, with and without tensor maps.
use super::access::{resolve, shared_fault};
use super::cluster::{stop, Cluster, Step};
use super::flight::Cargo;
use super::regs::lanes;
use super::tensor;
use super::warp::Warp;
use super::FaultKind;
use crate::memory::{Lane, MemoryFault, Who, BLOCK_WINDOW_BYTES};
use crate::ptx::ir::{Addr, AtomOp, Completion, Space, Src, Tile};
use crate::tensor_map::{TensorMap, WORDS};

/// Alignment of a box in shared memory.
const BOX_ALIGN: u64 = 128;
/// Alignment of everything else.
const ALIGN: u64 = 16;
/// A clock that nobody knows of: the copy has not landed.
const NOT_YET: u32 = u32::MAX - 1;

fn wrong<T>(lane: usize, text: impl Into<String>) -> Step<T> {
    stop(lane, FaultKind::Bulk(text.into()))
}

impl Cluster<'_> {
    fn tensor_map(&mut self, w: &mut Warp, lane: usize, at: u64, rank: usize) -> Step<TensorMap> {
        let mut words = [0; WORDS];
        if !matches!(resolve(Space::Generic, at).0, Space::Param | Space::Global) {
            return wrong(
                lane,
                format!("a tensor map at {at:#x}: want parameters, constant or global memory"),
            );
        }
        for (i, half) in words.chunks_exact_mut(8).enumerate() {
            self.load(w, lane, (Space::Generic, at + 64 * i as u64), 8, half)?;
        }
        let Some(map) = TensorMap::decode(&words) else {
            return wrong(lane, format!("no tensor map lies at {at:#x}"));
        };
        if rank != 0 && map.extents.len() != rank {
            return wrong(
                lane,
                format!(
                    "a .{rank}d copy by a tensor map of rank {}",
                    map.extents.len()
                ),
            );
        }
        match map.objection().or_else(|| tensor::objection(&map)) {
            Some(why) => wrong(lane, why),
            None => Ok(map),
        }
    }

    pub(super) fn prefetch_map(&mut self, w: &mut Warp, exec: u32, map: Addr, rank: usize) -> Step {
        let at = self.addresses(w, map);
        for lane in lanes(exec) {
            self.tensor_map(w, lane, at[lane], rank)?;
        }
        Ok(())
    }

    fn coordinates(&self, w: &Warp, tile: &Tile) -> Vec<[u32; 32]> {
        tile.at.iter().map(|&s| self.src32(w, s)).collect()
    }

    fn read_global(&self, w: &Warp, lane: usize, addr: u64, out: &mut [u8]) -> Step {
        let bytes = out.len() as u64;
        let Some(a) = self.env.view.find(addr, bytes, &mut 0) else {
            return stop(
                lane,
                FaultKind::Global(self.env.memory.explain_miss(addr, bytes)),
            );
        };
        self.released(w, lane, addr, false)?;
        match a.read_bytes(addr, out) {
            Some(addr) => stop(
                lane,
                FaultKind::Global(MemoryFault::Uninitialised { addr, bytes: 1 }),
            ),
            None => Ok(()),
        }
    }

    /// Promises `data` to the blocks that get it and sends it on its way.
    fn deliver(
        &mut self,
        w: &Warp,
        lane: usize,
        to: u64,
        mbarrier: u64,
        mask: Option<u32>,
        data: Vec<u8>,
    ) -> Step {
        let (rank, at) = self.shared_place(w, lane, to)?;
        let (own, done_at) = self.mbarrier_place(w, lane, Space::Cluster, mbarrier)?;
        if rank != own {
            return wrong(
                lane,
                format!("the bytes go to block {rank}, their mbarrier is in block {own}"),
            );
        }
        let ranks = match mask {
            None => vec![rank],
            Some(mask) => lanes(mask & 0xffff).collect(),
        };
        if ranks.is_empty() || ranks.iter().any(|r| *r >= self.blocks.len()) {
            let text = format!(
                "multicast to {:#x} in a cluster of {} blocks",
                mask.unwrap_or(0),
                self.blocks.len()
            );
            return wrong(lane, text);
        }
        for rank in ranks {
            self.reachable(w, lane, rank)?;
            let actor = self.live_for_copies(w, lane, (rank, done_at))?.actor;
            let who = Who {
                warp: w.index,
                actor,
                clock: NOT_YET,
                asynchronous: true,
                lane: Some(lane as Lane),
            };
            let memory = &mut self.blocks[rank].shared;
            if let Err(fault) = memory.promise(&self.clocks, at, data.len() as u64, who) {
                return stop(lane, shared_fault(fault));
            }
            let data = data.clone();
            self.take_off(
                w,
                lane,
                Cargo::Shared {
                    rank,
                    at,
                    data,
                    mbarrier: done_at,
                },
            );
        }
        Ok(())
    }

    /// The block and address of an operand in shared memory.
    fn shared_place(&self, w: &Warp, lane: usize, addr: u64) -> Step<(usize, u64)> {
        match resolve(Space::Generic, addr) {
            // A plain number below the window is a shared address.
            (Space::Global, addr) if addr < 256 * BLOCK_WINDOW_BYTES => {
                self.locate(w, lane, Space::Cluster, addr)
            }
            (Space::Cluster, addr) => self.locate(w, lane, Space::Cluster, addr),
            _ => wrong(lane, format!("{addr:#x} is not in shared memory")),
        }
    }

    pub(super) fn tensor_load(
        &mut self,
        w: &mut Warp,
        exec: u32,
        to: Addr,
        tile: &Tile,
        done: Completion,
    ) -> Step {
        let (to, maps) = (self.addresses(w, to), self.addresses(w, tile.map));
        let (mbarrier, at) = (self.addresses(w, done.mbarrier), self.coordinates(w, tile));
        let mask = done.multicast.map(|s| self.src32(w, s));
        for lane in lanes(exec) {
            let map = self.tensor_map(w, lane, maps[lane], at.len())?;
            self.aligned(lane, Space::Shared, to[lane], BOX_ALIGN)?;
            let at: Vec<i64> = at.iter().map(|c| i64::from(c[lane] as i32)).collect();
            let tile = tensor::runs(&map, &at);
            let mut data = vec![0; tile.bytes as usize];
            for run in &tile.runs {
                let mut bytes = vec![0; run.bytes as usize];
                self.read_global(w, lane, run.global, &mut bytes)?;
                scatter(&map, to[lane], run.offset, &bytes, &mut data);
            }
            self.deliver(
                w,
                lane,
                to[lane],
                mbarrier[lane],
                mask.map(|m| m[lane]),
                data,
            )?;
        }
        Ok(())
    }

    pub(super) fn tensor_store(
        &mut self,
        w: &mut Warp,
        exec: u32,
        tile: &Tile,
        from: Addr,
        reduce: Option<AtomOp>,
    ) -> Step {
        let (from, maps) = (self.addresses(w, from), self.addresses(w, tile.map));
        let at = self.coordinates(w, tile);
        for lane in lanes(exec) {
            let map = self.tensor_map(w, lane, maps[lane], at.len())?;
            self.aligned(lane, Space::Shared, from[lane], BOX_ALIGN)?;
            let reduce = match reduce.map(|op| tensor::reduction(&map, op)) {
                Some(Err(why)) => return wrong(lane, why),
                Some(Ok(how)) => Some(how),
                None => None,
            };
            let at: Vec<i64> = at.iter().map(|c| i64::from(c[lane] as i32)).collect();
            let tile = tensor::runs(&map, &at);
            let (ticket, data) = self.lend(w, lane, from[lane], tile.bytes)?;
            let mut pieces = Vec::new();
            for run in &tile.runs {
                if self.env.view.find(run.global, run.bytes, &mut 0).is_none() {
                    let fault = self.env.memory.explain_miss(run.global, run.bytes);
                    return stop(lane, FaultKind::Global(fault));
                }
                if reduce.is_some() {
                    self.read_global(w, lane, run.global, &mut vec![0; run.bytes as usize])?;
                }
                pieces.push((
                    run.global,
                    gather(&map, from[lane], run.offset, run.bytes, &data),
                ));
            }
            for (at, _) in &pieces {
                self.released(w, lane, *at, true)?;
            }
            self.take_off_store(w, lane, pieces, ticket, reduce);
        }
        Ok(())
    }

    /// Lends the block's own bytes to a store.
    fn lend(&mut self, w: &Warp, lane: usize, from: u64, bytes: u64) -> Step<(u64, Vec<u8>)> {
        let (rank, at) = self.shared_place(w, lane, from)?;
        if rank != w.rank {
            return wrong(
                lane,
                format!("a store from the shared memory of block {rank}, want the block's own"),
            );
        }
        let ticket = self.ticket();
        let who = Who {
            asynchronous: true,
            ..self.who_lane(w, lane)
        };
        let memory = &mut self.blocks[w.rank].shared;
        match memory.lend(&self.clocks, at, bytes, who, ticket) {
            Ok(data) => Ok((ticket, data)),
            Err(fault) => stop(lane, shared_fault(fault)),
        }
    }

    fn whole(&self, lane: usize, to: (Space, u64), from: (Space, u64), bytes: u32) -> Step {
        self.aligned(lane, to.0, to.1, ALIGN)?;
        self.aligned(lane, from.0, from.1, ALIGN)?;
        if !u64::from(bytes).is_multiple_of(ALIGN) || bytes == 0 {
            return wrong(lane, format!("{bytes} bytes, want a multiple of {ALIGN}"));
        }
        Ok(())
    }

    pub(super) fn bulk_load(
        &mut self,
        w: &mut Warp,
        exec: u32,
        to: Addr,
        from: Addr,
        bytes: Src,
        done: Completion,
    ) -> Step {
        let (to, from) = (self.addresses(w, to), self.addresses(w, from));
        let (bytes, mbarrier) = (self.src32(w, bytes), self.addresses(w, done.mbarrier));
        let mask = done.multicast.map(|s| self.src32(w, s));
        for lane in lanes(exec) {
            self.whole(
                lane,
                (Space::Shared, to[lane]),
                (Space::Global, from[lane]),
                bytes[lane],
            )?;
            let mut data = vec![0; bytes[lane] as usize];
            self.read_global(w, lane, from[lane], &mut data)?;
            self.deliver(
                w,
                lane,
                to[lane],
                mbarrier[lane],
                mask.map(|m| m[lane]),
                data,
            )?;
        }
        Ok(())
    }

    pub(super) fn bulk_store(
        &mut self,
        w: &mut Warp,
        exec: u32,
        to: Addr,
        from: Addr,
        bytes: Src,
    ) -> Step {
        let (to, from) = (self.addresses(w, to), self.addresses(w, from));
        let bytes = self.src32(w, bytes);
        for lane in lanes(exec) {
            self.whole(
                lane,
                (Space::Global, to[lane]),
                (Space::Shared, from[lane]),
                bytes[lane],
            )?;
            let n = u64::from(bytes[lane]);
            if self.env.view.find(to[lane], n, &mut 0).is_none() {
                return stop(
                    lane,
                    FaultKind::Global(self.env.memory.explain_miss(to[lane], n)),
                );
            }
            self.released(w, lane, to[lane], true)?;
            let (ticket, data) = self.lend(w, lane, from[lane], n)?;
            self.take_off_store(w, lane, vec![(to[lane], data)], ticket, None);
        }
        Ok(())
    }

    /// `cp.async.mbarrier.arrive`: the lane's copies so far, then an arrival.
    pub(super) fn cp_async_arrive(
        &mut self,
        w: &mut Warp,
        exec: u32,
        space: Space,
        addr: Addr,
        noinc: bool,
    ) -> Step {
        let at = self.addresses(w, addr);
        for lane in lanes(exec) {
            let place = self.mbarrier_place(w, lane, space, at[lane])?;
            self.announce(w, lane, place, noinc)?;
            let copies = std::mem::take(&mut w.copies[lane].flying).into();
            let (rank, mbarrier) = place;
            self.take_off(
                w,
                lane,
                Cargo::Arrival {
                    rank,
                    copies,
                    mbarrier,
                },
            );
        }
        Ok(())
    }
}

/// Puts a run of a box where its swizzle says; `data` starts at the shared address `start`.
fn scatter(map: &TensorMap, start: u64, offset: u64, bytes: &[u8], data: &mut [u8]) {
    let start = start % BLOCK_WINDOW_BYTES;
    for (at, byte) in (start + offset..).zip(bytes) {
        data[(tensor::swizzle(map.swizzle, at) - start) as usize] = *byte;
    }
}

/// The inverse of [`scatter`].
fn gather(map: &TensorMap, start: u64, offset: u64, bytes: u64, data: &[u8]) -> Vec<u8> {
    let start = start % BLOCK_WINDOW_BYTES;
    let from = |at: u64| data[(tensor::swizzle(map.swizzle, at) - start) as usize];
    (start + offset..start + offset + bytes).map(from).collect()
}
