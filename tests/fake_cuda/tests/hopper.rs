//! A GEMM with TMA, multicast, mbarriers, wgmma and setmaxnreg as nvcc 13.0 compiles it for sm_90a (`ptx/hopper.cu`):
//! right as it is, and stopped when one of its waits, fences or arrivals is taken out.
mod common;

use common::Machine;
use fake_cuda::exec::{launch, Fault, FaultKind, Launch};
use fake_cuda::tensor_map::TensorMap;

const PTX: &str = include_str!("ptx/hopper.ptx");
const SEEDS: std::ops::Range<u64> = 0..6;

/// A K-major int8 matrix, or an int32 one.
fn map(
    data_type: u8,
    swizzle: u8,
    address: u64,
    extents: [u64; 2],
    box_extents: [u32; 2],
    pitch: u64,
) -> TensorMap {
    TensorMap {
        data_type,
        interleave: 0,
        swizzle,
        l2_promotion: 0,
        fill: 0,
        address,
        extents: extents.to_vec(),
        strides: vec![pitch],
        box_extents: box_extents.to_vec(),
        element_strides: vec![1, 1],
    }
}

fn bytes(seed: u32, n: usize) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// Runs the kernel; the product and what it must be.
fn gemm(ptx: &str, [m, n, k]: [usize; 3], seed: u64) -> Result<(Vec<u32>, Vec<u32>), Fault> {
    let machine = Machine::new(ptx);
    let pitch = k.next_multiple_of(16);
    let (a, b) = (bytes(1, m * pitch), bytes(2, n * pitch));
    let (pa, pb) = (machine.bytes(&a), machine.bytes(&b));
    let pc = machine.room((m * n * 4) as u64);
    let (m64, n64, k64) = (m as u64, n as u64, k as u64);
    let maps = [
        map(0, 3, pa, [k64, m64], [128, 64], pitch as u64),
        map(0, 3, pb, [k64, n64], [128, 32], pitch as u64),
        map(3, 0, pc, [n64, m64], [64, 64], n64 * 4),
    ];
    let mut params: Vec<u8> = Vec::new();
    for map in &maps {
        assert_eq!(map.objection(), None);
        params.extend(map.encode().iter().flat_map(|w| w.to_le_bytes()));
    }
    params.extend((k as u32).to_le_bytes());
    launch(&Launch {
        module: &machine.module,
        entry: "hopper_igemm",
        grid: [m.div_ceil(128) as u32 * 2, n.div_ceil(64) as u32, 1],
        block: [256, 1, 1],
        cluster: [2, 1, 1],
        explicit_cluster: true,
        dependent: false,
        dynamic_shared: 4 * 2 * 8192 + 64 * 64 * 4 + 64 + 1024,
        params: &params,
        memory: &machine.memory,
        device: &machine.device,
        seed,
        relaxed: Default::default(),
    })?;
    let value = |v: u8| i32::from(v as i8);
    let want = (0..m * n).map(|i| {
        let (row, col) = (i / n, i % n);
        (0..k)
            .map(|j| value(a[row * pitch + j]) * value(b[col * pitch + j]))
            .sum::<i32>() as u32
    });
    Ok((machine.read(pc, m * n), want.collect()))
}

#[test]
fn bit_equal_over_ragged_shapes_and_schedules() {
    for shape in [
        [64, 64, 128],
        [128, 64, 640],
        [200, 68, 1000],
        [1, 4, 16],
        [130, 132, 1300],
    ] {
        for seed in SEEDS {
            let (have, want) =
                gemm(PTX, shape, seed).unwrap_or_else(|f| panic!("{shape:?} seed {seed}: {f}"));
            assert!(have == want, "{shape:?} seed {seed}");
        }
    }
}

/// The text with occurrence number `which` of `from` replaced; the text must be there.
fn sabotage(from: &str, to: &str, which: Option<usize>) -> String {
    match which {
        None => {
            assert!(PTX.contains(from));
            PTX.replace(from, to)
        }
        Some(n) => {
            let (at, _) = PTX.match_indices(from).nth(n).expect("text to replace");
            format!("{}{to}{}", &PTX[..at], &PTX[at + from.len()..])
        }
    }
}

