//! Planted bugs: each kernel has one, and the emulator must name it.
mod common;

use common::{fault, kernel, Arg, Machine};
use fake_cuda::device::DeviceProfile;
use fake_cuda::exec::FaultKind;
use fake_cuda::memory::MemoryFault;
use fake_cuda::ptx;

const KERNELS: &str = include_str!("ptx/kernels.ptx");

/// One line of `nvcc`'s output replaced; the line must be there.
fn sabotage(from: &str, to: &str, occurrence: usize) -> String {
    let (at, _) = KERNELS
        .match_indices(from)
        .nth(occurrence)
        .expect("text to replace");
    format!("{}{to}{}", &KERNELS[..at], &KERNELS[at + from.len()..])
}

fn igemm_fault(text: &str, seed: u64) -> Option<FaultKind> {
    let m = Machine::new(text);
    let (a, b, c) = (
        m.bytes(&[1; 64 * 320]),
        m.bytes(&[2; 64 * 320]),
        m.room(64 * 64 * 4),
    );
    let args = [
        Arg::Ptr(a),
        Arg::Ptr(b),
        Arg::Ptr(c),
        Arg::U32(64),
        Arg::U32(320),
    ];
    m.try_run("igemm", 1, 128, 3 * 8192, seed, &args)
        .err()
        .map(|f| f.kind)
}

#[test]
fn off_by_one_global_read() {
    let f = fault(
        "ld.global.u32 %t, [%i+4];\nst.global.u32 [%o], %t;",
        32,
        &[7; 32],
    );
    let FaultKind::Global(MemoryFault::OutOfBounds { bytes: 4, near, .. }) = &f.kind else {
        panic!("{f}")
    };
    assert!(near.contains("4 bytes past"), "{f}");
    assert_eq!(
        (f.thread, f.block, &*f.kernel),
        ([31, 0, 0], [0, 0, 0], "k")
    );
}

#[test]
fn read_before_the_allocation() {
    let f = fault("ld.global.u32 %t, [%i-4];", 32, &[7; 32]);
    assert!(
        f.to_string().contains("4 bytes before the allocation"),
        "{f}"
    );
}

#[test]
fn null_pointer() {
    let f = fault("mov.u64 %i, 0; ld.global.u32 %t, [%i];", 32, &[7; 32]);
    assert!(
        matches!(
            f.kind,
            FaultKind::Global(MemoryFault::OutOfBounds { addr: 0, .. })
        ),
        "{f}"
    );
}

#[test]
fn uninitialised_global_read() {
    let f = fault("ld.global.u32 %t, [%o];", 32, &[7; 32]);
    assert!(
        matches!(f.kind, FaultKind::Global(MemoryFault::Uninitialised { .. })),
        "{f}"
    );
}

#[test]
fn use_after_free() {
    let m = Machine::new(&kernel("ld.global.u32 %t, [%i];"));
    let (i, o) = (m.words(&[1; 32]), m.room(4));
    m.memory.free(i).unwrap();
    // Memory allocated later does not take the freed place.
    m.words(&[2; 32]);
    let f = m
        .try_run("k", 1, 32, 0, 1, &[Arg::Ptr(i), Arg::Ptr(o)])
        .unwrap_err();
    assert!(
        matches!(f.kind, FaultKind::Global(MemoryFault::UseAfterFree { .. })),
        "{f}"
    );
}

#[test]
fn misaligned_vector_load() {
    let f = fault(
        ".reg .b32 %a<4>; ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%i];",
        32,
        &[7; 64],
    );
    assert!(
        matches!(
            f.kind,
            FaultKind::Global(MemoryFault::Misaligned { bytes: 16, .. })
        ),
        "{f}"
    );
    assert_eq!(f.thread, [1, 0, 0]);
}

#[test]
fn uninitialised_shared_memory() {
    let body = ".shared .align 4 .b32 s[64]; .reg .b32 %a; mov.u32 %a, s; shl.b32 %t, %t, 2; add.s32 %a, %a, %t;\n\
                st.shared.u32 [%a], %t; bar.sync 0; ld.shared.u32 %t, [%a+4];";
    let f = fault(body, 32, &[0; 32]);
    assert!(
        matches!(f.kind, FaultKind::Shared(MemoryFault::Uninitialised { .. })),
        "{f}"
    );
    assert_eq!(f.thread, [31, 0, 0]);
}

