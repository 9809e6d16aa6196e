//! Bulk copies with and without tensor maps: boxes, swizzles, what lies outside, order.
mod common;
mod hopper_common;

use common::Machine;
use fake_cuda::exec::FaultKind;
use fake_cuda::memory::MemoryFault;
use fake_cuda::tensor_map::TensorMap;
use hopper_common::{init, kernel, wait, Run};

const LOAD: &str =
    "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes";

fn map(swizzle: u8, extents: &[u64], strides: &[u64], boxes: &[u32]) -> TensorMap {
    TensorMap {
        data_type: 0,
        interleave: 0,
        swizzle,
        l2_promotion: 0,
        fill: 0,
        address: 0,
        extents: extents.to_vec(),
        strides: strides.to_vec(),
        box_extents: boxes.to_vec(),
        element_strides: vec![1; extents.len()],
    }
}

/// Loads the box at `at` and answers what shared memory holds then.
fn load(map: &TensorMap, at: &str, data: &[u8], seed: u64) -> Vec<u8> {
    let rank = map.extents.len();
    let bytes: u32 = map.box_extents.iter().product();
    let body = format!(
        "{} @%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%m], {bytes};\n\
         @%p cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%s], [%map, {at}], [%m];\n{}\n\
         shl.b32 %r1, %t, 2; setp.lt.u32 %q, %r1, {bytes}; add.u32 %r1, %s, %r1; @%q ld.shared.u32 %r2, [%r1]; @%q st.global.u32 [%o], %r2;",
        init(1),
        wait(0)
    );
    let m = Machine::new(&kernel(&body));
    let (input, out) = (m.bytes(data), m.room(2048));
    let mut map = map.clone();
    map.address = input;
    assert_eq!(map.objection(), None);
    let run = Run {
        block: 512,
        map: Some(&map),
        seed,
        ..Run::default()
    };
    run.on(&m, 0, out).unwrap_or_else(|f| panic!("{f}"));
    m.read(out, bytes as usize / 4)
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect()
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8 + 1).collect()
}

#[test]
fn swizzles_and_zeros_outside() {
    // (mode, bytes of a row, lines of 128 bytes that the pattern repeats after)
    for (mode, row, lines) in [(0u8, 96usize, 1usize), (1, 32, 2), (2, 64, 4), (3, 128, 8)] {
        let (width, height, pitch) = (200i64, 13i64, 208usize);
        let data = pattern(13 * pitch);
        let m = map(
            mode,
            &[width as u64, height as u64],
            &[pitch as u64],
            &[row as u32, 10],
        );
        for (x0, y0) in [
            (0i64, 0i64),
            (112, 6),
            (-16, -3),
            (190, 12),
            (300, 0),
            (7, 1),
        ] {
            let have = load(&m, &format!("{{{x0}, {y0}}}"), &data, x0 as u64);
            for y in 0..10usize {
                for x in 0..row {
                    let (gx, gy) = (x0 + x as i64, y0 + y as i64);
                    let inside = (0..width).contains(&gx) && (0..height).contains(&gy);
                    let want = if inside {
                        data[gy as usize * pitch + gx as usize]
                    } else {
                        0
                    };
                    // Chunk x / 16 of row y stands at the chunk's number XOR the number of its line of 128 bytes.
                    let line = (y * row / 128) % lines;
                    let at = y * row + ((x / 16) ^ line) * 16 + x % 16;
                    assert_eq!(have[at], want, "mode {mode} box at {x0},{y0}: {x},{y}");
                }
            }
        }
    }
}

