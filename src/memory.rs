//! How much memory a process can still get, asked before large results are made.
//!
//! Linux promises more memory than there is and ends programs that use it, so a successful reservation alone says
//! little. What is asked: the system's free memory and swap, the control group's limit, and the process's own limits.

use crate::error::{Error, Result};

/// Fewer bytes are taken without asking.
const ASKED: u64 = 1 << 20;

/// Bytes that can still be had, as far as the system says.
pub fn free() -> Option<u64> {
    system::free()
}

/// Refuses what does not fit into memory; `op` names the caller, `what` the thing that takes `bytes`.
///
/// # Errors
/// [`Error::Memory`], which names the bytes that are free.
///
/// ```
/// use imma::memory;
/// assert!(memory::check("matmul", "the result", 4096).is_ok());
/// if memory::free().is_some() {
///     assert!(memory::check("matmul", "the result", u64::MAX).is_err());
/// }
/// ```
pub fn check(op: &'static str, what: &'static str, bytes: u64) -> Result<()> {
    fits(bytes).map_err(|free| refused(op, what, bytes, Some(free)))
}

/// Whether so many bytes can be had; or else how many.
pub(crate) fn fits(bytes: u64) -> std::result::Result<(), u64> {
    if bytes < ASKED {
        return Ok(());
    }
    match free() {
        Some(free) if bytes > free => Err(free),
        _ => Ok(()),
    }
}

/// The refusal of something that takes `bytes`.
pub(crate) fn refused(
    op: &'static str,
    what: &'static str,
    bytes: u64,
    free: Option<u64>,
) -> Error {
    Error::Memory {
        op,
        what,
        bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        free,
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::read_to_string;
    use std::path::Path;

    pub fn free() -> Option<u64> {
        [machine(), group(), own()].into_iter().flatten().min()
    }

    /// The number after `name` in lines of `name number unit ..`.
    fn after(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Memory and swap that are not in use.
    fn machine() -> Option<u64> {
        let text = read_to_string("/proc/meminfo").ok()?;
        let swap = after(&text, "SwapFree:").unwrap_or(0);
        Some((after(&text, "MemAvailable:")? + swap) << 10)
    }

    /// What the control group leaves (version 2, where containers and services have their limits).
    fn group() -> Option<u64> {
        let groups = read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let folder = Path::new("/sys/fs/cgroup").join(own);
        let number = |name: &str| -> Option<u64> {
            let text = read_to_string(folder.join(name)).ok()?;
            text.trim().parse().ok()
        };
        // "max" is no number and no limit.
        let (limit, used) = (number("memory.max")?, number("memory.current")?);
        // Pages of files go when memory is asked for.
        let stat = read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let pages = after(&stat, "inactive_file ").unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(pages)))
    }

    /// What the process's own limits leave (`ulimit -v`, `ulimit -d`).
    fn own() -> Option<u64> {
        let limits = read_to_string("/proc/self/limits").ok()?;
        let status = read_to_string("/proc/self/status").ok()?;
        let left = |limit: &str, used: &str| {
            let limit = after(&limits, limit)?;
            Some(limit.saturating_sub(after(&status, used)? << 10))
        };
        let space = left("Max address space", "VmSize:");
        let data = left("Max data size", "VmData:");
        space.into_iter().chain(data).min()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub fn free() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_known_and_what_is_more_is_refused() {
        assert_eq!(check("matmul", "the result", ASKED - 1), Ok(()));
        if !cfg!(target_os = "linux") {
            println!("not run: free memory is asked for on Linux alone");
            return;
        }
        let free = free().expect("a number");
        assert!((1 << 20..1 << 50).contains(&free), "{free}");
        let message = check("matmul", "the result", 1 << 60)
            .unwrap_err()
            .to_string();
        let start = "matmul: the result takes 1152921504606846976 bytes, more than the ";
        assert!(
            message.starts_with(start) && message.ends_with(" bytes that are free"),
            "{message}"
        );
    }
}