#[test]
fn shared_out_of_bounds() {
    let body = ".shared .align 4 .b32 s[32]; .reg .b32 %a; mov.u32 %a, s; shl.b32 %t, %t, 2; add.s32 %a, %a, %t; st.shared.u32 [%a+4], %t;";
    let f = fault(body, 32, &[0; 32]);
    assert!(
        matches!(f.kind, FaultKind::Shared(MemoryFault::OutOfBounds { .. })),
        "{f}"
    );
}

/// Each warp writes its words and reads another warp's, with `between` in the middle.
fn exchange(between: &str) -> String {
    format!(
        ".shared .align 4 .b32 s[64]; .reg .b32 %a, %b, %x; .reg .pred %p; mov.u32 %a, s; shl.b32 %b, %t, 2; xor.b32 %x, %b, 128;\n\
         add.s32 %b, %a, %b; add.s32 %a, %a, %x;\nst.shared.u32 [%b], %t;\n{between}\nld.shared.u32 %t, [%a];\nst.global.u32 [%o], %t;"
    )
}

/// One warp: each lane writes its word and reads another lane's, or the other way round, with `between` in the middle.
#[test]
fn lanes_are_ordered_by_what_orders_memory() {
    let setup = ".shared .align 16 .b32 s[64]; .reg .b32 %a, %b, %x; .reg .pred %p; mov.u32 %a, s; shl.b32 %b, %t, 2; xor.b32 %x, %b, 4;\n\
         add.s32 %b, %a, %b; add.s32 %a, %a, %x;";
    let write = "st.shared.u32 [%b], %t;";
    let read = "ld.shared.u32 %x, [%a]; st.global.u32 [%o], %x;";
    let matrix = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%x}, [%b0]; st.global.u32 [%o], %x;";
    let rows = ".reg .b32 %b0; and.b32 %b0, %t, 3; shl.b32 %b0, %b0, 4; mov.u32 %x, s; add.u32 %b0, %b0, %x;";
    let both = format!("{write} bar.warp.sync -1; {read}");
    let matrix = format!("{rows} {write} BETWEEN {matrix}");
    let around = [
        format!("{write} BETWEEN {read}"),
        // What was read may be overwritten behind a barrier alone.
        format!("{both} BETWEEN {write}"),
        matrix,
    ];
    // Shuffles, votes and fences bring nothing that another lane wrote.
    let nothing = [
        "",
        "shfl.sync.idx.b32 %x, %t, 0, 31, -1;",
        "vote.sync.ballot.b32 %x, 1, -1;",
        "membar.cta;",
    ];
    let enough = ["bar.warp.sync -1;", "bar.sync 0;"];
    for body in around {
        for (between, ordered) in nothing
            .map(|b| (b, false))
            .into_iter()
            .chain(enough.map(|b| (b, true)))
        {
            let body = format!("{setup} {}", body.replace("BETWEEN", between));
            let m = Machine::new(&kernel(&body));
            for seed in 0..4 {
                let (i, o) = (m.words(&[0]), m.room(128));
                match m.try_run("k", 1, 32, 0, seed, &[Arg::Ptr(i), Arg::Ptr(o)]) {
                    Ok(_) => assert!(ordered, "{body}"),
                    Err(f) => {
                        let named = matches!(&f.kind, FaultKind::Race(t) if t.contains("no bar.warp.sync between"));
                        assert!(!ordered && named, "{body}: {f}");
                    }
                }
            }
        }
    }
    // Each lane its own byte of a word, and its own byte again.
    let own = format!("{setup} mov.u32 %x, s; add.u32 %x, %x, %t; st.shared.u8 [%x], %t; ld.shared.u8 %a, [%x]; st.shared.u8 [%x], %a; st.global.u32 [%o], %a;");
    let m = Machine::new(&kernel(&own));
    let (i, o) = (m.words(&[0]), m.room(128));
    m.run("k", 1, 32, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
    assert_eq!(m.read(o, 32), (0..32).collect::<Vec<u32>>());
}

