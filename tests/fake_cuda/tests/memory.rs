//! Global memory as the driver uses it.
use fake_cuda::memory::{GlobalMemory, MemoryFault};

#[test]
fn what_is_written_is_read_and_nothing_else() {
    let m = GlobalMemory::new(1 << 20);
    let a = m.alloc(100).unwrap();
    assert!(a.is_multiple_of(256));
    m.write(a + 3, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
        .unwrap();
    let mut out = [0; 11];
    m.read(a + 3, &mut out).unwrap();
    assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(
        m.read(a + 2, &mut out),
        Err(MemoryFault::Uninitialised {
            addr: a + 2,
            bytes: 1
        })
    );
    assert_eq!(
        m.read(a + 4, &mut out),
        Err(MemoryFault::Uninitialised {
            addr: a + 14,
            bytes: 1
        })
    );
    assert!(matches!(
        m.read(a + 95, &mut out),
        Err(MemoryFault::OutOfBounds { .. })
    ));
    assert!(matches!(
        m.write(a + 100, &[0]),
        Err(MemoryFault::OutOfBounds { .. })
    ));
}

#[test]
fn copies_carry_the_initialised_state() {
    let m = GlobalMemory::new(1 << 20);
    let (a, b) = (m.alloc(64).unwrap(), m.alloc(64).unwrap());
    for shift in [0, 3] {
        m.fill(b, 0xee, 64).unwrap();
        m.write(a, &[7; 20]).unwrap();
        m.copy(b + shift, a, 32).unwrap();
        let mut out = [0; 20];
        m.read(b + shift, &mut out).unwrap();
        assert_eq!(out, [7; 20]);
        let mut one = [0];
        assert!(matches!(
            m.read(b + shift + 20, &mut one),
            Err(MemoryFault::Uninitialised { .. })
        ));
        assert_eq!(m.read(b + 32 + shift, &mut one), Ok(()));
    }
    // Overlapping ranges move as if through a buffer.
    let c = m.alloc(24).unwrap();
    m.write(c, &std::array::from_fn::<u8, 24, _>(|i| i as u8))
        .unwrap();
    m.copy(c + 8, c, 16).unwrap();
    let mut out = [0; 24];
    m.read(c, &mut out).unwrap();
    assert_eq!(out.map(u32::from)[8..], (0..16).collect::<Vec<u32>>());
}

#[test]
fn freed_memory_stays_freed() {
    let m = GlobalMemory::new(1000);
    let a = m.alloc(600).unwrap();
    assert_eq!(
        m.alloc(600),
        Err(MemoryFault::OutOfMemory {
            bytes: 600,
            free: 400
        })
    );
    assert_eq!(m.free(a + 8), Err(MemoryFault::BadFree { addr: a + 8 }));
    m.free(a).unwrap();
    assert_eq!(m.used(), 0);
    assert!(matches!(m.free(a), Err(MemoryFault::UseAfterFree { .. })));
    let b = m.alloc(1000).unwrap();
    assert_ne!(a, b);
    let used = MemoryFault::UseAfterFree {
        addr: a + 5,
        bytes: 1,
        base: a,
        size: 600,
    };
    assert_eq!(m.write(a + 5, &[1]), Err(used));
    assert_eq!(
        (
            m.allocation(b + 999),
            m.allocation(b + 1000),
            m.allocation(a)
        ),
        (Some((b, 1000)), None, None)
    );
    assert_eq!(m.alloc(0), Err(MemoryFault::ZeroSize));
}
