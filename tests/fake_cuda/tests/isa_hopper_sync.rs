//! mbarriers and clusters, by the PTX ISA's words.
mod common;
mod hopper_common;

use common::Machine;
use fake_cuda::device::DeviceProfile;
use fake_cuda::exec::FaultKind;
use fake_cuda::ptx;
use fake_cuda::strictness::{Relaxed, Rule};
use hopper_common::{init, kernel, wait, Run};

/// Every warp writes, arrives, waits and reads another warp's word.
fn exchange(arrive: &str, wait: &str) -> String {
    format!(
        "{} shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; st.shared.u32 [%r1], %t; {arrive}\n{wait}\n\
         xor.b32 %r2, %t, 96; shl.b32 %r2, %r2, 2; add.u32 %r2, %s, %r2; ld.shared.u32 %r3, [%r2]; st.global.u32 [%o], %r3;",
        init(128)
    )
}

#[test]
fn arrivals_complete_a_phase_and_order_memory() {
    let body = exchange("mbarrier.arrive.shared::cta.b64 _, [%m];", &wait(0));
    for seed in 0..20 {
        let have = Run {
            seed,
            ..Run::default()
        }
        .words(&body);
        assert_eq!(have, (0..128).map(|t| t ^ 96).collect::<Vec<u32>>());
    }
}

#[test]
fn a_phase_by_its_state_and_phases_one_after_the_other() {
    // Three phases; the state of each arrival names its own.
    let body = format!(
        "{} mov.u32 %r5, 0; L: shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; st.shared.u32 [%r1], %r5;\n\
         mbarrier.arrive.shared.b64 %d0, [%m];\nW: mbarrier.test_wait.shared.b64 %q, [%m], %d0; @!%q bra W;\n\
         xor.b32 %r2, %t, 64; shl.b32 %r2, %r2, 2; add.u32 %r2, %s, %r2; ld.shared.u32 %r3, [%r2]; bar.sync 0;\n\
         add.u32 %r5, %r5, 1; setp.lt.u32 %q, %r5, 3; @%q bra L; st.global.u32 [%o], %r3;",
        init(128)
    );
    assert_eq!(Run::default().words(&body), [2; 128]);
}

#[test]
fn a_wait_left_out_or_with_the_wrong_parity() {
    let arrive = "mbarrier.arrive.shared::cta.b64 _, [%m];";
    for broken in [String::new(), wait(1)] {
        for seed in 0..10 {
            let kind = Run {
                seed,
                ..Run::default()
            }
            .fault(&exchange(arrive, &broken));
            let unwritten = matches!(&kind, FaultKind::Shared(_));
            assert!(unwritten || matches!(kind, FaultKind::Race(_)), "{kind}");
        }
    }
    // An arrival that tells nothing.
    let relaxed = "mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [%m];";
    assert!(matches!(
        Run::default().fault(&exchange(relaxed, &wait(0))),
        FaultKind::Race(_)
    ));
}

#[test]
fn a_missing_arrival_is_a_deadlock_that_says_who_waits() {
    let kind = Run::default().fault(&exchange(
        "@!%p mbarrier.arrive.shared::cta.b64 _, [%m];",
        &wait(0),
    ));
    let FaultKind::Deadlock(text) = &kind else {
        panic!("{kind}")
    };
    assert!(
        text.contains("1 of 128 arrivals pending") && text.contains("mbarrier at"),
        "{text}"
    );
}

#[test]
fn transaction_bytes_hold_a_phase_open() {
    // The phase ends only with the bytes: 48 expected, 48 completed by hand.
    let open = "@%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%m], 48;\n\
                @%p mbarrier.complete_tx.relaxed.cluster.shared::cta.b64 [%m], 32;";
    let body = |rest: &str| {
        format!(
            "{} {open} {rest} {} st.global.u32 [%o], %t;",
            init(1),
            wait(0)
        )
    };
    let full = body("@%p mbarrier.complete_tx.relaxed.cluster.shared::cta.b64 [%m], 16;");
    assert_eq!(Run::default().words(&full)[1], 1);
    let FaultKind::Deadlock(text) = Run::default().fault(&body("")) else {
        panic!("no deadlock")
    };
    assert!(
        text.contains("0 of 1 arrivals pending") && text.contains("16 bytes"),
        "{text}"
    );
}