#[test]
fn missing_syncthreads_is_found_whatever_the_schedule() {
    let good = Machine::new(&kernel(&exchange("bar.sync 0;")));
    let bad = Machine::new(&kernel(&exchange("")));
    for seed in 0..32 {
        for (m, ok) in [(&good, true), (&bad, false)] {
            let (i, o) = (m.words(&[0]), m.room(256));
            let done = m.try_run("k", 1, 64, 0, seed, &[Arg::Ptr(i), Arg::Ptr(o)]);
            match done {
                Ok(_) => {
                    assert!(ok, "seed {seed}: the race went unseen");
                    let want: Vec<u32> = (0..64).map(|t| t ^ 32).collect();
                    assert_eq!(m.read(o, 64), want);
                }
                Err(f) => {
                    assert!(!ok, "seed {seed}: {f}");
                    // Either the read came first (nothing there yet) or it raced.
                    let named = matches!(
                        f.kind,
                        FaultKind::Race(_) | FaultKind::Shared(MemoryFault::Uninitialised { .. })
                    );
                    assert!(named, "{f}");
                }
            }
        }
    }
}

#[test]
fn write_after_read_needs_a_barrier_too() {
    // One barrier orders the first exchange; the second write comes with none after the read.
    let again = "st.shared.u32 [%b], %t;";
    for (end, ok) in [
        (String::new(), true),
        (again.to_owned(), false),
        (format!("bar.sync 0; {again}"), true),
    ] {
        let m = Machine::new(&kernel(&format!("{} {end}", exchange("bar.sync 0;"))));
        for seed in 0..8 {
            let (i, o) = (m.words(&[0]), m.room(256));
            let done = m.try_run("k", 1, 64, 0, seed, &[Arg::Ptr(i), Arg::Ptr(o)]);
            assert_eq!(done.is_ok(), ok, "seed {seed} '{end}': {done:?}");
        }
    }
}

#[test]
fn a_named_barrier_orders_only_those_who_use_it() {
    // Warps 0 and 1 exchange through barrier 1 (64 threads); warp 2 looks on and must not read.
    let body = |third: &str| {
        format!(
            ".shared .align 4 .b32 s[64]; .reg .b32 %a, %b, %x; .reg .pred %p; mov.u32 %a, s; shl.b32 %b, %t, 2;\n\
             setp.ge.u32 %p, %t, 64; @%p bra third;\n\
             xor.b32 %x, %b, 128; add.s32 %b, %a, %b; add.s32 %a, %a, %x;\n\
             st.shared.u32 [%b], %t; bar.sync 1, 64; ld.shared.u32 %t, [%a]; bra done;\n\
             third: {third}\n done:"
        )
    };
    for (third, ok) in [
        ("nanosleep.u32 1;", true),
        ("ld.shared.u32 %t, [s];", false),
    ] {
        let m = Machine::new(&kernel(&body(third)));
        let (i, o) = (m.words(&[0]), m.room(4));
        for seed in 0..8 {
            let done = m.try_run("k", 1, 96, 0, seed, &[Arg::Ptr(i), Arg::Ptr(o)]);
            assert_eq!(done.is_ok(), ok, "seed {seed}: {done:?}");
        }
    }
}

