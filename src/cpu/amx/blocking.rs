//! In which order sets of sums are computed.
//!
//! ```text
//!   for each run of groups of columns         whose weights fit half of the second level
//!     for each deep block of K                all of it, but where a few groups alone are too much
//!       for each panel of rows
//!         for each block of K                 the panel's share stays in the first level
//!           for each group of the run         whose weights come from the second level
//! ```
//!
//! A panel's rows are written from left to right: the hardware follows 32 rows of the output as it follows reads, and a
//! cache line that two groups share is still near when the second one comes. Down the rows instead, every piece of
//! 128 bytes lies in another page, and a product of 1024^3 spent more than half of its time waiting for lines to write.
//!
//! With several blocks of K, the sums so far lie in memory between them: exact in any order.

use crate::cpu::caches::caches;

/// Bytes of a tile, and of a strip or a panel a step.
pub(super) const STEP: usize = 1024;
/// Rows of a panel.
const ROWS: usize = 32;
/// Groups a run at least. With half as many a product with K = 8192 took 1.1 times as long.
const FEW_GROUPS: usize = 8;

/// The sizes of the loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocking {
    /// Steps of K, of a deep block, and of a block.
    pub steps: usize,
    deep: usize,
    block: usize,
    /// Groups of columns, and those of a run.
    groups: usize,
    run: usize,
    /// Panels of rows.
    pub panels: usize,
    /// Panels of weights a group.
    pub wide: usize,
}

/// One set: a panel of rows by a group of columns, over some steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub panel: usize,
    pub group: usize,
    pub step: usize,
    pub steps: usize,
    /// The place of its sums between blocks of K.
    pub place: usize,
}

impl Blocking {
    pub fn new(rows: usize, steps: usize, cols: usize) -> Self {
        let caches = caches();
        Self::within(caches.first, caches.second, [rows, steps, cols])
    }

    fn within(first: usize, second: usize, [rows, steps, cols]: [usize; 3]) -> Self {
        // One strip alone takes four panels at a time.
        let wide = if rows <= 16 { 4 } else { 2 };
        let panels = rows.div_ceil(ROWS);
        let groups = cols.div_ceil(wide * 16);
        let whole = Blocking {
            steps,
            deep: steps,
            block: steps,
            groups,
            run: groups.max(1),
            panels,
            wide,
        };
        if panels <= 1 || steps == 0 {
            return whole;
        }
        // Up to two thirds of the first level for the rows; what streams past them is marked as such.
        let most = (first * 2 / 3 / (2 * STEP)).max(8);
        let block = if steps <= most + most / 4 {
            steps
        } else {
            steps.div_ceil(steps.div_ceil(most))
        };
        let resident = second / 2 / (2 * STEP);
        let (run, deep) = if resident / steps >= FEW_GROUPS {
            (resident / steps, steps)
        } else {
            let deep = resident / FEW_GROUPS / block * block;
            (FEW_GROUPS, deep.clamp(block, steps))
        };
        // Runs of the same size.
        let run = groups.div_ceil(groups.div_ceil(run).max(1)).max(1);
        Blocking {
            deep,
            block,
            run,
            ..whole
        }
    }

    /// Sets whose sums lie in memory between blocks of K at a time.
    pub fn places(&self) -> usize {
        match (self.block < self.steps, self.deep < self.steps) {
            (false, _) => 0,
            (true, false) => self.run,
            (true, true) => self.run * self.panels,
        }
    }

    /// All sets in order.
    #[inline(always)]
    pub fn each(self, mut f: impl FnMut(Item)) {
        for first in (0..self.groups).step_by(self.run) {
            let run = first..(first + self.run).min(self.groups);
            for from in (0..self.steps.max(1)).step_by(self.deep.max(1)) {
                let to = (from + self.deep).min(self.steps);
                for panel in 0..self.panels {
                    let mut step = from;
                    // Once where K is 0.
                    loop {
                        let steps = self.block.min(to - step);
                        for group in run.clone() {
                            let row = if self.deep < self.steps { panel } else { 0 };
                            f(Item {
                                panel,
                                group,
                                step,
                                steps,
                                place: row * self.run + group - first,
                            });
                        }
                        step += steps;
                        if step >= to {
                            break;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Every set is computed over all of K, front to back, and sums between blocks have a place of their own.
    #[test]
    fn each_set_once_and_in_order() {
        for (first, second) in [(48 << 10, 2 << 20), (32 << 10, 256 << 10)] {
            for [rows, steps, cols] in [
                [1, 0, 5],
                [16, 70, 1000],
                [33, 0, 64],
                [33, 1, 1],
                [64, 16, 1024],
                [100, 33, 515],
                [256, 128, 4096],
                [300, 2048, 100],
            ] {
                let blocking = Blocking::within(first, second, [rows, steps, cols]);
                let mut done: HashMap<(usize, usize), usize> = HashMap::new();
                let mut at: HashMap<usize, (usize, usize)> = HashMap::new();
                blocking.each(|i| {
                    let so_far = done.entry((i.panel, i.group)).or_default();
                    assert_eq!(*so_far, i.step, "{blocking:?} {i:?}");
                    *so_far += i.steps;
                    if i.step > 0 {
                        assert_eq!(at.remove(&i.place), Some((i.panel, i.group)), "{i:?}");
                    }
                    if i.step + i.steps < steps {
                        assert!(i.place < blocking.places(), "{blocking:?} {i:?}");
                        assert_eq!(at.insert(i.place, (i.panel, i.group)), None, "{i:?}");
                    }
                });
                let sets = rows.div_ceil(ROWS) * cols.div_ceil(blocking.wide * 16);
                assert_eq!(done.len(), sets, "{blocking:?}");
                assert!(done.values().all(|d| *d == steps) && at.is_empty());
            }
        }
    }
}
