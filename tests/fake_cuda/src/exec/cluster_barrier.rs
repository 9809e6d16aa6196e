//! `barrier.cluster`: all threads of the cluster that have not exited.
use super::cluster::{stop, Cluster, Step};
use super::regs::lanes;
use super::warp::Warp;
use super::FaultKind;
use crate::memory::Knowledge;

/// The one barrier of a cluster.
pub(super) struct ClusterBarrier {
    alive: u32,
    /// Threads that have neither arrived in this phase nor exited.
    missing: u32,
    /// Phases completed.
    pub phase: u32,
    told: Knowledge,
    done: Knowledge,
}

impl ClusterBarrier {
    pub fn new(threads: u32) -> Self {
        ClusterBarrier {
            alive: threads,
            missing: threads,
            phase: 0,
            told: Knowledge::default(),
            done: Knowledge::default(),
        }
    }

    fn come(&mut self, threads: u32) {
        self.missing -= threads;
        if self.missing == 0 {
            self.phase += 1;
            self.missing = self.alive;
            self.done = std::mem::take(&mut self.told);
        }
    }
}

impl Cluster<'_> {
    pub(super) fn cluster_arrive(&mut self, w: &mut Warp, exec: u32, release: bool) -> Step {
        for lane in lanes(exec) {
            if w.cluster_phase[lane].is_some() {
                let text = String::from(
                    "second barrier.cluster.arrive without a barrier.cluster.wait between",
                );
                return stop(lane, FaultKind::Cluster(text));
            }
            w.cluster_phase[lane] = Some(self.barrier.phase);
        }
        if release {
            self.barrier.told.join(&self.clocks.release(w.index));
        }
        self.barrier.come(exec.count_ones());
        self.events += 1;
        Ok(())
    }

    pub(super) fn cluster_wait(&mut self, w: &mut Warp, exec: u32) -> Step {
        for lane in lanes(exec) {
            let Some(phase) = w.cluster_phase[lane] else {
                let text =
                    String::from("barrier.cluster.wait without a barrier.cluster.arrive before");
                return stop(lane, FaultKind::Cluster(text));
            };
            if phase == self.barrier.phase {
                self.blocked = true;
                return Ok(());
            }
        }
        lanes(exec).for_each(|lane| w.cluster_phase[lane] = None);
        w.cluster_waited = self.barrier.phase;
        self.blocks[w.rank].cluster_waited = self.barrier.phase;
        self.clocks.acquire(w.index, &self.barrier.done);
        self.clocks.converge(w.index);
        Ok(())
    }

    /// Exited threads are not waited for.
    pub(super) fn leave_cluster_barrier(&mut self, w: &Warp, exec: u32) {
        let phase = self.barrier.phase;
        let arrived = lanes(exec)
            .filter(|&l| w.cluster_phase[l] == Some(phase))
            .count() as u32;
        self.barrier.alive -= exec.count_ones();
        let missing = exec.count_ones() - arrived;
        if missing > 0 {
            self.barrier.come(missing);
        }
    }

    pub(super) fn cluster_barrier_waits_for(&self) -> String {
        format!(
            "at barrier.cluster for {} threads of the cluster",
            self.barrier.missing
        )
    }
}