#[test]
fn neighbouring_bytes_of_one_word_do_not_race() {
    let body = ".shared .align 4 .b8 s[64]; .reg .b32 %a, %b; mov.u32 %a, s;\n\
                and.b32 %b, %t, 31; shl.b32 %b, %b, 1; add.s32 %a, %a, %b; shr.u32 %b, %t, 5; add.s32 %a, %a, %b;\n\
                st.shared.u8 [%a], %t; bar.sync 0; ld.shared.u8 %t, [%a]; st.global.u32 [%o], %t;";
    let m = Machine::new(&kernel(body));
    let (i, o) = (m.words(&[0]), m.room(256));
    m.run("k", 1, 64, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
    assert_eq!(m.read(o, 64), (0..64).collect::<Vec<u32>>());
}

const COPY: &str = ".shared .align 16 .b8 s[1024]; .reg .b32 %a; .reg .b64 %g; mov.u32 %a, s; shl.b32 %t, %t, 4; add.s32 %a, %a, %t;\n\
                    mad.wide.u32 %g, %t, 1, %in; cp.async.cg.shared.global [%a], [%g], 16;\ncp.async.commit_group;\n";

#[test]
fn missing_wait_group() {
    let f = fault(&format!("{COPY} ld.shared.u32 %t, [%a];"), 32, &[5; 128]);
    assert!(matches!(f.kind, FaultKind::AsyncPending(_)), "{f}");
    let f = fault(
        &format!("{COPY} cp.async.wait_group 1; ld.shared.u32 %t, [%a];"),
        32,
        &[5; 128],
    );
    assert!(matches!(f.kind, FaultKind::AsyncPending(_)), "{f}");
}

#[test]
fn wait_group_without_barrier_serves_only_the_own_warp() {
    let m = Machine::new(&kernel(&format!(
        "{COPY} cp.async.wait_group 0; ld.shared.u32 %t, [%a]; st.global.u32 [%o], %t;"
    )));
    let (i, o) = (m.words(&[9; 256]), m.room(256));
    m.run("k", 1, 64, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
    assert_eq!(m.read(o, 64), [9; 64]);
    let other =
        format!("{COPY} cp.async.wait_group 0; xor.b32 %a, %a, 512; ld.shared.u32 %t, [%a];");
    assert!(matches!(
        fault(&other, 64, &[9; 256]).kind,
        FaultKind::Race(_) | FaultKind::AsyncPending(_) | FaultKind::Shared(_)
    ));
}

#[test]
fn sabotaged_gemm() {
    assert_eq!(igemm_fault(KERNELS, 1), None);
    let no_wait = sabotage("cp.async.wait_group 1;", "", 0);
    assert!(matches!(
        igemm_fault(&no_wait, 1),
        Some(FaultKind::AsyncPending(_) | FaultKind::Race(_))
    ));
    let late = sabotage("cp.async.wait_group 1;", "cp.async.wait_group 2;", 0);
    assert!(matches!(
        igemm_fault(&late, 1),
        Some(FaultKind::AsyncPending(_) | FaultKind::Race(_))
    ));
    let igemm = KERNELS.find(".entry igemm").unwrap();
    let before = KERNELS[..igemm].matches("bar.sync").count();
    let no_barrier = sabotage("bar.sync \t0;", "", before);
    for seed in 0..8 {
        let kind = igemm_fault(&no_barrier, seed);
        assert!(
            matches!(
                kind,
                Some(FaultKind::AsyncPending(_) | FaultKind::Race(_) | FaultKind::Shared(_))
            ),
            "seed {seed}: {kind:?}"
        );
    }
}

#[test]
fn lanes_missing_from_a_shuffle() {
    // Half of the warp skips the shuffle and ends; the other half reads from it.
    let body = ".reg .pred %p; .reg .b32 %x; setp.ge.u32 %p, %t, 16; @%p bra done; shfl.sync.bfly.b32 %x, %t, 16, 31, 0xffffffff; done:";
    let f = fault(body, 32, &[0; 32]);
    assert!(matches!(f.kind, FaultKind::WarpSync(_)), "{f}");
}

#[test]
fn a_lane_outside_its_own_mask() {
    let f = fault("shfl.sync.idx.b32 %t, %t, 0, 31, 0xffff;", 32, &[0; 32]);
    assert!(matches!(f.kind, FaultKind::WarpSync(_)), "{f}");
    assert_eq!(f.thread, [16, 0, 0]);
}

#[test]
fn a_mask_whose_lanes_wait_elsewhere_is_a_deadlock() {
    let body = ".reg .pred %p; .reg .b32 %x; setp.ge.u32 %p, %t, 16;\n\
                @%p bra other; shfl.sync.idx.b32 %x, %t, 0, 31, 0xffffffff; bra done;\n\
                other: vote.sync.any.pred %p, %p, 0xffffffff; done:";
    let f = fault(body, 32, &[0; 32]);
    assert!(matches!(f.kind, FaultKind::Deadlock(_)), "{f}");
}

#[test]
fn barrier_that_some_threads_never_reach() {
    let body = ".reg .pred %p; setp.ge.u32 %p, %t, 32; @%p bra done; bar.sync 0; done:";
    let f = fault(body, 64, &[0; 32]);
    assert!(
        matches!(&f.kind, FaultKind::Deadlock(text) if text.contains("32 have exited")),
        "{f}"
    );
}

#[test]
fn barrier_in_divergent_code() {
    let body = ".reg .pred %p; setp.ge.u32 %p, %t, 16; @%p bra b; bar.sync 0; bra done; b: bar.sync 0; done:";
    let f = fault(body, 32, &[0; 32]);
    assert!(matches!(f.kind, FaultKind::Deadlock(_)), "{f}");
}

#[test]
fn tensor_core_instruction_in_a_half_warp() {
    let body = ".reg .b32 %c<4>; .reg .pred %p; setp.ge.u32 %p, %t, 16; @%p bra done;\n\
                mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%c0,%c1,%c2,%c3}, {%t,%t}, {%t}, {%c0,%c1,%c2,%c3}; done:";
    let f = fault(body, 32, &[0; 32]);
    assert!(
        matches!(f.kind, FaultKind::WarpSync(_) | FaultKind::Deadlock(_)),
        "{f}"
    );
}

#[test]
fn trap_and_runaway_index() {
    assert_eq!(fault("trap;", 32, &[0; 32]).kind, FaultKind::Trap);
    let f = fault("L: .branchtargets a; brx.idx %t, L; a:", 32, &[0; 32]);
    assert!(matches!(f.kind, FaultKind::Undefined(_)), "{f}");
}

#[test]
fn faults_name_the_source_line() {
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n.file 1 \"cuda/quantize.cu\"\n\
                .visible .entry k(.param .u64 k_in, .param .u64 k_out)\n{\n.reg .b64 %a; .reg .b32 %r;\n\
                ld.param.u64 %a, [k_in];\n.loc 1 42 7\nld.global.u32 %r, [%a+4096];\nret;\n}\n";
    let m = Machine::new(text);
    let i = m.words(&[0]);
    let f = m
        .try_run("k", 1, 1, 0, 0, &[Arg::Ptr(i), Arg::Ptr(i)])
        .unwrap_err();
    assert_eq!(
        (f.ptx_line, f.source.clone()),
        (10, Some(("cuda/quantize.cu".into(), 42)))
    );
    assert!(f.to_string().contains("cuda/quantize.cu:42"), "{f}");
}

#[test]
fn unknown_opcodes_and_modifiers_are_named() {
    for (body, name) in [
        ("tcgen05.alloc %t;", "tcgen05.alloc"),
        ("add.s32.strange %t, %t, %t;", "strange"),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%t}, {%t}, {%t}, {%t};",
            "mma.sync",
        ),
        ("ld.global.u32 %t, [%nowhere];", "%nowhere"),
        ("bra nowhere;", "nowhere"),
    ] {
        let Err(e) = ptx::parse(&kernel(body)) else {
            panic!("'{body}' was accepted")
        };
        assert!(e.message.contains(name), "{e}");
        assert_eq!(e.line, 10, "{e}");
    }
}

