//! Device attributes, by the numbers of `CUdevice_attribute`.
use crate::device::DeviceProfile;

/// The value of an attribute; none for one that the emulator does not know.
pub fn attribute(p: &DeviceProfile, which: i32) -> Option<i32> {
    let from_sm90 = i32::from(p.cc() >= 90);
    let value = match which {
        // Threads and shapes.
        1 => p.max_threads_per_block,
        2..=4 => p.max_block_dim[which as usize - 2],
        5..=7 => p.max_grid_dim[which as usize - 5],
        10 => p.warp_size,
        16 => p.sm_count,
        39 => p.max_threads_per_sm,
        106 => p.max_blocks_per_sm,
        // Memory of a block and of a multiprocessor.
        8 => p.max_shared_per_block,
        9 => p.const_bytes,
        12 => p.regs_per_block,
        81 => p.max_shared_per_sm,
        82 => p.regs_per_sm,
        97 => p.max_shared_per_block_optin,
        111 => p.reserved_shared_per_block,
        // Memory of the device.
        38 => p.l2_bytes,
        108 | 109 => p.l2_bytes / 4 * 3,
        13 => p.clock_khz,
        36 => p.memory_clock_khz,
        37 => p.memory_bus_bits,
        75 => p.cc_major,
        76 => p.cc_minor,
        _ => return flag(which, from_sm90),
    };
    Some(i32::try_from(value).unwrap_or(i32::MAX))
}

/// Attributes that are yes (1) or no (0), or constants.
fn flag(which: i32, from_sm90: i32) -> Option<i32> {
    Some(match which {
        11 => i32::MAX,                                       // max pitch
        14 => 512,                                            // texture alignment
        15 | 31 | 41 | 78 | 79 | 80 | 90 | 95 => 1, // overlap, concurrent, unified, ..., cooperative
        40 => 3,                                    // copy engines
        17 | 18 | 20 | 32 | 33 | 34 | 35 | 50 | 84 | 85 => 0, // timeout, integrated, mode, ECC, PCI, ...
        86 | 88 | 89 | 91 | 92 | 93 | 94 | 96 | 98 => 0, // host atomics, pageable, stream memory operations
        19 => 1,                                         // mapped host memory
        83 | 99 | 100 | 101 | 113 => 0,                  // managed and registered host memory
        87 => 2,                                         // f32 to f64 rate
        102..=105 | 107 | 110 | 112 | 114 | 116..=119 => 0, // virtual memory, interop, RDMA
        115 => 1,                                        // memory pools
        120 => from_sm90,                                // cluster launch
        121..=135 => 0,                                  // deferred mapping, IPC, NUMA, multicast
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_the_profile_s() {
        let p = DeviceProfile::sm80();
        assert_eq!(attribute(&p, 75), Some(8));
        assert_eq!(attribute(&p, 8), Some(49_152));
        assert_eq!(attribute(&p, 97), Some(166_912));
        assert_eq!(attribute(&p, 5), Some(i32::MAX));
        assert_eq!(attribute(&p, 120), Some(0));
        assert_eq!(attribute(&DeviceProfile::sm90(), 120), Some(1));
        assert_eq!(attribute(&p, 9999), None);
    }
}
