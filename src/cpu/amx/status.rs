//! Whether this process may use the tiles of AMX: the CPU has them, the system saves them, and the kernel said yes.

use std::fmt;

/// What stands between this process and the tile instructions of AMX (`tdpbssd`: int8, signed by signed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AmxStatus {
    /// The CPU does not have the instructions, or this build does not know them.
    Absent,
    /// The CPU has them, but the operating system does not save the tiles of a thread.
    NoSystemSupport,
    /// The system has a permission for them and refused it; the number is that of its error.
    Refused(i32),
    /// They can be used.
    Ready,
}

impl fmt::Display for AmxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AmxStatus::Absent => f.write_str("not on this CPU"),
            AmxStatus::NoSystemSupport => {
                f.write_str("on this CPU, but the operating system does not save its tiles")
            }
            AmxStatus::Refused(errno) => {
                let reason = std::io::Error::from_raw_os_error(*errno);
                write!(f, "permission refused by the operating system: {reason}")
            }
            AmxStatus::Ready => f.write_str("ready"),
        }
    }
}

/// Asks once a process, and remembers the answer.
pub(crate) fn status() -> AmxStatus {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        static STATUS: std::sync::OnceLock<AmxStatus> = std::sync::OnceLock::new();
        *STATUS.get_or_init(x86::ask)
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    AmxStatus::Absent
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use super::AmxStatus;
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// `XTILEDATA`, the part of a thread's state that holds the tiles: its bit in XCR0, and its number in the permission.
    const XTILEDATA: u32 = 18;
    /// `XTILECFG`, which holds their shapes.
    const XTILECFG: u32 = 17;

    // `__cpuid` is safe on some of the compilers that build this and unsafe on others.
    #[allow(unused_unsafe)]
    pub(super) fn ask() -> AmxStatus {
        let bit = |register: u32, bit: u32| register >> bit & 1 == 1;
        // SAFETY: x86-64 has the instruction.
        let (highest, first) = unsafe { (__cpuid(0).eax, __cpuid(1).ecx) };
        if highest < 7 {
            return AmxStatus::Absent;
        }
        // SAFETY: as above; leaf 7 exists.
        let seventh = unsafe { __cpuid_count(7, 0).edx };
        if !(bit(seventh, 24) && bit(seventh, 25)) {
            return AmxStatus::Absent;
        }
        // SAFETY: OSXSAVE says that the system has enabled `xgetbv`.
        let saved = bit(first, 27) && {
            // SAFETY: the CPU says that the system uses XSAVE, so the instruction is there.
            let xcr0 = unsafe { xcr0() };
            xcr0 >> XTILECFG & 1 == 1 && xcr0 >> XTILEDATA & 1 == 1
        };
        if !saved {
            return AmxStatus::NoSystemSupport;
        }
        permission()
    }

    /// # Safety
    /// The system has enabled `xgetbv`.
    #[target_feature(enable = "xsave")]
    unsafe fn xcr0() -> u64 {
        // SAFETY: the caller's.
        unsafe { _xgetbv(0) }
    }

    /// Linux gives the tiles to processes that ask: the room for them on signal stacks has to be agreed on.
    #[cfg(target_os = "linux")]
    fn permission() -> AmxStatus {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        let mut answer = ARCH_PRCTL;
        // SAFETY: the call reads and writes no memory of this process; a kernel that does not know it returns an error.
        // The instruction leaves all registers but these three as they are.
        unsafe {
            core::arch::asm!(
                "syscall",
                inout("rax") answer,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XTILEDATA as usize,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        match answer {
            0 => AmxStatus::Ready,
            errno => AmxStatus::Refused(-errno as i32),
        }
    }

    /// Other systems need not be asked in a way that this crate has tried.
    #[cfg(not(target_os = "linux"))]
    fn permission() -> AmxStatus {
        AmxStatus::NoSystemSupport
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_stays_and_reads_as_a_sentence() {
        assert_eq!(status(), status());
        // EINVAL, as kernels without the permission answer.
        let refused = AmxStatus::Refused(22).to_string();
        assert!(refused.starts_with("permission refused"), "{refused}");
        println!("AMX: {}", status());
    }
}