#[test]
fn limits_of_the_device() {
    let text = kernel(".shared .align 4 .b8 s[1024]; mov.u32 %t, s;");
    let over = |device: DeviceProfile, dynamic: u32, block: u32| {
        let m = Machine::on(device, &text);
        let i = m.words(&[0]);
        m.try_run("k", 1, block, dynamic, 0, &[Arg::Ptr(i), Arg::Ptr(i)])
            .err()
            .map(|f| f.kind)
    };
    let (sm80, sm90) = (163 * 1024 - 1024, 227 * 1024 - 1024);
    assert_eq!(over(DeviceProfile::sm80(), sm80, 32), None);
    assert!(matches!(
        over(DeviceProfile::sm80(), sm80 + 1, 32),
        Some(FaultKind::BadLaunch(_))
    ));
    assert_eq!(over(DeviceProfile::sm90(), sm90, 32), None);
    assert!(matches!(
        over(DeviceProfile::sm90(), sm90 + 1, 32),
        Some(FaultKind::BadLaunch(_))
    ));
    assert!(matches!(
        over(DeviceProfile::sm90(), 0, 1056),
        Some(FaultKind::BadLaunch(_))
    ));
    let newer = Machine::on(DeviceProfile::sm80(), &text.replace("sm_80", "sm_90"));
    let i = newer.words(&[0]);
    assert!(newer
        .try_run("k", 1, 32, 0, 0, &[Arg::Ptr(i), Arg::Ptr(i)])
        .is_err());
}