#[test]
fn one_three_and_five_axes() {
    let data = pattern(4096);
    let one = map(0, &[100], &[], &[64]);
    let have = load(&one, "{80}", &data, 1);
    assert_eq!((&have[..20], &have[20..]), (&data[80..100], &[0; 44][..]));
    // 16 x 3 x 4 of 16-byte rows; box 16 x 2 x 2 from (0, 2, 1): rows 2 and one outside, planes 1 and 2.
    let three = map(0, &[16, 3, 4], &[16, 48], &[16, 2, 2]);
    let have = load(&three, "{0, 2, 1}", &data, 2);
    let row = |y: usize, z: usize| &data[z * 48 + y * 16..][..16];
    assert_eq!(have, [row(2, 1), &[0; 16], row(2, 2), &[0; 16]].concat());
    let five = map(0, &[16, 2, 2, 2, 2], &[16, 32, 64, 128], &[16, 1, 2, 1, 2]);
    let have = load(&five, "{0, 1, 0, 1, 0}", &data, 3);
    let at = |c: usize, e: usize| &data[16 + c * 32 + 64 + e * 128..][..16];
    assert_eq!(have, [at(0, 0), at(1, 0), at(0, 1), at(1, 1)].concat());
}

#[test]
fn a_store_writes_what_lies_inside() {
    for (mode, row) in [(0u8, 64usize), (1, 32), (2, 64), (3, 128)] {
        let (width, height, pitch) = (150usize, 9usize, 160usize);
        let body =
            "shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; mul.lo.u32 %r2, %t, 40503; st.shared.u32 [%r1], %r2; fence.proxy.async.shared::cta; bar.sync 0;\n\
             @%p cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%map, {112, 3}], [%s];\n\
             @%p cp.async.bulk.commit_group; @%p cp.async.bulk.wait_group 0;";
        let m = Machine::new(&kernel(body));
        let (out, filler) = (m.bytes(&vec![0xee; height * pitch]), m.room(16));
        let mut map = map(
            mode,
            &[width as u64, height as u64],
            &[pitch as u64],
            &[row as u32, 8],
        );
        map.address = out;
        let run = Run {
            block: 512,
            map: Some(&map),
            ..Run::default()
        };
        run.on(&m, 0, filler).unwrap_or_else(|f| panic!("{f}"));
        let shared: Vec<u8> = (0..512u32)
            .flat_map(|t| t.wrapping_mul(40503).to_le_bytes())
            .collect();
        let have: Vec<u8> = m
            .read(out, height * pitch / 4)
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        for y in 0..height {
            for x in 0..pitch {
                let (bx, by) = (x as i64 - 112, y as i64 - 3);
                let inside = (0..row as i64).contains(&bx) && (0..8).contains(&by) && x < width;
                let (bx, by) = (bx as usize, by as usize);
                let line = |by: usize| (by * row / 128) % (1 << mode);
                let want = if inside {
                    shared[by * row + ((bx / 16) ^ line(by)) * 16 + bx % 16]
                } else {
                    0xee
                };
                assert_eq!(have[y * pitch + x], want, "mode {mode}: {x},{y}");
            }
        }
    }
}