/// Stages change hands between wgmma and TMA, whose completion an arrival without a scope tells; the first barrier of the cluster hands
/// over mbarriers alone, which their fence released.
#[test]
fn stages_change_hands_by_arrivals_without_a_scope() {
    let arrive = "mbarrier.arrive.release.cluster.shared::cluster.b64";
    let text = sabotage(arrive, "mbarrier.arrive.shared::cluster.b64", None);
    let first = "barrier.cluster.arrive.release.aligned;";
    let text = text.replacen(first, "barrier.cluster.arrive.relaxed.aligned;", 1);
    for seed in SEEDS {
        let (have, want) =
            gemm(&text, [200, 68, 1300], seed).unwrap_or_else(|f| panic!("seed {seed}: {f}"));
        assert!(have == want, "seed {seed}");
    }
    // An arrival that tells nothing leaves the stage to the wgmma that read it.
    let silent = text.replace(
        "mbarrier.arrive.shared::cluster.b64",
        "mbarrier.arrive.relaxed.cluster.shared::cluster.b64",
    );
    every(&silent, |k| matches!(k, FaultKind::Race(_)));
}

/// The faults that the kernel ends in, one a seed; none may end well.
fn caught(ptx: &str) -> Vec<FaultKind> {
    SEEDS
        .map(|seed| match gemm(ptx, [256, 64, 1152], seed) {
            Err(fault) => fault.kind,
            Ok(_) => panic!("seed {seed}: not caught"),
        })
        .collect()
}

fn every(ptx: &str, what: fn(&FaultKind) -> bool) {
    for kind in caught(ptx) {
        assert!(what(&kind), "{kind}");
    }
}

#[test]
fn missing_proxy_fence_before_the_store() {
    every(&sabotage("fence.proxy.async.shared::cta;", "", None), |k| {
        matches!(k, FaultKind::Proxy(_))
    });
}

#[test]
fn missing_fence_after_mbarrier_init() {
    every(
        &sabotage("fence.mbarrier_init.release.cluster;", "", None),
        |k| matches!(k, FaultKind::Proxy(_)),
    );
}

#[test]
fn missing_wgmma_fence() {
    every(&sabotage("wgmma.fence.sync.aligned;", "", None), |k| {
        matches!(k, FaultKind::Warpgroup(_))
    });
}

#[test]
fn accumulators_read_before_the_wait() {
    every(
        &sabotage("wgmma.wait_group.sync.aligned 0;", "", None),
        |k| matches!(k, FaultKind::Warpgroup(t) if t.contains("wait_group")),
    );
}

#[test]
fn a_stage_given_back_before_the_wgmma_is_done() {
    // With two groups in flight the stage before is still being read.
    every(
        &sabotage(
            "wgmma.wait_group.sync.aligned 1;",
            "wgmma.wait_group.sync.aligned 2;",
            None,
        ),
        |k| matches!(k, FaultKind::Race(t) if t.contains("wgmma")),
    );
}

#[test]
fn a_stage_overwritten_before_its_consumers_arrived() {
    // The producer takes the empty barriers' phases for over: it waits for nobody.
    let wait = "mbarrier.try_wait.parity.shared::cta.b64 P1, [";
    let first = PTX.find(wait).expect("the producer's wait");
    let line = &PTX[first..first + PTX[first..].find('\n').expect("line")];
    let text = PTX.replace(line, "setp.eq.u32 P1, 0, 0;");
    for kind in caught(&text) {
        assert!(
            matches!(
                kind,
                FaultKind::Race(_)
                    | FaultKind::AsyncPending(_)
                    | FaultKind::Mbarrier(_)
                    | FaultKind::Deadlock(_)
            ),
            "{kind}"
        );
    }
}

#[test]
fn more_bytes_expected_than_come() {
    let change = |line: &str| match line.trim_start().starts_with("mov.u32") {
        true => line.replace(", 16384;", ", 16400;"),
        false => line.to_owned(),
    };
    let text: Vec<String> = PTX.lines().map(change).collect();
    for kind in caught(&text.join("\n")) {
        let FaultKind::Deadlock(text) = &kind else {
            panic!("{kind}")
        };
        assert!(
            text.contains("transaction count of 16 bytes") && text.contains("mbarrier at"),
            "{text}"
        );
    }
}

#[test]
fn a_peer_that_has_exited() {
    // Without the last cluster barrier a block may be gone when its peer arrives at its mbarriers.
    let arrive = "barrier.cluster.arrive.release.aligned;";
    let (at, _) = PTX.rmatch_indices(arrive).next().expect("the last barrier");
    let text = format!(
        "{}{}",
        &PTX[..at],
        PTX[at..]
            .replace(arrive, "")
            .replace("barrier.cluster.wait.acquire.aligned;", "")
    );
    every(
        &text,
        |k| matches!(k, FaultKind::Cluster(t) if t.contains("exit")),
    );
}

#[test]
fn a_store_whose_source_nobody_waits_for() {
    every(
        &sabotage("cp.async.bulk.wait_group.read 0;", "", None),
        |k| matches!(k, FaultKind::Bulk(_)),
    );
}
