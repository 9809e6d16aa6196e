//! Which lane of a warp touched a shared byte last, and whether the warp came together since.
//!
//! The lanes of a warp run apart as they please: what one wrote, another may read only behind a `bar.warp.sync`, a barrier or a
//! wait that both went through. Each of these begins a new epoch of the warp; a byte that two lanes touch in one epoch, one of
//! them writing, is a race. Shuffles and votes bring lanes together and order no memory.

/// A lane, or [`ALL`].
pub type Lane = u8;
/// All lanes at once: `ldmatrix` hands to each what the addresses of others name.
pub const ALL: Lane = 0x40;
const NOBODY: Lane = 0;
/// Told from [`NOBODY`].
const LANE: Lane = 0x80;
const SEVERAL: Lane = LANE | ALL;

/// The four bytes of a word; `epoch` 0 has not begun.
#[derive(Clone, Copy, Default)]
struct Record {
    epoch: u32,
    warp: u16,
    writers: [Lane; 4],
    readers: [Lane; 4],
}

/// What lanes did to each byte in the epoch under way of the warp that touched it last.
pub struct LaneHistory(Vec<Record>);

/// Whether one of these bytes was touched by another lane.
fn other(of: &[Lane; 4], bytes: std::ops::Range<usize>, lane: Lane) -> Option<Lane> {
    let differs = |seen: &&Lane| **seen != NOBODY && (**seen != lane || lane == SEVERAL);
    of[bytes].iter().find(differs).copied()
}

fn name(lane: Lane) -> String {
    match lane & !LANE {
        ALL => String::from("several lanes"),
        lane => format!("lane {lane}"),
    }
}

impl LaneHistory {
    /// A history of `bytes` bytes nobody has touched.
    pub fn new(bytes: usize) -> Self {
        LaneHistory(vec![Record::default(); bytes.div_ceil(4)])
    }

    /// Records that a lane of a warp touches `len` bytes at `at`; the earlier access that is in its way, in words.
    pub fn touch(
        &mut self,
        (warp, epoch): (usize, u32),
        lane: Lane,
        at: usize,
        len: usize,
        writes: bool,
    ) -> Result<(), String> {
        let (warp, lane) = (warp as u16, lane | LANE);
        let mut byte = at;
        while byte < at + len {
            let (word, first) = (byte / 4, byte % 4);
            let last = (first + at + len - byte).min(4);
            byte += last - first;
            let r = &mut self.0[word];
            if (r.epoch, r.warp) != (epoch, warp) {
                *r = Record {
                    epoch,
                    warp,
                    ..Record::default()
                };
            }
            let clash = |before: Lane, how: &str| {
                let what = if writes { "write" } else { "read" };
                format!(
                    "a {what} by {} after a {how} by {} of warp {warp}, with no bar.warp.sync between",
                    name(lane),
                    name(before)
                )
            };
            if !writes {
                if let Some(before) = other(&r.writers, first..last, lane) {
                    return Err(clash(before, "write"));
                }
            } else if let Some(before) = other(&r.readers, first..last, lane) {
                return Err(clash(before, "read"));
            }
            let mine = if writes {
                &mut r.writers
            } else {
                &mut r.readers
            };
            for seen in &mut mine[first..last] {
                *seen = if *seen == NOBODY || *seen == lane {
                    lane
                } else {
                    SEVERAL
                };
            }
        }
        Ok(())
    }
}