/// `cp.reduce.async.bulk.tensor`: each element of the box that lies inside is combined with what is there; several blocks at once
/// lose nothing.
#[test]
fn a_reducing_store_combines_what_lies_inside() {
    type Combine = Box<dyn Fn(u32, u32) -> u32>;
    let half = |x: u32, y: u32, at: u32| {
        let part = |v: u32| half::f16::from_bits((v >> at) as u16).to_f32();
        u32::from(half::f16::from_f32(part(x) + part(y)).to_bits()) << at
    };
    let cases: [(&str, u8, Combine); 9] = [
        ("add", 2, Box::new(u32::wrapping_add)),
        ("min", 2, Box::new(std::cmp::min)),
        ("max", 2, Box::new(std::cmp::max)),
        ("min", 3, Box::new(|x, y| (x as i32).min(y as i32) as u32)),
        ("max", 3, Box::new(|x, y| (x as i32).max(y as i32) as u32)),
        ("and", 2, Box::new(|x, y| x & y)),
        ("or", 3, Box::new(|x, y| x | y)),
        ("xor", 2, Box::new(|x, y| x ^ y)),
        (
            "add",
            6,
            Box::new(move |x, y| half(x, y, 0) | half(x, y, 16)),
        ),
    ];
    // Halves that are finite: neither exponent is all ones.
    let start: Vec<u32> = (0..12 * 20u32)
        .map(|i| i.wrapping_mul(0x9e37_79b9) & !0x4000_4000)
        .collect();
    for (name, data_type, combine) in cases {
        let body = format!(
            "shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; mul.lo.u32 %r2, %t, 2654435769; add.u32 %r2, %r2, 77; and.b32 %r2, %r2, 0xbfffbfff;\n\
             st.shared.u32 [%r1], %r2; fence.proxy.async.shared::cta; bar.sync 0;\n\
             @%p cp.reduce.async.bulk.tensor.2d.global.shared::cta.{name}.tile.bulk_group [%map, {{COLUMN, 6}}], [%s];\n\
             @%p cp.async.bulk.commit_group; @%p cp.async.bulk.wait_group 0;"
        );
        // A box of 8 words and 8 rows, the last columns and rows outside a tensor of 20 words and 12 rows.
        let words = if data_type == 6 { 2 } else { 1 };
        let body = body.replace("COLUMN", &(16 * words).to_string());
        let m = Machine::new(&kernel(&body));
        let (to, filler) = (m.words(&start), m.room(16));
        let mut map = map(0, &[20 * words, 12], &[80], &[8 * words as u32, 8]);
        (map.data_type, map.address) = (data_type, to);
        let run = Run {
            block: 64,
            grid: 3,
            map: Some(&map),
            ..Run::default()
        };
        run.on(&m, 0, filler).unwrap_or_else(|f| panic!("{f}"));
        let have = m.read(to, start.len());
        for (i, (&have, &old)) in have.iter().zip(&start).enumerate() {
            let (x, y) = (i as u32 % 20, i as u32 / 20);
            let mut want = old;
            if x >= 16 && y >= 6 {
                let t = (y - 6) * 8 + x - 16;
                let stored = t.wrapping_mul(2_654_435_769).wrapping_add(77) & 0xbfff_bfff;
                for _ in 0..3 {
                    want = combine(want, stored);
                }
            }
            assert_eq!(have, want, "{name} over type {data_type}: {x},{y}");
        }
    }
    // What is not there: bits of floats, a sum of s64, a reduction into memory that nobody wrote.
    let store = |op: &str| {
        format!(
            "st.shared.u32 [%s], %t; fence.proxy.async.shared::cta; @%p cp.reduce.async.bulk.tensor.1d.global.shared::cta.{op}.bulk_group [%map, {{0}}], [%s];\n\
             @%p cp.async.bulk.commit_group; @%p cp.async.bulk.wait_group 0;"
        )
    };
    for (op, data_type, written, what) in [
        ("xor", 7u8, true, "bits of floats"),
        ("add", 5, true, "no such operation"),
        ("add", 2, false, "uninitialised"),
    ] {
        let m = Machine::new(&kernel(&store(op)));
        let to = if written {
            m.words(&[1; 4])
        } else {
            m.room(16)
        };
        let width = if data_type == 5 { 8 } else { 4 };
        let mut map = map(0, &[16 / width], &[], &[16 / width as u32]);
        (map.data_type, map.address) = (data_type, to);
        let run = Run {
            block: 1,
            map: Some(&map),
            ..Run::default()
        };
        let fault = run.on(&m, 0, to).expect_err(what);
        assert!(fault.to_string().contains(what), "{fault}");
    }
}

