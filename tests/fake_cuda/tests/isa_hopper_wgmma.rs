//! wgmma and setmaxnreg, by the PTX ISA's words: descriptors, fragments, order.
mod common;
mod hopper_common;

use common::Machine;
use fake_cuda::exec::FaultKind;
use fake_cuda::strictness::{Relaxed, Rule};
use hopper_common::{init, kernel, wait, Run};

/// Copies 12 KiB from `in` to shared memory, visible to the async proxy.
const FILL: &str = "mov.u32 %r1, %t; F: mul.wide.u32 %d0, %r1, 4; add.u64 %d0, %in, %d0; ld.global.u32 %r2, [%d0];\n\
     shl.b32 %r3, %r1, 2; add.u32 %r3, %s, %r3; st.shared.u32 [%r3], %r2; add.u32 %r1, %r1, 128; setp.lt.u32 %q, %r1, 3072; @%q bra F;\n\
     fence.proxy.async.shared::cta; bar.sync 0;\n";
const OUT: &str = "mov.u32 %r1, %t; mul.wide.u32 %d0, %r1, 32; add.u64 %d0, %out, %d0;\n\
     st.global.v4.u32 [%d0], {%r20, %r21, %r22, %r23}; st.global.v4.u32 [%d0+16], {%r24, %r25, %r26, %r27};";
const D: &str = "{%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27}";

fn mma(types: &str, a: &str, b: u64, scale: u32) -> String {
    format!("wgmma.mma_async.sync.aligned.m64n16k32.s32.{types} {D}, {a}, {b}, {scale};\n")
}

fn bytes(seed: u32, n: usize) -> Vec<u8> {
    let mut x = seed;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .collect()
}

/// Start (bytes), leading and stride byte offset, swizzle field.
fn descriptor(start: u64, leading: u64, stride: u64, swizzle: u64) -> u64 {
    start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | swizzle << 62
}

/// What shared memory must hold, and the 64 x 16 sums from accumulators `old`.
struct Case {
    image: Vec<u8>,
    want: Vec<i32>,
}

/// Operands placed by `place(row, byte along k)`, A first.
fn case(
    place_a: impl Fn(usize, usize) -> usize,
    place_b: impl Fn(usize, usize) -> usize,
    signed: (bool, bool),
    old: i32,
) -> Case {
    let (a, b) = (bytes(5, 64 * 32), bytes(9, 16 * 32));
    let mut image = vec![0x77; 12288];
    for (i, v) in a.iter().enumerate() {
        image[place_a(i / 32, i % 32)] = *v;
    }
    for (i, v) in b.iter().enumerate() {
        image[place_b(i / 32, i % 32)] = *v;
    }
    let value = |v: u8, signed: bool| {
        if signed {
            i32::from(v as i8)
        } else {
            i32::from(v)
        }
    };
    let sum = |i: usize| {
        let dot =
            |k: usize| value(a[i / 16 * 32 + k], signed.0) * value(b[i % 16 * 32 + k], signed.1);
        (0..32).map(dot).sum::<i32>() + old
    };
    Case {
        image,
        want: (0..1024).map(sum).collect(),
    }
}

/// The accumulators of thread t, register i, back to rows and columns.
fn run(body: &str, image: &[u8]) -> Vec<i32> {
    let m = Machine::new(&kernel(&format!("{FILL} {body} {OUT}")));
    let (input, out) = (m.bytes(image), m.room(4096));
    Run::default()
        .on(&m, input, out)
        .unwrap_or_else(|f| panic!("{f}"));
    sums(&m.read(out, 1024))
}

/// The same of words that were read.
fn sums(words: &[u32]) -> Vec<i32> {
    let mut d = vec![0; 1024];
    for (at, word) in words.iter().enumerate() {
        let (t, i) = (at / 8, at % 8);
        let (warp, lane) = (t / 32, t % 32);
        // Registers 0 1 | 2 3 | 4 5 | 6 7: rows g, g + 8, g, g + 8; columns 2t, 2t + 1, the last four 8 further.
        let row = 16 * warp + lane / 4 + [0, 0, 8, 8, 0, 0, 8, 8][i];
        let column = 2 * (lane % 4) + [0, 1, 0, 1, 8, 9, 8, 9][i];
        d[row * 16 + column] = *word as i32;
    }
    d
}

fn wait_for(ops: &str) -> String {
    format!("wgmma.fence.sync.aligned; {ops} wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;")
}

/// `s` stands at 1024.
const A: u64 = 1024;
const B: u64 = 1024 + 8192;