#[test]
fn mbarriers_are_refused_what_the_isa_leaves_undefined() {
    let run = Run::default();
    let cases = [
        ("mbarrier.arrive.shared::cta.b64 _, [%m];", "no mbarrier"),
        ("@%p mbarrier.init.shared::cta.b64 [%m], 0;", "count 0"),
        ("@%p mbarrier.init.shared::cta.b64 [%m], 1048576;", "count 1048576"),
        ("@%p mbarrier.init.shared::cta.b64 [%m], 4; @%p mbarrier.init.shared::cta.b64 [%m], 4;", "live mbarrier"),
        ("@%p mbarrier.init.shared::cta.b64 [%m], 4; @%p ld.shared.u32 %r1, [%m];", "live mbarrier"),
        ("@%p mbarrier.init.shared::cta.b64 [%m], 2; @%p mbarrier.arrive.shared::cta.b64 _, [%m], 3;", "2 of 2"),
        ("@%p mbarrier.init.shared::cta.b64 [%m], 128; mbarrier.arrive.shared::cta.b64 _, [%m];", ""),
        ("@%p mbarrier.init.shared::cta.b64 [%m], 4; mov.u64 %d0, 5; @%p mbarrier.test_wait.shared::cta.b64 %q, [%m], %d0;", "state"),
    ];
    for (body, says) in cases {
        let kind = run.fault(body);
        assert!(
            matches!(&kind, FaultKind::Mbarrier(t) if t.contains(says)),
            "{body}: {kind}"
        );
    }
    let misaligned = run.fault("@%p mbarrier.init.shared::cta.b64 [%m+4], 1;");
    assert!(matches!(misaligned, FaultKind::Shared(_)), "{misaligned}");
}

#[test]
fn cp_async_arrives_when_its_bytes_are_there() {
    let body = |noinc: &str, count: u32| {
        format!(
            "{} shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; cvt.u64.u32 %d0, %t; shl.b64 %d0, %d0, 2; add.u64 %d0, %in, %d0;\n\
             cp.async.ca.shared.global [%r1], [%d0], 4; cp.async.mbarrier.arrive{noinc}.shared::cta.b64 [%m];\n{}\n{}\n\
             xor.b32 %r2, %t, 96; shl.b32 %r2, %r2, 2; add.u32 %r2, %s, %r2; ld.shared.u32 %r3, [%r2]; st.global.u32 [%o], %r3;",
            init(count),
            if noinc.is_empty() { "mbarrier.arrive.shared::cta.b64 _, [%m];" } else { "" },
            wait(0)
        )
    };
    for (noinc, count) in [(".noinc", 128), ("", 128)] {
        let m = Machine::new(&kernel(&body(noinc, count)));
        let (input, out) = (
            m.words(&(0..128).map(|i| i * 3).collect::<Vec<_>>()),
            m.room(512),
        );
        for seed in 0..10 {
            Run {
                seed,
                ..Run::default()
            }
            .on(&m, input, out)
            .unwrap_or_else(|f| panic!("{f}"));
            assert_eq!(
                m.read(out, 128),
                (0..128).map(|t| (t ^ 96) * 3).collect::<Vec<u32>>()
            );
        }
    }
}

const PAIR: Run<'static> = Run {
    grid: 4,
    block: 32,
    cluster: 2,
    seed: 3,
    map: None,
    dependent: false,
    relaxed: Relaxed::NONE,
};
const SYNC: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";

#[test]
fn ranks_and_peers_shared_memory() {
    // Each block reads what its peer wrote, adds to the peer's counter and leaves last.
    let body = format!(
        "shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r2, %r2, 100, %t; st.shared.u32 [%r1], %r2;\n{SYNC}\n\
         mov.u32 %r3, %cluster_ctarank; xor.b32 %r4, %r3, 1; mapa.shared::cluster.u32 %r5, %r1, %r4;\n\
         ld.shared::cluster.u32 %r6, [%r5]; getctarank.shared::cluster.u32 %r7, %r5;\n{SYNC}\n\
         atom.shared::cluster.add.u32 %r8, [%r5], 1000;\n{SYNC}\n ld.shared.u32 %r9, [%r1];\n\
         add.u32 %r6, %r6, %r9; mad.lo.u32 %r6, %r7, 100000, %r6; mov.u32 %r10, %clusterid.x; mad.lo.u32 %r6, %r10, 1000000, %r6;\n\
         mov.u32 %r10, %cluster_nctarank; mov.u32 %r11, %nclusterid.x; add.u32 %r6, %r6, %r10; add.u32 %r6, %r6, %r11; st.global.u32 [%o], %r6;"
    );
    let want: Vec<u32> = (0..128)
        .map(|i| {
            let (block, t) = (i / 32, i % 32);
            (block ^ 1) * 100
                + t
                + block * 100
                + t
                + 1000
                + ((block % 2) ^ 1) * 100_000
                + block / 2 * 1_000_000
                + 2
                + 2
        })
        .collect();
    for seed in 0..10 {
        assert_eq!(Run { seed, ..PAIR }.words(&body), want);
    }
}

