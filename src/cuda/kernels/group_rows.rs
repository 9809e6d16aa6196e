//! Which rows are whose in a grouped product: numbers on the device, and what kernels found wrong with them.

use super::params::{self, GroupRowsParams};
use crate::cuda::runtime::{narrow, Device, DeviceVector, Held, Matrix, Region};
use crate::error::{Error, Result};

/// The rows of each group, in device memory: read by the kernels, never by the host.
///
/// A group is bad whose offsets are not `0 <= offsets[g] <= offsets[g + 1] <= M`, that starts before an earlier offset, or
/// that counts more rows than it has room for. Kernels then neither read nor write rows of it, and
/// [`Device::check_faults`] says so.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GroupRows<'a> {
    /// Contiguous: `[G + 1]`, group `g` has rows `offsets[g]..offsets[g + 1]`.
    Offsets(DeviceVector<'a, i32>),
    /// Masked: group `g` has the first `counts[g]` of the `each` rows from `g * each` on; M is `G * each`.
    Counts {
        /// `[G]`.
        counts: DeviceVector<'a, i32>,
        /// Rows that each group has room for.
        each: usize,
    },
}

impl GroupRows<'_> {
    /// Number of groups.
    pub fn groups(&self) -> usize {
        match self {
            GroupRows::Offsets(offsets) => offsets.len().saturating_sub(1),
            GroupRows::Counts { counts, .. } => counts.len(),
        }
    }

    /// Takes them for a call whose matrices have so many rows.
    pub(super) fn hold<'h>(&'h self, held: &mut Held<'h>, rows: usize) -> Result<HeldGroups<'h>> {
        let refuse = |what, found: String, expected: String| {
            Err(Error::Value {
                what,
                found,
                expected,
            })
        };
        let groups = self.groups();
        if groups == 0 {
            return refuse("the number of groups", "0".into(), "at least 1".into());
        }
        let (numbers, each) = match self {
            GroupRows::Offsets(offsets) => (offsets, None),
            GroupRows::Counts { counts, each } => (counts, Some(*each)),
        };
        if let Some(each) = each.filter(|each| each.checked_mul(groups) != Some(rows)) {
            let found = format!("{groups} groups with room for {each}");
            return refuse("the rows of the groups", found, format!("{rows} in all"));
        }
        let numbers = Matrix::new(&numbers.0, 1, numbers.len());
        Ok(HeldGroups {
            numbers: held.read("the rows of the groups", &numbers)?,
            groups,
            each,
            rows,
        })
    }
}

/// The same, held.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct HeldGroups<'a> {
    numbers: Region<'a>,
    pub groups: usize,
    pub each: Option<usize>,
    rows: usize,
}

impl<'a> HeldGroups<'a> {
    /// Groups by their offsets, a vector of one more, in matrices of so many rows.
    pub fn of_offsets(offsets: Region<'a>, rows: usize) -> Self {
        HeldGroups {
            numbers: offsets,
            groups: offsets.cols.saturating_sub(1),
            each: None,
            rows,
        }
    }

    /// As kernels take them.
    pub fn params(&self, device: &Device) -> Result<GroupRowsParams> {
        let (offsets, counts) = match self.each {
            None => (self.numbers.address, 0),
            Some(_) => (0, self.numbers.address),
        };
        // Kernels compare rows with signed numbers.
        if i32::try_from(self.rows).is_err() {
            return Err(Error::Value {
                what: "rows of a grouped product",
                found: self.rows.to_string(),
                expected: format!("at most {}", i32::MAX),
            });
        }
        Ok(GroupRowsParams {
            offsets: offsets as *const _,
            counts: counts as *const _,
            fault: device.fault_address() as *mut _,
            groups: narrow("groups", self.groups)?,
            each: narrow("rows of a group", self.each.unwrap_or(0))?,
            rows: narrow("rows", self.rows)?,
            reserved: 0,
        })
    }

    /// Tiles of `height` rows that all groups together have at most.
    pub fn most_tiles(&self, height: usize) -> usize {
        match self.each {
            Some(each) => self.groups * each.div_ceil(height),
            // Each group's last tile may be less than full.
            None => self.rows.div_ceil(height) + self.groups.min(self.rows),
        }
    }
}

impl Device {
    /// What kernels of this device found wrong, since this was last asked, with numbers that the host has never seen: offsets
    /// and counts of grouped products, a router's indices. They left out the rows concerned.
    ///
    /// Grouped products and what belongs to them ask before they enqueue anything, so that an earlier call's fault is the
    /// next call's error. Nothing is waited for: after a launch of a graph, synchronise first and then ask here. Of several
    /// faults the last written is told.
    ///
    /// # Errors
    /// [`Error::Value`] that names the group, pair or row.
    pub fn check_faults(&self) -> Result<()> {
        let fault = self.take_fault();
        let (kind, which) = (
            fault >> params::IMMA_FAULT_BITS,
            fault & ((1 << params::IMMA_FAULT_BITS) - 1),
        );
        let (what, found, expected) = match kind {
            0 => return Ok(()),
            params::IMMA_FAULT_OFFSETS => (
                "the rows of a group in an earlier grouped product",
                format!("wrong for group {which}"),
                "offsets in order inside the rows, or a count that there is room for",
            ),
            params::IMMA_FAULT_INDEX => (
                "the index of an expert in an earlier call",
                format!("outside of the experts for pair {which}"),
                "one of the experts that there are",
            ),
            _ => (
                "a row of an earlier permutation",
                which.to_string(),
                "a row of the matrix",
            ),
        };
        Err(Error::Value {
            what,
            found,
            expected: expected.into(),
        })
    }
}
