//! Which function runs which instruction of compute capability 9.0.
use super::access::resolve;
use super::cluster::{stop, Cluster, Step};
use super::regs::lanes;
use super::warp::{Split, Warp};
use super::FaultKind;
use crate::memory::{BLOCK_WINDOW_BYTES, SHARED_WINDOW};
use crate::ptx::ir::{Hopper, Op, Reg, Space, Src};

impl Cluster<'_> {
    pub(super) fn hopper(&mut self, w: &mut Warp, exec: u32, h: &Hopper) -> Step {
        match h {
            Hopper::MbarrierInit { space, addr, count } => {
                self.mbarrier_init(w, exec, *space, *addr, *count)
            }
            Hopper::MbarrierInval { space, addr } => self.mbarrier_inval(w, exec, *space, *addr),
            Hopper::MbarrierTx {
                space,
                addr,
                bytes,
                complete,
            } => {
                let (at, bytes) = (self.addresses(w, *addr), self.src32(w, *bytes));
                for lane in lanes(exec) {
                    let place = self.mbarrier_place(w, lane, *space, at[lane])?;
                    let bytes = i64::from(bytes[lane]);
                    self.transact(w, lane, place, if *complete { -bytes } else { bytes })?;
                }
                Ok(())
            }
            Hopper::MbarrierArrive {
                space,
                d,
                addr,
                count,
                expect,
                drop,
                release,
            } => self.mbarrier_arrive(w, exec, *space, *d, *addr, *count, *expect, *drop, *release),
            Hopper::MbarrierTest {
                space,
                d,
                addr,
                phase,
                acquire,
                patient,
            } => self.mbarrier_test(w, exec, *space, *d, *addr, *phase, *acquire, *patient),
            Hopper::CpAsyncArrive { space, addr, noinc } => {
                self.cp_async_arrive(w, exec, *space, *addr, *noinc)
            }
            Hopper::GridWait => {
                w.unreleased &= !exec;
                Ok(())
            }
            Hopper::Mapa {
                generic,
                d,
                a,
                rank,
            } => self.mapa(w, exec, *generic, *d, *a, *rank),
            Hopper::GetCtaRank { generic, d, a } => self.get_cta_rank(w, exec, *generic, *d, *a),
            Hopper::ClusterArrive { release, .. } => self.cluster_arrive(w, exec, *release),
            Hopper::ClusterWait { .. } => self.cluster_wait(w, exec),
            Hopper::FenceProxyAsync => {
                self.clocks.fence_proxy(w.index);
                self.publish_mbarriers(w, exec, true);
                Ok(())
            }
            Hopper::FenceMbarrierInit => {
                self.publish_mbarriers(w, exec, false);
                Ok(())
            }
            Hopper::TensorLoad { to, tile, done } => self.tensor_load(w, exec, *to, tile, *done),
            Hopper::TensorStore { tile, from, reduce } => {
                self.tensor_store(w, exec, tile, *from, *reduce)
            }
            Hopper::TensorPrefetch { tile } => self.prefetch_map(w, exec, tile.map, tile.at.len()),
            Hopper::PrefetchMap { map } => self.prefetch_map(w, exec, *map, 0),
            Hopper::BulkLoad {
                to,
                from,
                bytes,
                done,
            } => self.bulk_load(w, exec, *to, *from, *bytes, *done),
            Hopper::BulkStore { to, from, bytes } => self.bulk_store(w, exec, *to, *from, *bytes),
            Hopper::BulkCommit => {
                self.bulk_commit(w, exec);
                Ok(())
            }
            Hopper::BulkWait { keep, read } => self.bulk_wait(w, exec, *keep, *read),
            Hopper::Wgmma {
                shape,
                d,
                a,
                b,
                scale_d,
            } => self.wgmma(w, *shape, d, a, *b, *scale_d),
            Hopper::WgmmaFence => self.wgmma_fence(w),
            Hopper::WgmmaCommit => self.wgmma_commit(w),
            Hopper::WgmmaWait { keep } => self.wgmma_wait(w, *keep),
            Hopper::SetMaxReg { up, count } => self.set_max_reg(w, *up, *count),
        }
    }

    /// The rank of the block that an address lies in, and its place there.
    fn owner(&self, w: &Warp, lane: usize, generic: bool, addr: u64) -> Step<(u64, u64)> {
        let (space, at) = resolve(
            if generic {
                Space::Generic
            } else {
                Space::Cluster
            },
            addr,
        );
        let block = at / BLOCK_WINDOW_BYTES;
        if space != Space::Cluster || block > self.blocks.len() as u64 {
            let text = format!("{addr:#x} is in no shared memory of the cluster");
            return stop(lane, FaultKind::Cluster(text));
        }
        let own = w.rank as u64;
        Ok((block.checked_sub(1).unwrap_or(own), at % BLOCK_WINDOW_BYTES))
    }

    fn mapa(&mut self, w: &mut Warp, exec: u32, generic: bool, d: Reg, a: Src, rank: Src) -> Step {
        let (a, rank) = (self.src64(w, a), self.src32(w, rank));
        for lane in lanes(exec) {
            let (_, at) = self.owner(w, lane, generic, a[lane])?;
            if rank[lane] as usize >= self.blocks.len() {
                let text = format!("block {} of a cluster of {}", rank[lane], self.blocks.len());
                return stop(lane, FaultKind::Cluster(text));
            }
            let mapped = (u64::from(rank[lane]) + 1) * BLOCK_WINDOW_BYTES + at;
            w.regs
                .set_lane(d, lane, mapped + if generic { SHARED_WINDOW } else { 0 });
        }
        Ok(())
    }

    fn get_cta_rank(&mut self, w: &mut Warp, exec: u32, generic: bool, d: Reg, a: Src) -> Step {
        let a = self.src64(w, a);
        for lane in lanes(exec) {
            let (rank, _) = self.owner(w, lane, generic, a[lane])?;
            w.regs.set_lane(d, lane, rank);
        }
        Ok(())
    }

    /// What a blocked instruction waits for, for a deadlock's report.
    pub(super) fn waits_for(&self, w: &Warp, s: &Split) -> String {
        let Op::Hopper(h) = &self.env.program.code[s.pc as usize].op else {
            return String::from("for nothing known");
        };
        let lane = s.mask.trailing_zeros() as usize;
        match **h {
            Hopper::MbarrierTest { space, addr, .. } => {
                self.mbarrier_waits_for(w, lane, space, addr)
            }
            Hopper::ClusterWait { .. } => self.cluster_barrier_waits_for(),
            Hopper::SetMaxReg { count, .. } => self.registers_wait_for(w, count),
            _ => String::from("for the other warps of its warpgroup"),
        }
    }
}