#[test]
fn a_peer_is_not_there_before_a_barrier_nor_after_its_end() {
    let peer = "mov.u32 %r3, %cluster_ctarank; xor.b32 %r4, %r3, 1; mapa.shared::cluster.u32 %r5, %s, %r4;";
    let early = PAIR.fault(&format!("{peer} st.shared::cluster.u32 [%r5], %r3;"));
    assert!(
        matches!(&early, FaultKind::Cluster(t) if t.contains("started")),
        "{early}"
    );
    let own = PAIR.fault(&format!("{peer} {SYNC} st.shared::cta.u32 [%r5], %r3;"));
    assert!(
        matches!(&own, FaultKind::Cluster(t) if t.contains("shared::cta")),
        "{own}"
    );
    let race = PAIR.fault(&format!(
        "{peer} @%p st.shared.u32 [%s], %t; barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned; \
         @%p ld.shared::cluster.u32 %r6, [%r5]; {SYNC}"
    ));
    assert!(matches!(race, FaultKind::Race(_)), "{race}");
    // Rank 0 leaves at once, rank 1 writes to it after a while.
    let late = PAIR.fault(&format!(
        "{peer} {SYNC} setp.eq.u32 %q, %r3, 0; @%q exit; mov.u32 %r6, 0; L: add.u32 %r6, %r6, 1; setp.lt.u32 %q, %r6, 2000;\n\
         @%q bra L; st.shared::cluster.u32 [%r5], %r3;"
    ));
    assert!(
        matches!(&late, FaultKind::Cluster(t) if t.contains("exited")),
        "{late}"
    );
}

#[test]
fn cluster_barriers_come_in_pairs() {
    let twice = PAIR.fault("barrier.cluster.arrive.aligned; barrier.cluster.arrive.aligned;");
    assert!(matches!(twice, FaultKind::Cluster(_)), "{twice}");
    let alone = PAIR.fault("barrier.cluster.wait.aligned;");
    assert!(matches!(alone, FaultKind::Cluster(_)), "{alone}");
    let missing = PAIR.fault(&format!("mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %q, %r3, 0; @%q bra L; bar.sync 0; bar.arrive 1, 64; bar.sync 1, 64; L: {SYNC}"));
    let text = missing.to_string();
    assert!(
        matches!(missing, FaultKind::Deadlock(_) | FaultKind::Barrier(_)),
        "{text}"
    );
}

#[test]
fn remote_arrivals_order_memory() {
    // Rank 0 writes into rank 1's memory and arrives at its mbarrier.
    let cluster_wait = wait(0).replace("parity.", "parity.acquire.cluster.");
    let with = |arrive: &str, wait: &str| {
        format!(
            "@%p mbarrier.init.shared::cta.b64 [%m], 32; @%p fence.mbarrier_init.release.cluster;\n\
             barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;\n\
             mov.u32 %r3, %cluster_ctarank; setp.ne.u32 %q, %r3, 0; @%q bra READ;\n\
             mov.u32 %r9, 1; mapa.shared::cluster.u32 %r5, %s, %r9; mapa.shared::cluster.u32 %r6, %m, %r9; shl.b32 %r7, %t, 2;\n\
             add.u32 %r5, %r5, %r7; st.shared::cluster.u32 [%r5], %t; {arrive} st.global.u32 [%o], %t; bra END;\n\
             READ: {} xor.b32 %r7, %t, 1; shl.b32 %r7, %r7, 2; add.u32 %r5, %s, %r7; ld.shared.u32 %r8, [%r5]; st.global.u32 [%o], %r8;\n\
             END: {SYNC}",
            wait
        )
    };
    let body = |arrive: &str| with(arrive, &cluster_wait);
    let good = body("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];");
    for seed in 0..10 {
        let have = Run {
            grid: 2,
            seed,
            ..PAIR
        }
        .words(&good);
        assert_eq!(have[32..], (0..32).map(|t| t ^ 1).collect::<Vec<u32>>());
    }
    let silent = PAIR.fault(&body(
        "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r6];",
    ));
    assert!(matches!(silent, FaultKind::Race(_)), "{silent}");
    // PTX ISA, mbarrier.arrive and try_wait: without a scope they order memory in their own block only.
    let unscoped = "mbarrier.arrive.shared::cluster.b64 _, [%r6];";
    let scoped = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];";
    for body in [
        with(unscoped, &cluster_wait),
        with(unscoped, &wait(0)),
        with(scoped, &wait(0)),
        with(scoped, &wait(0).replace("parity.", "parity.acquire.cta.")),
    ] {
        let narrow = PAIR.fault(&body);
        assert!(matches!(narrow, FaultKind::Race(_)), "{body}: {narrow}");
    }
    let unpublished = good.replace("fence.mbarrier_init.release.cluster", "membar.cta");
    assert!(matches!(PAIR.fault(&unpublished), FaultKind::Mbarrier(_)));
}

