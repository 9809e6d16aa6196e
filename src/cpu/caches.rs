//! The sizes of this machine's caches, asked for once: what blocks are measured by.

use std::sync::OnceLock;

/// Bytes of a core's caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caches {
    /// First level, data.
    pub first: usize,
    /// Second level: a core's share.
    pub second: usize,
}

/// Where nothing can be found out: at most what most cores have.
const UNKNOWN: Caches = Caches {
    first: 32 << 10,
    second: 768 << 10,
};

/// The caches of the CPU that asked first.
pub(crate) fn caches() -> Caches {
    static CACHES: OnceLock<Caches> = OnceLock::new();
    *CACHES.get_or_init(|| {
        let found = from_cpuid().or_else(from_sysfs).unwrap_or(UNKNOWN);
        Caches {
            first: found.first.clamp(16 << 10, 1 << 20),
            second: found.second.clamp(256 << 10, 4 << 20),
        }
    })
}

/// One cache as it is described: its level, bytes, and the threads that share it.
#[derive(Debug, Clone, Copy)]
struct Description {
    level: u32,
    bytes: usize,
    threads: usize,
}

fn choose(all: impl IntoIterator<Item = Description>) -> Option<Caches> {
    let (mut first, mut second) = (None, None);
    for cache in all {
        match cache.level {
            1 => first = Some(cache.bytes),
            // Two threads are one core's; a cluster of cores shares what it has. More than four cores are a number
            // that a virtual machine made up.
            2 => second = Some(cache.bytes / (cache.threads / 2).clamp(1, 4)),
            _ => {}
        }
    }
    Some(Caches {
        first: first?,
        second: second?,
    })
}

/// `cpuid` leaf 4 (Intel) or 0x8000001D (AMD): the same registers.
///
/// ```text
///   eax  4..0 kind (0 none, 1 data, 2 instructions, 3 both)   7..5 level   25..14 threads that share it, minus 1
///   ebx  11..0 line, minus 1   21..12 partitions, minus 1   31..22 ways, minus 1       ecx  sets, minus 1
/// ```
#[cfg(all(target_arch = "x86_64", not(miri)))]
// `__cpuid` is safe on some of the compilers that build this and unsafe on others.
#[allow(unused_unsafe)]
fn from_cpuid() -> Option<Caches> {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    // SAFETY: x86-64 has the instruction.
    let (highest, extended) = unsafe { (__cpuid(0).eax, __cpuid(0x8000_0000).eax) };
    let read = |leaf: u32| {
        let each = (0..8).map_while(move |index| {
            // SAFETY: the leaf exists (below).
            let r = unsafe { __cpuid_count(leaf, index) };
            (r.eax & 31 != 0).then_some(r)
        });
        let data = each.filter(|r| r.eax & 31 != 2);
        choose(data.map(|r| {
            let field = |low: u32, bits: u32| ((r.ebx >> low) & ((1 << bits) - 1)) as usize + 1;
            Description {
                level: r.eax >> 5 & 7,
                bytes: field(0, 12) * field(12, 10) * field(22, 10) * (r.ecx as usize + 1),
                threads: (r.eax >> 14 & 0xfff) as usize + 1,
            }
        }))
    };
    let intel = (highest >= 4).then(|| read(4)).flatten();
    intel.or_else(|| {
        (extended >= 0x8000_001d)
            .then(|| read(0x8000_001d))
            .flatten()
    })
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn from_cpuid() -> Option<Caches> {
    None
}

/// What Linux says of its first CPU.
fn from_sysfs() -> Option<Caches> {
    if cfg!(miri) || !cfg!(target_os = "linux") {
        return None;
    }
    choose((0..8).map_while(|index| {
        let read = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            std::fs::read_to_string(path).ok()
        };
        let level = read("level")?.trim().parse().ok()?;
        let bytes = size(read("size")?.trim())?;
        // Instructions count as no level of interest.
        let data = read("type")?.trim() != "Instruction";
        let threads = cpus(read("shared_cpu_list")?.trim());
        Some(Description {
            level: if data { level } else { 0 },
            bytes,
            threads,
        })
    }))
}

/// `48K`, `2048K`, `2M`
fn size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(['K', 'M']);
    let shift = match text.as_bytes().last()? {
        b'K' => 10,
        b'M' => 20,
        _ => 0,
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// How many CPUs `0-3,8` lists; 1 for what it can't read.
fn cpus(list: &str) -> usize {
    let range = |part: &str| -> Option<usize> {
        match part.split_once('-') {
            None => part.parse::<usize>().ok().map(|_| 1),
            Some((from, to)) => {
                let (from, to) = (from.parse::<usize>().ok()?, to.parse::<usize>().ok()?);
                (to + 1).checked_sub(from)
            }
        }
    };
    list.split(',')
        .map(range)
        .sum::<Option<usize>>()
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read() {
        assert_eq!(
            [size("48K"), size("2M"), size("x")],
            [Some(48 << 10), Some(2 << 20), None]
        );
        assert_eq!([cpus("0"), cpus("0-3,8"), cpus("?")], [1, 5, 1]);
        let of = |level, bytes, threads| Description {
            level,
            bytes,
            threads,
        };
        let core = [of(1, 48 << 10, 2), of(2, 2 << 20, 2), of(3, 300 << 20, 64)];
        let cluster = [of(1, 32 << 10, 1), of(2, 4 << 20, 8)];
        let second = |all: &[Description]| choose(all.iter().copied()).map(|c| c.second);
        assert_eq!(
            [second(&core), second(&cluster)],
            [Some(2 << 20), Some(1 << 20)]
        );
        assert_eq!(choose([of(2, 1 << 20, 1)]), None);
    }

    /// Both ways say the same where both are there.
    #[test]
    fn the_instruction_agrees_with_the_system() {
        println!(
            "{:?}, cpuid {:?}, sysfs {:?}",
            caches(),
            from_cpuid(),
            from_sysfs()
        );
        assert!(caches().first < caches().second);
        match (from_cpuid(), from_sysfs()) {
            (Some(a), Some(b)) => assert_eq!(a.first, b.first),
            _ => println!("not run: one of cpuid and sysfs is not there"),
        }
    }
}