#[test]
fn core_matrices_without_a_swizzle() {
    // Core matrices of 128 bytes: those along K `lead` apart, the next eight rows `stride`.
    for (lead, stride) in [(128usize, 256usize), (1024, 128), (144, 512)] {
        let place = |start: usize| {
            move |row: usize, k: usize| {
                start + row / 8 * stride + k / 16 * lead + row % 8 * 16 + k % 16
            }
        };
        let c = case(place(0), place(8192), (true, true), 0);
        let d = |start| descriptor(start, lead as u64, stride as u64, 0);
        let body = wait_for(&mma("s8.s8", &d(A).to_string(), d(B), 0));
        assert_eq!(run(&body, &c.image), c.want, "{lead} {stride}");
    }
}

#[test]
fn swizzled_rows_at_every_step_along_k() {
    // (field of the descriptor, bytes of a row)
    for (field, span) in [(3u64, 32usize), (2, 64), (1, 128)] {
        for step in 0..span / 32 {
            let place = |start: usize| {
                move |row: usize, k: usize| {
                    let at = start + row * span + step * 32 + k;
                    at ^ ((at / 128 % (span / 16)) * 16)
                }
            };
            let c = case(place(0), place(8192), (true, true), 0);
            let d = |start| descriptor(start + 32 * step as u64, 16, 8 * span as u64, field);
            let body = wait_for(&mma("s8.s8", &d(A).to_string(), d(B), 0));
            assert_eq!(run(&body, &c.image), c.want, "span {span} step {step}");
        }
    }
}

/// `cp.async` writes through the generic proxy, however its end is learnt of: wgmma sees it behind `fence.proxy.async` alone.
#[test]
fn wgmma_sees_cp_async_behind_a_proxy_fence() {
    let fill = |end: &str| {
        format!(
            "{} mov.u32 %r1, %t; F: mul.wide.u32 %d0, %r1, 16; add.u64 %d0, %in, %d0; shl.b32 %r3, %r1, 4; add.u32 %r3, %s, %r3;\n\
             cp.async.cg.shared.global [%r3], [%d0], 16; add.u32 %r1, %r1, 128; setp.lt.u32 %q, %r1, 768; @%q bra F;\n{end}\n",
            init(128)
        )
    };
    let by_group = "cp.async.commit_group; cp.async.wait_group 0;";
    let by_mbarrier = format!(
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%m]; {}",
        wait(0)
    );
    let place = |start: usize| {
        move |row: usize, k: usize| start + row / 8 * 256 + k / 16 * 128 + row % 8 * 16 + k % 16
    };
    let c = case(place(0), place(8192), (true, true), 0);
    let d = |start| descriptor(start, 128, 256, 0);
    let product = wait_for(&mma("s8.s8", &d(A).to_string(), d(B), 0));
    let outcome = |body: &str, seed: u64| {
        let m = Machine::new(&kernel(&format!("{body} {product} {OUT}")));
        let (input, out) = (m.bytes(&c.image), m.room(4096));
        let run = Run {
            seed,
            ..Run::default()
        };
        run.on(&m, input, out).map(|()| sums(&m.read(out, 1024)))
    };
    for seed in 0..8 {
        for end in [by_group, &by_mbarrier] {
            let fenced = format!("{} fence.proxy.async.shared::cta; bar.sync 0;", fill(end));
            let have = outcome(&fenced, seed).unwrap_or_else(|f| panic!("{end}: {f}"));
            assert_eq!(have, c.want, "{end}");
            let fault = outcome(&format!("{} bar.sync 0;", fill(end)), seed);
            let kind = fault.expect_err("no fence").kind;
            assert!(matches!(&kind, FaultKind::Proxy(_)), "{end}: {kind}");
        }
        // A fence before the wait does not cover what the wait learns of.
        let early = by_mbarrier.replace(" {", " fence.proxy.async.shared::cta; {");
        assert_ne!(early, by_mbarrier);
        let fault = outcome(&format!("{} bar.sync 0;", fill(&early)), seed);
        let kind = fault.expect_err("a fence too early").kind;
        assert!(matches!(&kind, FaultKind::Proxy(_)), "{kind}");
    }
}