#[test]
fn other_targets_and_devices_don_t_have_them() {
    for text in [
        "wgmma.fence.sync.aligned;",
        "setmaxnreg.inc.sync.aligned.u32 64;",
        "barrier.cluster.arrive;",
    ] {
        let module = kernel(text).replace("sm_90a", "sm_80");
        let error = ptx::parse(&module).err().expect("refused").to_string();
        assert!(error.contains("needs .target"), "{error}");
    }
    let m = Machine::on(DeviceProfile::sm80(), &kernel(""));
    assert!(matches!(
        Run::default().on(&m, 0, 0).unwrap_err().kind,
        FaultKind::BadLaunch(_)
    ));
    for text in ["cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%s], [%s], 16, [%m];", "setmaxnreg.inc.sync.aligned.u32 60;"] {
        assert!(ptx::parse(&kernel(text)).is_err(), "{text}");
    }
}

/// PTX ISA, griddepcontrol: memory operations of the prerequisite grids are performed and visible after `.wait`.
#[test]
fn a_dependent_launch_waits_before_it_touches_what_the_kernel_before_wrote() {
    let run = |body: &str, dependent: bool| -> Result<Vec<u32>, FaultKind> {
        let launch = |m: &Machine, input: u64, output: u64, dependent: bool| {
            let r = Run {
                dependent,
                ..Run::default()
            };
            r.on(m, input, output).map_err(|f| f.kind)
        };
        // Both bodies in one module would need two entries: the selector is the first word of the input.
        let both = format!(
            "ld.param.u64 %d7, [k_in]; and.b64 %d7, %d7, 1; setp.eq.s64 %q, %d7, 1; @%q bra FIRST;\n{body}\nret;\n\
             FIRST: st.global.u32 [%o], %t;"
        );
        let m = Machine::new(&kernel(&both));
        let (input, out) = (m.words(&[7; 1024]), m.room(8192));
        launch(&m, input + 1, out, false)?;
        launch(&m, input, out, dependent)?;
        Ok(m.read(out, 128))
    };
    let double = "ld.global.u32 %r1, [%o]; add.u32 %r1, %r1, %r1; st.global.u32 [%o], %r1;";
    let twice: Vec<u32> = (0..128).map(|t| 2 * t).collect();
    assert_eq!(run(double, false), Ok(twice.clone()));
    assert_eq!(
        run(&format!("griddepcontrol.wait;\n{double}"), true),
        Ok(twice.clone())
    );
    // What nobody wrote may be read ahead of the wait.
    let ahead = format!("ld.global.u32 %r2, [%in];\ngriddepcontrol.wait;\n{double}");
    assert_eq!(run(&ahead, true), Ok(twice));
    for (body, says) in [
        (String::from(double), "read"),
        (format!("{double}\ngriddepcontrol.wait;"), "read"),
        (
            String::from("st.global.u32 [%in], %t; griddepcontrol.wait;"),
            "written",
        ),
        (
            String::from("red.global.add.u32 [%in], %t; griddepcontrol.wait;"),
            "written",
        ),
        (
            format!("griddepcontrol.launch_dependents;\n{double}"),
            "read",
        ),
        // Half of the warp has waited, the other half reads.
        (
            format!(
                "and.b32 %r3, %t, 1; setp.eq.s32 %q, %r3, 1;\n@%q griddepcontrol.wait;\n{double}"
            ),
            "read",
        ),
    ] {
        match run(&body, true) {
            Err(FaultKind::Dependent(text)) if text.contains(says) => {}
            other => panic!("{body}: {other:?}"),
        }
    }
}