#[test]
fn plain_bulk_copies_go_both_ways() {
    let body = format!(
        "{} @%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%m], 512;\n\
         @%p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%in], 512, [%m];\n{} bar.sync 0;\n\
         @%p cp.async.bulk.global.shared::cta.bulk_group [%out], [%s], 512; @%p cp.async.bulk.commit_group;\n\
         @%p cp.async.bulk.wait_group.read 0;",
        init(1),
        wait(0)
    );
    let m = Machine::new(&kernel(&body));
    let words: Vec<u32> = (0..128).map(|i| i * i).collect();
    let (input, out) = (m.words(&words), m.room(512));
    for seed in 0..10 {
        Run {
            seed,
            ..Run::default()
        }
        .on(&m, input, out)
        .unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(m.read(out, 128), words);
    }
}

#[test]
fn multicast_reaches_the_blocks_of_the_mask() {
    // Rank 1 loads for both; each waits on its own mbarrier.
    let body = format!(
        "@%p mbarrier.init.shared::cta.b64 [%m], 1; @%p fence.mbarrier_init.release.cluster;\n\
         barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
         @%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%m], 512; mov.u32 %r3, %cluster_ctarank; setp.eq.and.u32 %q, %r3, 1, %p;\n\
         mov.b16 %h, 3; @%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%s], [%in], 512, [%m], %h;\n\
         {} shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; ld.shared.u32 %r2, [%r1]; st.global.u32 [%o], %r2;\n\
         barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
        wait(0)
    );
    let m = Machine::new(&kernel(&format!(".reg .b16 %h; {body}")));
    let words: Vec<u32> = (0..128).map(|i| i * 7).collect();
    let (input, out) = (m.words(&words), m.room(1024));
    for seed in 0..10 {
        let run = Run {
            grid: 2,
            cluster: 2,
            seed,
            ..Run::default()
        };
        run.on(&m, input, out).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(m.read(out, 256), [&words[..], &words[..]].concat());
    }
    let far = body.replace("%h, 3", "%h, 5");
    let run = Run {
        grid: 2,
        cluster: 2,
        ..Run::default()
    };
    let kind = run.fault(&format!(".reg .b16 %h; {far}"));
    assert!(
        matches!(&kind, FaultKind::Bulk(t) if t.contains("multicast")),
        "{kind}"
    );
}

#[test]
fn planted_bugs_around_copies() {
    let start = format!(
        "{} @%p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%m], 512;\n\
         @%p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%in], 512, [%m];\n",
        init(1)
    );
    let read = "shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; ld.shared.u32 %r2, [%r1];";
    let store = "@%p cp.async.bulk.global.shared::cta.bulk_group [%out], [%s], 512; @%p cp.async.bulk.commit_group;";
    let fill = "shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1; st.shared.u32 [%r1], %t;";
    let fence = "fence.proxy.async;";
    type Check = fn(&FaultKind) -> bool;
    let flying: Check = |k| matches!(k, FaultKind::AsyncPending(_) | FaultKind::Race(_));
    let proxy: Check = |k| matches!(k, FaultKind::Proxy(_));
    let short = store.replace("512", "128");
    let lanes: Check =
        |k| matches!(k, FaultKind::Race(t) if t.contains("no bar.warp.sync between"));
    let cases: [(String, Check); 11] = [
        // Read after a barrier that says nothing of the copy, at once and when it has long landed.
        (format!("{start} bar.sync 0; {read}"), flying),
        (format!("{start} mov.u32 %r3, 0; L: add.u32 %r3, %r3, 1; setp.lt.u32 %q, %r3, 3000; @%q bra L; bar.sync 0; {read}"), flying),
        // Written before the phase.
        (format!("{start} bar.sync 0; {fill}"), flying),
        // The block ends before its bytes come.
        (start.clone(), |k| matches!(k, FaultKind::Bulk(_))),
        // A store without the proxy fence; one with the fence before the write.
        (format!("{fill} bar.sync 0; {store} cp.async.bulk.wait_group 0;"), proxy),
        (format!("{fence} {fill} bar.sync 0; {store} cp.async.bulk.wait_group 0;"), proxy),
        // A store's source written again before wait_group.read, and with one group too many left.
        (format!("{fill} {fence} bar.sync 0; {store} bar.sync 0; {fill}"), flying),
        (format!("{fill} {fence} bar.sync 0; {store} @%p cp.async.bulk.wait_group.read 1; bar.sync 0; {fill}"), flying),
        // One lane stores what the others of its warp have fenced, and lets them write where the store has read.
        (format!("setp.gt.u32 %q, %t, 31; @%q bra E; {fill} {fence} {short} cp.async.bulk.wait_group 0; E:"), lanes),
        (format!("setp.gt.u32 %q, %t, 31; @%q bra E; {fill} {fence} bar.warp.sync -1; {short} @%p cp.async.bulk.wait_group.read 0; {fill} E:"), lanes),
        // A load into what was just written.
        (format!("{fill} bar.sync 0; {start}"), proxy),
    ];
    for (i, (body, check)) in cases.iter().enumerate() {
        for seed in 0..5 {
            let kind = Run {
                seed,
                ..Run::default()
            }
            .fault(body);
            assert!(check(&kind), "case {i} seed {seed}: {kind}");
        }
    }
    // The fence may also stand after the barrier, in the thread that stores.
    let m = Machine::new(&kernel(&format!(
        "{fill} bar.sync 0; {fence} {store} cp.async.bulk.wait_group 0;"
    )));
    let out = m.room(512);
    Run::default()
        .on(&m, 0, out)
        .unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(m.read(out, 128), (0..128).collect::<Vec<u32>>());
}