#[test]
fn types_accumulation_and_saturation() {
    let place = |start: usize| {
        move |row: usize, k: usize| start + row / 8 * 256 + k / 16 * 128 + row % 8 * 16 + k % 16
    };
    let d = |start| descriptor(start, 128, 256, 0);
    let set = |v: i32| {
        (20..28)
            .map(|i| format!("mov.u32 %r{i}, {v};"))
            .collect::<String>()
    };
    for (types, signed) in [
        ("s8.u8", (true, false)),
        ("u8.s8", (false, true)),
        ("u8.u8", (false, false)),
    ] {
        let c = case(place(0), place(8192), signed, 12345);
        let body = format!(
            "{} {}",
            set(12345),
            wait_for(&mma(types, &d(A).to_string(), d(B), 1))
        );
        assert_eq!(run(&body, &c.image), c.want, "{types}");
    }
    // Two in a row on the same accumulators need no fence between them.
    let c = case(place(0), place(8192), (true, true), 0);
    let op = |scale| mma("s8.s8", &d(A).to_string(), d(B), scale);
    let twice: Vec<i32> = c.want.iter().map(|v| 2 * v).collect();
    assert_eq!(run(&wait_for(&(op(0) + &op(1))), &c.image), twice);
    let top = i32::MAX - 1000;
    let saturated = op(1).replace(".s8.s8", ".s8.s8.satfinite");
    let want: Vec<i32> = c.want.iter().map(|v| top.saturating_add(*v)).collect();
    assert_eq!(
        run(&format!("{} {}", set(top), wait_for(&saturated)), &c.image),
        want
    );
}

#[test]
fn a_in_registers() {
    // a0: row g, k 4t..; a1: row g + 8; a2: row g, k 16 + 4t..; a3: row g + 8, k 16 + 4t... A lies row by row at 0.
    let place_b =
        |row: usize, k: usize| 8192 + row / 8 * 256 + k / 16 * 128 + row % 8 * 16 + k % 16;
    let c = case(|row, k| row * 32 + k, place_b, (true, true), 0);
    let load = "shr.u32 %r4, %t, 5; shl.b32 %r4, %r4, 9; and.b32 %r5, %t, 31; shr.u32 %r6, %r5, 2; shl.b32 %r6, %r6, 5; add.u32 %r4, %r4, %r6;\n\
                and.b32 %r6, %t, 3; shl.b32 %r6, %r6, 2; add.u32 %r4, %r4, %r6; add.u32 %r4, %s, %r4;\n\
                ld.shared.u32 %r10, [%r4]; ld.shared.u32 %r11, [%r4+256]; ld.shared.u32 %r12, [%r4+16]; ld.shared.u32 %r13, [%r4+272];\n";
    let op = mma(
        "s8.s8",
        "{%r10, %r11, %r12, %r13}",
        descriptor(B, 128, 256, 0),
        0,
    );
    assert_eq!(run(&format!("{load} {}", wait_for(&op)), &c.image), c.want);
    // The fragment written after the fence.
    let late = format!("wgmma.fence.sync.aligned; {load} {op}");
    assert!(fault(&late).to_string().contains("wgmma.fence"));
}

fn fault(body: &str) -> FaultKind {
    let m = Machine::new(&kernel(&format!("{FILL} {body} {OUT}")));
    let (input, out) = (m.bytes(&[1; 12288]), m.room(4096));
    match Run::default().on(&m, input, out) {
        Err(f) => f.kind,
        Ok(()) => panic!("ended well: {body}"),
    }
}

