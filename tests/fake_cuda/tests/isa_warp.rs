//! Warp-wide instructions, barriers, atomics and asynchronous copies, against the PTX ISA's text.
mod common;

use common::{kernel, map, Arg, Machine};
use fake_cuda::exec::FaultKind;

/// Runs a body on `threads` threads; what each stored at `[%o + 4 * slot * threads]`.
fn run(body: &str, threads: u32, slots: usize, input: &[u8]) -> Vec<u32> {
    let m = Machine::new(&kernel(body));
    let (i, o) = (
        m.bytes(input),
        m.room(4 * u64::from(threads) * slots as u64),
    );
    m.run("k", 1, threads, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
    m.read(o, threads as usize * slots)
}

fn noise(seed: u32, n: usize) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// The ISA's element maps of m16n8k32 and m16n8k16 (8-bit): element i of a lane is A[row][col].
fn a_at(lane: usize, i: usize, k: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    let row = if k == 32 {
        i < 4 || (8..12).contains(&i)
    } else {
        i < 4
    };
    let col = in_group * 4 + (i & 3) + if k == 32 && i >= 8 { 16 } else { 0 };
    (if row { group } else { group + 8 }, col)
}

fn b_at(lane: usize, i: usize) -> (usize, usize) {
    (
        lane % 4 * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
        lane >> 2,
    )
}

fn c_at(lane: usize, i: usize) -> (usize, usize) {
    (
        if i < 2 { lane >> 2 } else { (lane >> 2) + 8 },
        lane % 4 * 2 + (i & 1),
    )
}

fn check_mma(k: usize, at: &str, bt: &str, satfinite: bool) {
    let (a, b) = (noise(3, 16 * k), noise(4, k * 8));
    let c: Vec<i32> = noise(5, 128)
        .iter()
        .map(|&v| match (satfinite, v % 2 == 0) {
            // So near to an end that most products pass it: at either, for products of either sign.
            (true, true) => i32::MAX - i32::from(v),
            (true, false) => i32::MIN + i32::from(v),
            (false, _) => i32::from(v) * 1000,
        })
        .collect();
    // Each lane's fragments, one after the other: A, B, C.
    let mut input = Vec::new();
    for lane in 0..32 {
        input.extend((0..k / 2).map(|i| {
            let (row, col) = a_at(lane, i, k);
            a[row * k + col]
        }));
        input.extend((0..k / 4).map(|i| {
            let (row, col) = b_at(lane, i);
            b[col * k + row]
        }));
        for i in 0..4 {
            let (row, col) = c_at(lane, i);
            input.extend(c[row * 8 + col].to_le_bytes());
        }
    }
    let stride = k / 2 + k / 4 + 16;
    let (na, nb) = (k / 8, k / 16);
    let list = |name: &str, n: usize| {
        (0..n)
            .map(|i| format!("%{name}{i}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut body = format!(
        ".reg .b32 %a<4>, %b<2>, %c<4>; .reg .b64 %p; mad.wide.u32 %p, %t, {stride}, %in;\n"
    );
    for (i, name) in (0..na)
        .map(|i| format!("%a{i}"))
        .chain((0..nb).map(|i| format!("%b{i}")))
        .chain((0..4).map(|i| format!("%c{i}")))
        .enumerate()
    {
        body += &format!("ld.global.u32 {name}, [%p+{}];\n", 4 * i);
    }
    let sat = if satfinite { ".satfinite" } else { "" };
    body += &format!(
        "mma.sync.aligned.m16n8k{k}.row.col{sat}.s32.{at}.{bt}.s32 {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        list("c", 4),
        list("a", na),
        list("b", nb),
        list("c", 4)
    );
    for i in 0..4 {
        body += &format!("st.global.u32 [%o+{}], %c{i};\n", 128 * i);
    }
    let got = run(&body, 32, 4, &input);
    let mut clamped = 0;
    let value = |v: u8, ty: &str| {
        if ty == "s8" {
            i64::from(v as i8)
        } else {
            i64::from(v)
        }
    };
    for lane in 0..32 {
        for i in 0..4 {
            let (row, col) = c_at(lane, i);
            let dot: i64 = (0..k)
                .map(|j| value(a[row * k + j], at) * value(b[col * k + j], bt))
                .sum();
            let sum = dot + i64::from(c[row * 8 + col]);
            clamped += usize::from(i32::try_from(sum).is_err());
            let want = if satfinite {
                sum.clamp(i32::MIN.into(), i32::MAX.into())
            } else {
                sum
            };
            assert_eq!(
                got[32 * i + lane],
                want as u32,
                "k{k} {at} {bt} row {row} column {col}"
            );
        }
    }
    assert_eq!(clamped >= 16, satfinite, "{clamped} of 128 sums leave i32");
}

#[test]
fn mma_fragments() {
    for k in [16, 32] {
        for (at, bt) in [("s8", "s8"), ("u8", "u8"), ("s8", "u8"), ("u8", "s8")] {
            check_mma(k, at, bt, false);
            check_mma(k, at, bt, true);
        }
    }
}

#[test]
fn ldmatrix_gives_each_lane_its_pair() {
    // Four 8x8 matrices of 16-bit values; row r of matrix m at byte 128 m + 16 r. Value = 100 m + 10 r + c.
    let mut input = Vec::new();
    for m in 0..4u16 {
        for r in 0..8u16 {
            for c in 0..8u16 {
                input.extend((100 * m + 10 * r + c).to_le_bytes());
            }
        }
    }
    for trans in ["", ".trans"] {
        let body = format!(
            ".shared .align 16 .b8 s[512]; .reg .b32 %a, %b, %r<4>; mov.u32 %a, s; shl.b32 %b, %t, 2; add.s32 %b, %a, %b;\n\
             ld.global.u32 %r0, [%i]; st.shared.u32 [%b], %r0; ld.global.u32 %r0, [%i+128]; st.shared.u32 [%b+128], %r0;\n\
             ld.global.u32 %r0, [%i+256]; st.shared.u32 [%b+256], %r0; ld.global.u32 %r0, [%i+384]; st.shared.u32 [%b+384], %r0;\n\
             bar.sync 0; shl.b32 %b, %t, 4; add.s32 %a, %a, %b;\n\
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r0, %r1, %r2, %r3}}, [%a];\n\
             st.global.u32 [%o], %r0; st.global.u32 [%o+128], %r1; st.global.u32 [%o+256], %r2; st.global.u32 [%o+384], %r3;"
        );
        let got = run(&body, 32, 4, &input);
        for m in 0..4u32 {
            for lane in 0..32u32 {
                let element = |j: u32| {
                    let (r, c) = (lane / 4, lane % 4 * 2 + j);
                    let (r, c) = if trans.is_empty() { (r, c) } else { (c, r) };
                    100 * m + 10 * r + c
                };
                assert_eq!(
                    got[(32 * m + lane) as usize],
                    element(0) | element(1) << 16,
                    "{trans} matrix {m} lane {lane}"
                );
            }
        }
        // stmatrix of what ldmatrix gave is what was there.
        let back = body.replace(
            "\nst.global.u32 [%o], %r0;",
            &format!(
                "\nbar.sync 0; stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%a], {{%r3, %r2, %r1, %r0}}; bar.sync 0;\n\
                 ld.shared.v4.u32 {{%r0, %r1, %r2, %r3}}, [%a]; st.global.u32 [%o], %r0;"
            ),
        );
        let got = run(&back, 32, 4, &input);
        for lane in 0..32u32 {
            let (m, r) = (3 - lane / 8, lane % 8);
            let want = (100 * m + 10 * r) | (100 * m + 10 * r + 1) << 16;
            assert_eq!(got[lane as usize], want, "{trans} row of lane {lane}");
        }
    }
}

#[test]
fn shuffles_at_the_edges() {
    // c = clamp | segment mask << 8, as __shfl_*_sync(width) makes it: (32 - width) << 8, clamp 31 (0 for up).
    for width in [32u32, 16, 8, 2] {
        for b in [0u32, 1, 2, 5, 15, 17, 31, 33] {
            for mode in ["up", "down", "bfly", "idx"] {
                let c = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
                let body = format!(
                    ".reg .b32 %x; .reg .pred %p; shfl.sync.{mode}.b32 %x|%p, %t, {b}, {c}, 0xffffffff; @%p add.u32 %x, %x, 1000; st.global.u32 [%o], %x;"
                );
                let want: Vec<u32> = (0..32u32)
                    .map(|lane| {
                        let (segment, n) = (lane / width * width, b % 32);
                        let from = match mode {
                            "up" => lane.checked_sub(n).filter(|j| *j >= segment),
                            "down" => Some(lane + n).filter(|j| *j < segment + width),
                            "bfly" => Some(lane ^ n).filter(|j| *j < segment + width),
                            _ => Some(segment + n % width),
                        };
                        from.map_or(lane, |j| j + 1000)
                    })
                    .collect();
                assert_eq!(map(&body, &[0; 32]), want, "{mode} {b} width {width}");
            }
        }
    }
}

#[test]
fn votes_matches_and_reductions() {
    let odd = ".reg .pred %p, %q; .reg .b32 %x; and.b32 %x, %t, 1; setp.eq.u32 %p, %x, 1;";
    let got = map(
        &format!("{odd} vote.sync.ballot.b32 %x, %p, 0xffffffff; st.global.u32 [%o], %x;"),
        &[0; 32],
    );
    assert_eq!(got, [0xaaaa_aaaa; 32]);
    for (kind, want) in [("all", 0), ("any", 1), ("uni", 0)] {
        let got = map(&format!("{odd} vote.sync.{kind}.pred %q, %p, 0xffffffff; selp.u32 %x, 1, 0, %q; st.global.u32 [%o], %x;"), &[0; 32]);
        assert_eq!(got, [want; 32], "{kind}");
    }
    // Two halves of the warp, each with a mask of its own, in one instruction.
    let halves = "setp.lt.u32 %q, %t, 16; selp.b32 %x, 0xffff, 0xffff0000, %q; redux.sync.add.s32 %x, %t, %x; st.global.u32 [%o], %x;";
    let got = map(&format!("{odd} {halves}"), &[0; 32]);
    let want: Vec<u32> = (0..32).map(|l| if l < 16 { 120 } else { 376 }).collect();
    assert_eq!(got, want);
    let got = map(".reg .b32 %x; sub.s32 %x, %t, 20; redux.sync.min.s32 %x, %x, 0xffffffff; st.global.u32 [%o], %x;", &[0; 32]);
    assert_eq!(got, [-20i32 as u32; 32]);
    let got = map(".reg .b32 %x; and.b32 %x, %t, 3; match.any.sync.b32 %x, %x, 0xffffffff; st.global.u32 [%o], %x;", &[0; 32]);
    let want: Vec<u32> = (0..32).map(|l| 0x1111_1111 << (l % 4)).collect();
    assert_eq!(got, want);
    let got = map(".reg .pred %p; .reg .b32 %x; match.all.sync.b32 %x|%p, 7, 0xffffffff; @!%p mov.u32 %x, 1; st.global.u32 [%o], %x;", &[0; 32]);
    assert_eq!(got, [u32::MAX; 32]);
}

#[test]
fn special_registers() {
    let got = run(".reg .b32 %x, %y; mov.u32 %x, %lanemask_lt; popc.b32 %x, %x; mov.u32 %y, %warpid; mad.lo.u32 %x, %y, 100, %x; st.global.u32 [%o], %x;", 70, 1, &[0]);
    let want: Vec<u32> = (0..70).map(|t| t / 32 * 100 + t % 32).collect();
    assert_eq!(got, want);
}

#[test]
fn lanes_diverge_and_meet_again() {
    // A loop of t % 5 turns, then a full-warp shuffle: it needs every lane back.
    let body = ".reg .b32 %n, %s; .reg .pred %p; rem.u32 %n, %t, 5; mov.u32 %s, 0;\n\
                loop: setp.eq.u32 %p, %n, 0; @%p bra done; add.u32 %s, %s, %n; sub.u32 %n, %n, 1; bra loop;\n\
                done: shfl.sync.bfly.b32 %n, %s, 1, 31, 0xffffffff; mad.lo.u32 %s, %n, 100, %s; st.global.u32 [%o], %s;";
    let sum = |t: u32| (t % 5) * (t % 5 + 1) / 2;
    let want: Vec<u32> = (0..32).map(|t| sum(t ^ 1) * 100 + sum(t)).collect();
    assert_eq!(map(body, &[0; 32]), want);
}

#[test]
fn jump_tables() {
    let body = ".reg .b32 %n; rem.u32 %n, %t, 3; list: .branchtargets a, b, c; brx.idx %n, list;\n\
                a: mov.u32 %n, 10; bra end; b: mov.u32 %n, 20; bra end; c: mov.u32 %n, 30; end: st.global.u32 [%o], %n;";
    assert_eq!(
        map(body, &[0; 32]),
        (0..32).map(|t| t % 3 * 10 + 10).collect::<Vec<u32>>()
    );
}

#[test]
fn labels_and_registers_live_in_their_braces() {
    let body = ".reg .b32 %x; mov.u32 %x, 0;\n\
                { .reg .pred p; .reg .b32 r; setp.lt.u32 p, %t, 4; @p bra SKIP; mov.u32 r, 5; add.u32 %x, %x, r; SKIP: }\n\
                { .reg .pred p; .reg .b32 r; setp.lt.u32 p, %t, 8; @p bra SKIP; mov.u32 r, 70; add.u32 %x, %x, r; SKIP: }\n\
                st.global.u32 [%o], %x;";
    let want: Vec<u32> = (0..32)
        .map(|t| if t < 4 { 0 } else { 5 } + if t < 8 { 0 } else { 70 })
        .collect();
    assert_eq!(map(body, &[0; 32]), want);
}

#[test]
fn warp_barriers_may_stand_at_different_places() {
    let body = ".reg .pred %p; .reg .b32 %x; setp.lt.u32 %p, %t, 16; @%p bra low;\n\
                bar.warp.sync 0xffffffff; mov.u32 %x, 1; bra done; low: bar.warp.sync 0xffffffff; mov.u32 %x, 2; done: st.global.u32 [%o], %x;";
    assert_eq!(
        map(body, &[0; 32]),
        (0..32)
            .map(|t| if t < 16 { 2 } else { 1 })
            .collect::<Vec<u32>>()
    );
}

#[test]
fn reducing_barriers() {
    let body = ".reg .pred %p, %q; .reg .b32 %x; rem.u32 %x, %t, 3; setp.eq.u32 %p, %x, 0; bar.red.popc.u32 %x, 0, %p;\n\
                bar.red.or.pred %q, 0, %p; @%q add.u32 %x, %x, 1000; bar.red.and.pred %q, 0, %p; @%q add.u32 %x, %x, 5000; st.global.u32 [%o], %x;";
    assert_eq!(run(body, 96, 1, &[0]), [1032; 96]);
}

#[test]
fn arriving_is_not_waiting() {
    // Warp 0 produces and arrives; warp 1 waits and consumes.
    let body = ".shared .b32 s[32]; .reg .b32 %a, %b; .reg .pred %p; mov.u32 %a, s; and.b32 %b, %t, 31; shl.b32 %b, %b, 2; add.s32 %a, %a, %b;\n\
                mov.u32 %b, 7; setp.ge.u32 %p, %t, 32; @%p bra consume; st.shared.u32 [%a], %t; bar.arrive 2, 64; bra done;\n\
                consume: bar.sync 2, 64; ld.shared.u32 %b, [%a]; done: st.global.u32 [%o], %b;";
    let want: Vec<u32> = (0..64).map(|t| if t < 32 { 7 } else { t - 32 }).collect();
    assert_eq!(run(body, 64, 1, &[0]), want);
}

#[test]
fn atomics_of_parallel_blocks_add_up() {
    let text = kernel(
        ".reg .b32 %x; .reg .b64 %w; red.global.add.u32 [%in], 1; atom.global.max.s32 %x, [%in+4], %t; atom.global.inc.u32 %x, [%in+8], 6;\n\
         red.global.add.f32 [%in+12], 0f3F000000; mov.u64 %w, 3; red.global.add.u64 [%in+16], %w; atom.global.exch.b32 %x, [%in+24], %t;\n\
         red.global.add.noftz.f16x2 [%in+28], 0x3c003800;",
    );
    let m = Machine::new(&text);
    let (i, o) = (
        m.words(&[0, (-5i32) as u32, 0, 0, 0xffff_fffe, 0, 0, 0]),
        m.room(4),
    );
    m.run("k", 50, 64, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
    let got = m.read(i, 8);
    assert_eq!((got[0], got[1], got[2]), (3200, 63, 3200 % 7));
    assert_eq!(f32::from_bits(got[3]), 1600.0);
    assert_eq!(
        u64::from(got[5]) << 32 | u64::from(got[4]),
        0xffff_fffe + 9600
    );
    assert!(got[6] < 64);
    // f16 sums stop where the addend is half a step and ties to even: 0.5 a time at 1024, 1 a time at 2048.
    assert_eq!(
        got[7],
        u32::from(half::f16::from_f32(1024.0).to_bits())
            | u32::from(half::f16::from_f32(2048.0).to_bits()) << 16
    );
}

#[test]
fn compare_and_swap() {
    let body = ".reg .b32 %x, %y; .reg .pred %p; mov.u32 %y, 0; retry: add.u32 %x, %y, 3; atom.global.cas.b32 %x, [%in], %y, %x;\n\
                setp.ne.u32 %p, %x, %y; mov.u32 %y, %x; @%p bra retry; st.global.u32 [%o], %x;";
    let m = Machine::new(&kernel(body));
    let (i, o) = (m.words(&[0]), m.room(400));
    m.run("k", 1, 100, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
    let mut seen = m.read(o, 100);
    seen.sort_unstable();
    assert_eq!(
        (m.read(i, 1)[0], seen),
        (300, (0..100).map(|n| 3 * n).collect::<Vec<u32>>())
    );
}

#[test]
fn short_copies_are_filled_with_zeros() {
    let body = ".shared .align 16 .b8 s[512]; .reg .b32 %a, %n, %r<4>; .reg .b64 %g; .reg .pred %p; mov.u32 %a, s; shl.b32 %n, %t, 4; add.s32 %a, %a, %n;\n\
                mad.wide.u32 %g, %t, 16, %in; rem.u32 %n, %t, 17; cp.async.cg.shared.global.L2::128B [%a], [%g], 16, %n; cp.async.commit_group;\n\
                cp.async.wait_all; ld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [%a];\n\
                st.global.u32 [%o], %r0; st.global.u32 [%o+128], %r1; st.global.u32 [%o+256], %r2; st.global.u32 [%o+384], %r3;";
    let input = noise(1, 512);
    let got = run(body, 32, 4, &input);
    for t in 0..32 {
        let mut row = [0u8; 16];
        row[..t % 17].copy_from_slice(&input[16 * t..16 * t + t % 17]);
        for w in 0..4 {
            assert_eq!(
                got[32 * w + t].to_le_bytes(),
                row[4 * w..4 * w + 4],
                "thread {t} word {w}"
            );
        }
    }
    // A size of 0 reads nothing, so an address past the buffer is fine.
    let past = ".shared .align 16 .b8 s[512]; .reg .b32 %a; mov.u32 %a, s; cp.async.cg.shared.global [%a], [%in+4096], 16, 0; cp.async.wait_all;\n\
                ld.shared.u32 %a, [%a]; st.global.u32 [%o], %a;";
    assert_eq!(run(past, 1, 1, &[0; 16]), [0]);
}

#[test]
fn groups_complete_oldest_first() {
    let copy = |n: u32| {
        format!(
            "cp.async.ca.shared.global [%a+{}], [%in+{}], 4; cp.async.commit_group;\n",
            4 * n,
            4 * n
        )
    };
    let body = |wait: u32, word: u32| {
        format!(
            ".shared .align 16 .b8 s[64]; .reg .b32 %a; mov.u32 %a, s;\n{}{}{} cp.async.wait_group {wait}; ld.shared.u32 %a, [%a+{}]; st.global.u32 [%o], %a;",
            copy(0),
            copy(1),
            copy(2),
            4 * word
        )
    };
    for wait in 0..4 {
        for word in 0..3 {
            let m = Machine::new(&kernel(&body(wait, word)));
            let (i, o) = (m.words(&[10, 11, 12, 13]), m.room(4));
            match m.try_run("k", 1, 1, 0, 0, &[Arg::Ptr(i), Arg::Ptr(o)]) {
                Ok(_) => assert!(
                    word + wait < 3 && m.read(o, 1)[0] == 10 + word,
                    "wait {wait} word {word}"
                ),
                Err(f) => assert!(
                    word + wait >= 3 && matches!(f.kind, FaultKind::AsyncPending(_)),
                    "wait {wait} word {word}: {f}"
                ),
            }
        }
    }
}

#[test]
fn generic_addresses_find_their_space() {
    let body = ".shared .align 4 .b32 s[32]; .local .align 4 .b8 d[8]; .reg .b64 %g, %l; .reg .b32 %x; .reg .pred %p, %q;\n\
                mov.u64 %g, s; cvta.shared.u64 %g, %g; add.s64 %g, %g, %at; st.u32 [%g], %t; mov.u64 %l, d; cvta.local.u64 %l, %l; st.u32 [%l+4], 7;\n\
                isspacep.shared %p, %g; isspacep.global %q, %g; cvta.to.shared.u64 %g, %g; ld.shared.u32 %x, [%g]; ld.u32 %t, [%l+4];\n\
                add.u32 %x, %x, %t; @%p add.u32 %x, %x, 100; @%q add.u32 %x, %x, 1000; st.u32 [%o], %x;";
    assert_eq!(
        map(body, &[0; 32]),
        (0..32).map(|t| t + 107).collect::<Vec<u32>>()
    );
}

#[test]
fn one_seed_is_one_schedule() {
    // Who comes first at a counter depends on the seed, and only on it.
    let body = ".reg .b32 %x; atom.global.add.u32 %x, [%in], 1; st.global.u32 [%o], %x;";
    let order = |seed: u64| {
        let m = Machine::new(&kernel(body));
        let (i, o) = (m.words(&[0]), m.room(4 * 256));
        m.try_run("k", 1, 256, 0, seed, &[Arg::Ptr(i), Arg::Ptr(o)])
            .unwrap();
        m.read(o, 256)
    };
    assert_eq!(order(5), order(5));
    assert!((0..8).any(|seed| order(seed) != order(5)));
}

#[test]
fn an_ignored_satfinite_is_found() {
    common::must_fail("no-satfinite", "mma_fragments");
}

/// What another project says: the operands of ZLUDA's test `mma_m16n8k32_s32_s8_s8_s32` (at its commit 8a7931b), whose 256 sums
/// that project compares with a CUDA device's. Here: the first and last few of them, and a hash of all.
#[test]
fn mma_gives_the_sums_that_zluda_recorded() {
    let body = "\
        .reg .b32 %v, %w, %a<4>, %b, %c<4>, %d<4>; .reg .b64 %q;\n\
        shl.b32 %v, %t, 4;\n\
        mov.b32 %c0, %v; add.u32 %c1, %v, 1; add.u32 %c2, %v, 2; add.u32 %c3, %v, 3;\n"
        .to_owned();
    // Each register: four 16-bit numbers that count on from 16 t, shifted by a byte each; those above 255 run into the next.
    let pack = |to: &str, from: u32| {
        let byte = |i: u32| {
            format!(
                "add.u32 %w, %v, {}; shl.b32 %w, %w, {}; or.b32 {to}, {to}, %w;\n",
                from + i,
                8 * i
            )
        };
        format!("mov.b32 {to}, 0;\n{}", (0..4).map(byte).collect::<String>())
    };
    let operands: String = (0..4).map(|r| pack(&format!("%a{r}"), 4 * r)).collect();
    let product = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%b, %b}, {%c0, %c1, %c2, %c3};\n\
         mul.wide.u32 %q, %t, 16; add.u64 %q, %out, %q; st.global.v4.u32 [%q], {%d0, %d1, %d2, %d3};";
    let sums = run(
        &format!("{body}{operands}{}{product}", pack("%b", 0)),
        64,
        4,
        &[0],
    );
    let signed: Vec<i32> = sums.iter().map(|&s| s as i32).collect();
    assert_eq!(
        signed[..8],
        [34352, 94769, 37618, 106227, -86464, -26047, -99582, -30973]
    );
    assert_eq!(signed[252..], [121192, 52073, 108170, 47243]);
    let hash = sums.iter().fold(0u64, |h, &s| {
        h.wrapping_mul(1_000_003).wrapping_add(s.into())
    });
    assert_eq!(hash, 0x4dd6_9178_82a5_4480);
}