#[test]
fn what_the_hardware_can_t_copy() {
    let go = |body: &str, map: Option<&TensorMap>| {
        let m = Machine::new(&kernel(&format!("{} {body}", init(1))));
        let (input, out) = (m.bytes(&[1; 256]), m.room(64));
        let map = map.map(|map| TensorMap {
            address: input,
            ..map.clone()
        });
        Run {
            map: map.as_ref(),
            ..Run::default()
        }
        .on(&m, input, out)
        .expect_err("a fault")
        .kind
    };
    let plain = |at: &str, bytes: u32| {
        format!("@%p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s{at}], [%in], {bytes}, [%m];")
    };
    assert!(matches!(
        go(&plain("+8", 16), None),
        FaultKind::Shared(MemoryFault::Misaligned { .. })
    ));
    assert!(matches!(go(&plain("", 24), None), FaultKind::Bulk(_)));
    assert!(matches!(
        go(&plain("", 512), None),
        FaultKind::Global(MemoryFault::OutOfBounds { .. })
    ));
    let tensor =
        |to: &str, coordinates: &str| format!("@%p {LOAD} [%s{to}], [%map, {coordinates}], [%m];");
    let good = map(0, &[64, 4], &[64], &[64, 4]);
    assert!(matches!(
        go(&tensor("+64", "{0, 0}"), Some(&good)),
        FaultKind::Shared(MemoryFault::Misaligned { bytes: 128, .. })
    ));
    // No tensor map in the parameters; a map of another rank; more extent than memory.
    assert!(matches!(
        go(&tensor("", "{0, 0}"), None),
        FaultKind::Bulk(_)
    ));
    assert!(matches!(
        go(&tensor("", "{0, 0}"), Some(&map(0, &[64], &[], &[64]))),
        FaultKind::Bulk(_)
    ));
    let tall = map(0, &[64, 9], &[64], &[64, 9]);
    assert!(matches!(
        go(&tensor("", "{0, 0}"), Some(&tall)),
        FaultKind::Global(MemoryFault::OutOfBounds { .. })
    ));
    // The mbarrier was not made known to the async proxy.
    let silent = Run::default().fault(&format!(
        "@%p mbarrier.init.shared::cta.b64 [%m], 1; bar.sync 0; {}",
        plain("", 16)
    ));
    assert!(matches!(silent, FaultKind::Proxy(_)), "{silent}");
}