#[test]
fn planted_bugs_around_wgmma() {
    let d = |start| descriptor(start, 128, 256, 0);
    let op = mma("s8.s8", &d(A).to_string(), d(B), 0);
    let (fence, commit, wait) = (
        "wgmma.fence.sync.aligned;",
        "wgmma.commit_group.sync.aligned;",
        "wgmma.wait_group.sync.aligned 0;",
    );
    let group = |text: &str, says: &str| {
        let kind = fault(text);
        assert!(
            matches!(&kind, FaultKind::Warpgroup(t) if t.contains(says)),
            "{text}: {kind}"
        );
    };
    group(&format!("{op} {commit} {wait}"), "wgmma.fence");
    group(
        &format!("{fence} mov.u32 %r20, 0; {op} {commit} {wait}"),
        "wgmma.fence",
    );
    group(&format!("{fence} {op} {commit}"), "wait_group");
    // Never committed, so never waited for.
    group(&format!("{fence} {op} {wait}"), "wait_group");
    group(
        &format!("{fence} {op} {commit} {op} {commit} wgmma.wait_group.sync.aligned 1;"),
        "wait_group",
    );
    // Read after the wait, then used again without a fence.
    group(
        &format!("{fence} {op} {commit} {wait} add.u32 %r1, %r20, 1; {op} {commit} {wait}"),
        "wgmma.fence",
    );
    // One warp stays away, or runs another one.
    group(
        &format!("setp.lt.u32 %q, %t, 96; @!%q bra L; {fence} {op} {commit} L: exit;"),
        "",
    );
    group(
        &format!(
            "{fence} setp.lt.u32 %q, %t, 96; @!%q bra L; {op} bra E; L: {op} E: {commit} {wait}"
        ),
        "another warp",
    );
    let missing = fault(&format!(
        "setp.lt.u32 %q, %t, 96; @!%q bra L; {fence} {op} {commit} {wait} L: bar.sync 0;"
    ));
    assert!(
        matches!(&missing, FaultKind::Deadlock(t) if t.contains("its warpgroup")),
        "{missing}"
    );
    // The operands overwritten before the wait; by another warp than the one that waited; not ordered by its wait.
    let over = "@%p st.shared.u32 [%s], %t;";
    assert!(matches!(
        fault(&format!("{fence} {op} {commit} {over} {wait}")),
        FaultKind::Race(_)
    ));
    assert!(matches!(
        fault(&format!("{fence} {op} {commit} bar.sync 0; {over} {wait}")),
        FaultKind::Race(_)
    ));
    let m = Machine::new(&kernel(&format!(
        "{FILL} {fence} {op} {commit} {wait} bar.sync 0; {over} {OUT}"
    )));
    let (input, out) = (m.bytes(&[1; 12288]), m.room(4096));
    Run::default()
        .on(&m, input, out)
        .unwrap_or_else(|f| panic!("{f}"));
    // Operands written without the proxy fence.
    let text = kernel(&format!(
        "{} {fence} {op} {commit} {wait}",
        FILL.replace("fence.proxy.async.shared::cta;", "")
    ));
    let m = Machine::new(&text);
    let kind = Run::default()
        .on(&m, m.bytes(&[1; 12288]), out)
        .unwrap_err()
        .kind;
    assert!(matches!(kind, FaultKind::Proxy(_)), "{kind}");
    // Descriptors.
    let with = |bits: u64| {
        format!(
            "{fence} {} {commit} {wait}",
            mma("s8.s8", &bits.to_string(), d(B), 0)
        )
    };
    group(&with(d(A) | 1 << 49), "base offset");
    group(&with(d(A) | 1 << 14), "outside its fields");
    group(&with(descriptor(A + 128, 16, 1024, 1)), "pattern");
    group(
        &with(descriptor(A + 112, 16, 1024, 1)),
        "leave the 128-byte row",
    );
    assert!(matches!(
        fault(&with(descriptor(A, 128, 4096, 0))),
        FaultKind::Shared(_)
    ));
}

#[test]
fn registers_move_between_warpgroups() {
    // 512 threads share 65536 registers, 128 each: 128 more for one warpgroup come from the others.
    let body = |down: u32| {
        format!(
            "setp.lt.u32 %q, %t, 128; @%q bra UP; setmaxnreg.dec.sync.aligned.u32 {down}; bra E; UP: setmaxnreg.inc.sync.aligned.u32 240; E: st.global.u32 [%o], %t;"
        )
    };
    let run = Run {
        block: 512,
        ..Run::default()
    };
    assert_eq!(run.words(&body(88))[511], 511);
    let kind = run.fault(&body(96));
    assert!(
        matches!(&kind, FaultKind::Deadlock(t) if t.contains("112 more registers")),
        "{kind}"
    );
    let up = run.fault("setmaxnreg.dec.sync.aligned.u32 136;");
    assert!(
        matches!(&up, FaultKind::Warpgroup(t) if t.contains("128")),
        "{up}"
    );
}

/// All warps of a warpgroup execute the same setmaxnreg instruction; a launch may be let off for one that asks for the same.
#[test]
fn several_setmaxnreg_of_one_warpgroup() {
    let body = |other: u32| {
        format!(
            "setp.lt.u32 %q, %t, 32; @%q bra ONE; setmaxnreg.dec.sync.aligned.u32 {other}; bra E; \
             ONE: setmaxnreg.dec.sync.aligned.u32 64; E: st.global.u32 [%o], %t;"
        )
    };
    let strict = Run::default();
    let lenient = Run {
        relaxed: Relaxed::default().and(Rule::OneSetmaxnreg),
        ..Run::default()
    };
    for kind in [strict.fault(&body(64)), lenient.fault(&body(72))] {
        assert!(
            matches!(&kind, FaultKind::Warpgroup(t) if t.contains("another warp of the warpgroup")),
            "{kind}"
        );
    }
    assert_eq!(lenient.words(&body(64))[127], 127);
}

#[test]
fn errors_planted_in_descriptors_are_found() {
    // Not from what TMA wrote, whose swizzle would be wrong alike: from plain stores at addresses of the test's own.
    for error in ["no-swizzle", "wrong-swizzle-bits"] {
        common::must_fail(error, "swizzled_rows_at_every_step_along_k");
    }
    common::must_fail("offsets-swapped", "core_matrices_without_a_swizzle");
    common::must_fail("no-satfinite", "types_accumulation_and_saturation");
}