/// A launch let off one rule passes where a strict one stops, and stops under any other.
#[test]
fn rules_are_relaxed_one_by_one() {
    let wide = format!(
        "{} mbarrier.arrive.shared::cta.b64 _, [%m]; {} mov.u32 %r1, 7; {{ W2: mbarrier.try_wait.parity.shared::cta.b64 %q, [%m], %r1; @!%q bra W2; }}",
        init(128),
        wait(0)
    )
    // Phase 1 is under way, so phase 7's parity is over only after these arrivals.
    .replace("mov.u32 %r1, 7;", "mbarrier.arrive.shared::cta.b64 _, [%m]; mov.u32 %r1, 7;");
    let unfenced = "@%p mbarrier.init.shared::cta.b64 [%m], 1; bar.sync 0;\n\
                    @%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%m], 16;\n\
                    @%p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%in], 16, [%m];";
    let unfenced = format!("{unfenced} {}", wait(0));
    let unused = "shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; ld.shared.u32 %r2, [%r1];";
    let same = "mov.u32 %r1, 5; st.shared.u32 [%s], %r1; bar.sync 0; ld.shared.u32 %r2, [%s]; st.global.u32 [%o], %r2;";
    type Expected = fn(&FaultKind) -> bool;
    let cases: [(Rule, &str, Expected); 4] = [
        (
            Rule::WideParity,
            &wide,
            |k| matches!(k, FaultKind::Mbarrier(t) if t.contains("want 0 or 1")),
        ),
        (Rule::InitFence, &unfenced, |k| {
            matches!(k, FaultKind::Proxy(_))
        }),
        (Rule::UnusedShared, unused, |k| {
            matches!(k, FaultKind::Shared(_))
        }),
        (Rule::SameValue, same, |k| matches!(k, FaultKind::Race(_))),
    ];
    for (rule, body, expected) in cases {
        for (_, other) in Rule::ALL {
            let run = Run {
                relaxed: Relaxed::default().and(other),
                ..Run::default()
            };
            let m = Machine::new(&kernel(body));
            let (input, out) = (m.words(&[7; 1024]), m.room(8192));
            match run.on(&m, input, out) {
                Ok(()) => assert_eq!(rule, other),
                Err(f) => assert!(
                    rule != other && expected(&f.kind),
                    "{rule:?}, {other:?}: {f}"
                ),
            }
        }
    }
    // Two values are two values.
    let run = Run {
        relaxed: Relaxed::default().and(Rule::SameValue),
        ..Run::default()
    };
    let kind = run.fault("st.shared.u32 [%s], %t;");
    assert!(matches!(kind, FaultKind::Race(_)), "{kind}");
}

/// Shared memory of a block lasts as long as the block: whoever uses a peer's must have told it so before it exits, whichever of them
/// the schedule lets go first.
#[test]
fn a_block_stays_until_its_peers_are_done_with_it() {
    let peer = "mov.u32 %r1, %cluster_ctarank; xor.b32 %r1, %r1, 1; mapa.shared::cluster.u32 %r2, %s, %r1; mapa.shared::cluster.u32 %r3, %m, %r1;";
    let store = "@%p st.shared::cluster.u32 [%r2], %t;";
    let arrive = "@%p mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];";
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;";
    let start = format!("{} {SYNC} {peer}", init(1));
    for (end, stays) in [
        (store.to_owned(), false),
        (format!("{store} {SYNC}"), true),
        (format!("{store} {relaxed}"), true),
        (arrive.to_owned(), false),
        (format!("{arrive} {SYNC}"), true),
        // Its own wait for the arrival is enough.
        (format!("{arrive} {}", wait(0)), true),
        // A store after the arrival that was waited for is not covered by it.
        (format!("{arrive} {store} {}", wait(0)), false),
    ] {
        let body = format!("{start} {end}");
        for seed in 0..8 {
            let m = Machine::new(&kernel(&body));
            let (input, out) = (m.words(&[7; 1024]), m.room(8192));
            let run = Run { seed, ..PAIR };
            match run.on(&m, input, out) {
                Ok(()) => assert!(stays, "seed {seed}: {end}"),
                Err(f) => {
                    let named = matches!(&f.kind, FaultKind::Cluster(t) if t.contains("exit"));
                    assert!(!stays && named, "seed {seed}, {end}: {f}");
                }
            }
        }
    }
}
