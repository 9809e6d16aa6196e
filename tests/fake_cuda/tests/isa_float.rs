//! Float instructions and conversions: every rounding against a search for the right neighbour.
mod common;

use common::{map, rows};

/// Floats at every edge: zeros, subnormals, ties, infinities, NaN.
fn edges() -> Vec<f32> {
    let mut v = vec![
        0.0,
        1.0,
        1.5,
        2.5,
        0.5,
        3.4999,
        126.5,
        127.5,
        255.5,
        65504.0,
        65519.9,
        65520.0,
        1e-40,
        1e-45,
        1.0e38,
        f32::MAX,
        f32::MIN_POSITIVE,
    ];
    v.extend([
        f32::INFINITY,
        f32::NAN,
        5.960_464_5e-8,
        2.980_232_2e-8,
        2.98024e-8,
        6.097_555e-5,
        2147483648.0,
        4294967040.0,
        1.0000001,
        3.0e9,
    ]);
    let negative: Vec<f32> = v.iter().map(|x| -x).collect();
    v.extend(negative);
    v
}

fn unary(op: &str, input: &[u32]) -> Vec<u32> {
    input
        .chunks(1024)
        .flat_map(|c| {
            map(
                &format!(".reg .b32 %a; ld.global.u32 %a, [%i]; {op} st.global.u32 [%o], %a;"),
                c,
            )
        })
        .collect()
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

fn same(got: u32, want: f32, what: &str) {
    // By bits: the optimiser may take any NaN for any other.
    let want = match want.to_bits() {
        b if b & 0x7fff_ffff > 0x7f80_0000 => 0x7fff_ffff,
        b => b,
    };
    assert_eq!(
        got,
        want,
        "{what}: {} for {}",
        f32::from_bits(got),
        f32::from_bits(want)
    );
}

fn pairs() -> Vec<[u32; 2]> {
    edges()
        .iter()
        .flat_map(|a| edges().into_iter().map(move |b| [a.to_bits(), b.to_bits()]))
        .collect()
}

fn binary(op: &str) -> Vec<(f32, f32, u32)> {
    let body = format!(".reg .b32 %a, %b; ld.global.v2.u32 {{%a, %b}}, [%row]; {op} %a, %a, %b; st.global.u32 [%o], %a;");
    pairs()
        .iter()
        .zip(rows(&body, &pairs()))
        .map(|(p, got)| (f32::from_bits(p[0]), f32::from_bits(p[1]), got))
        .collect()
}

#[test]
fn arithmetic_is_ieee_with_the_canonical_nan() {
    for (op, f) in [
        ("add.f32", (|a, b| a + b) as fn(f32, f32) -> f32),
        ("add.rn.f32", |a, b| a + b),
        ("sub.f32", |a, b| a - b),
        ("mul.rn.f32", |a, b| a * b),
        ("div.rn.f32", |a, b| a / b),
    ] {
        for (a, b, got) in binary(op) {
            same(got, f(a, b), &format!("{op} {a} {b}"));
        }
    }
}

#[test]
fn minimum_and_maximum() {
    for (a, b, got) in binary("max.f32") {
        // One NaN loses against a number, and +0 is above -0.
        let want = match (a.is_nan(), b.is_nan()) {
            (true, _) => b,
            (_, true) => a,
            _ if a == 0.0 && b == 0.0 => f32::from_bits(a.to_bits() & b.to_bits()),
            _ => {
                if a > b {
                    a
                } else {
                    b
                }
            }
        };
        same(got, want, &format!("max {a} {b}"));
    }
    for (a, b, got) in binary("min.NaN.f32") {
        let want = match a.is_nan() || b.is_nan() {
            true => f32::NAN,
            _ if a == 0.0 && b == 0.0 => f32::from_bits(a.to_bits() | b.to_bits()),
            _ => {
                if a < b {
                    a
                } else {
                    b
                }
            }
        };
        same(got, want, &format!("min.NaN {a} {b}"));
    }
}

#[test]
fn flush_to_zero_at_both_ends() {
    let flush = |v: f32| if v.is_subnormal() { v * 0.0 } else { v };
    for (a, b, got) in binary("mul.ftz.f32") {
        same(got, flush(flush(a) * flush(b)), &format!("mul.ftz {a} {b}"));
    }
}

#[test]
fn saturation() {
    for (a, b, got) in binary("add.sat.f32") {
        let sum = a + b;
        let want = if sum.is_nan() || sum <= 0.0 {
            0.0
        } else if sum > 1.0 {
            1.0
        } else {
            sum
        };
        same(got, want, &format!("add.sat {a} {b}"));
    }
}

#[test]
fn fma_rounds_once() {
    let (a, b) = (1.0f32 + f32::EPSILON, 1.0 - f32::EPSILON / 2.0);
    // a * b = 1 + eps/2 - eps^2/2, just below the tie between 1 and 1 + eps.
    let cases = [
        [a, b, 0.0],
        [a, b, -1.0],
        [a, a, -1.0],
        [3.0, f32::MAX, -f32::MAX],
        [1e-30, 1e-30, 1e-45],
        [0.0, 5.0, -0.0],
    ];
    let input: Vec<[u32; 4]> = cases
        .iter()
        .map(|c| [c[0].to_bits(), c[1].to_bits(), c[2].to_bits(), 0])
        .collect();
    let body = ".reg .b32 %a, %b, %c, %x; ld.global.v4.u32 {%a, %b, %c, %x}, [%row]; fma.rn.f32 %a, %a, %b, %c; st.global.u32 [%o], %a;";
    let got = rows(body, &input);
    let eps = f64::from(f32::EPSILON);
    let want = [
        1.0,
        (eps / 2.0 - eps * eps / 2.0) as f32,
        (2.0 * eps + eps * eps) as f32,
        f32::INFINITY,
        1e-45,
        0.0,
    ];
    for (i, (got, want)) in got.into_iter().zip(want).enumerate() {
        same(got, want, &format!("fma case {i}"));
    }
}

#[test]
fn directed_roundings_bracket_the_exact_sum() {
    for (mode, up, toward) in [
        ("rm", false, false),
        ("rp", true, false),
        ("rz", false, true),
    ] {
        for (op, exact) in [
            ("add", (|a, b| a + b) as fn(f64, f64) -> f64),
            ("mul", |a, b| a * b),
        ] {
            for (a, b, got) in binary(&format!("{op}.{mode}.f32")) {
                let (x, y) = (f64::from(a), f64::from(b));
                let v = exact(x, y);
                // Sums of very different magnitude are not exact in f64; products always are.
                if !v.is_finite() || (op == "add" && (v - x != y || v - y != x)) || v == 0.0 {
                    continue;
                }
                let got = f32::from_bits(got);
                let up = if toward { v < 0.0 } else { up };
                let ok = if up {
                    f64::from(got) >= v && f64::from(got.next_down()) < v
                } else {
                    f64::from(got) <= v && f64::from(got.next_up()) > v
                };
                assert!(ok, "{op}.{mode} {a} {b}: {got} for {v}");
            }
        }
    }
}

#[test]
fn float_to_integer_rounds_and_clamps() {
    let input = bits(&edges());
    for (ty, low, high) in [
        ("s32", -2147483648.0, 2147483647.0),
        ("u32", 0.0, 4294967295.0),
        ("s16", -32768.0, 32767.0),
        ("s8", -128.0, 127.0),
        ("u8", 0.0, 255.0),
    ] {
        for mode in ["rni", "rzi", "rmi", "rpi"] {
            for (a, got) in edges()
                .iter()
                .zip(unary(&format!("cvt.{mode}.{ty}.f32 %a, %a;"), &input))
            {
                let (below, v) = (f64::from(*a).floor(), f64::from(*a));
                let whole = match mode {
                    "rmi" => below,
                    "rpi" => -((-v).floor()),
                    "rzi" => {
                        if v < 0.0 {
                            -((-v).floor())
                        } else {
                            below
                        }
                    }
                    // Nearest, the even one of two equally near.
                    _ if v - below < 0.5 => below,
                    _ if v - below > 0.5 => below + 1.0,
                    _ => {
                        if below % 2.0 == 0.0 {
                            below
                        } else {
                            below + 1.0
                        }
                    }
                };
                let want = if a.is_nan() {
                    0
                } else if whole < low {
                    low as i64
                } else if whole > high {
                    high as i64
                } else {
                    whole as i64
                };
                assert_eq!(got, want as u32, "cvt.{mode}.{ty}.f32 {a}");
            }
        }
    }
}

#[test]
fn integer_to_float_rounds() {
    let input = [
        0u32,
        1,
        0xff_ffff,
        0x100_0001,
        0x100_0003,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0xffff_ff7f,
        0xffff_ff80,
        0xffff_ff81,
    ];
    for (v, got) in input.iter().zip(unary("cvt.rn.f32.s32 %a, %a;", &input)) {
        same(got, f64::from(*v as i32) as f32, "cvt.rn.f32.s32");
    }
    for (mode, up) in [("rm", false), ("rp", true)] {
        for (v, got) in input
            .iter()
            .zip(unary(&format!("cvt.{mode}.f32.u32 %a, %a;"), &input))
        {
            let (got, v) = (f32::from_bits(got), f64::from(*v));
            let ok = if up {
                f64::from(got) >= v && f64::from(got.next_down()) < v
            } else {
                f64::from(got) <= v && f64::from(got.next_up()) > v
            };
            assert!(ok, "cvt.{mode}.f32.u32 {v}: {got}");
        }
    }
}

#[test]
fn integer_saturation() {
    let input = [
        0u32,
        127,
        128,
        255,
        256,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ff80,
        0xffff_ff7f,
    ];
    for (v, got) in input.iter().zip(unary("cvt.sat.s8.s32 %a, %a;", &input)) {
        assert_eq!(got as i32, (*v as i32).clamp(-128, 127));
    }
    for (v, got) in input.iter().zip(unary("cvt.s8.s32 %a, %a;", &input)) {
        assert_eq!(
            got as i32,
            i32::from(*v as i8),
            "the low byte, sign-extended"
        );
    }
    let body = ".reg .b32 %a, %b; ld.global.v2.u32 {%a, %b}, [%row]; cvt.pack.sat.s8.s32.b32 %a, %a, %b, 0x1234; st.global.u32 [%o], %a;";
    assert_eq!(
        rows(body, &[[300, (-300i32) as u32], [5, 6]]),
        [0x1234_7f80, 0x1234_0506]
    );
}

/// All halves of a format, widened by an independent reading of its bits.
fn all_halves(bf16: bool) -> Vec<f64> {
    let widen = |b: u32| {
        let (man, exp) = if bf16 {
            (b & 0x7f, b >> 7 & 0xff)
        } else {
            (b & 0x3ff, b >> 10 & 0x1f)
        };
        let (mbits, bias) = if bf16 { (7, 127) } else { (10, 15) };
        match exp {
            0 => f64::from(man) * 2f64.powi(1 - bias - mbits),
            e => (1.0 + f64::from(man) * 2f64.powi(-mbits)) * 2f64.powi(e as i32 - bias),
        }
    };
    (0..if bf16 { 0x7f80 } else { 0x7c00 }).map(widen).collect()
}

#[test]
fn every_half_widens_exactly() {
    for (ty, bf16) in [("f16", false), ("bf16", true)] {
        let all = all_halves(bf16);
        let input: Vec<u32> = (0..all.len() as u32).collect();
        let got = unary(
            &format!(".reg .b16 %h; cvt.u16.u32 %h, %a; cvt.f32.{ty} %a, %h;"),
            &input,
        );
        for (i, (got, want)) in got.iter().zip(&all).enumerate() {
            assert_eq!(f64::from(f32::from_bits(*got)), *want, "{ty} {i:#x}");
        }
    }
}

#[test]
fn narrowing_finds_the_right_neighbour() {
    for (ty, bf16) in [("f16", false), ("bf16", true)] {
        let all = all_halves(bf16);
        // Around every 37th half: itself, the tie to its neighbour, and one f32 step to each side of it.
        let mut input = edges();
        for pair in all.windows(2).step_by(37) {
            let (a, tie) = (pair[0] as f32, ((pair[0] + pair[1]) / 2.0) as f32);
            for v in [a, a.next_up(), tie, tie.next_up(), tie.next_down()] {
                input.extend([v, -v]);
            }
        }
        input.retain(|v| !v.is_nan());
        for mode in ["rn", "rz"] {
            let got = unary(
                &format!(".reg .b16 %h; cvt.{mode}.{ty}.f32 %h, %a; cvt.u32.u16 %a, %h;"),
                &bits(&input),
            );
            for (v, got) in input.iter().zip(got) {
                let (sign, m) = ((v.to_bits() >> 16) & 0x8000, f64::from(v.abs()));
                let above = all.partition_point(|h| *h <= m);
                let low = above.saturating_sub(1);
                // What the next half above would be if the format did not end.
                let next = match all.get(above) {
                    Some(h) => *h,
                    None => 2.0 * all[low] - all[low - 1],
                };
                let up = mode == "rn"
                    && (m - all[low] > next - m || (m - all[low] == next - m && low % 2 == 1));
                let want = match () {
                    () if v.is_infinite() => sign | all.len() as u32,
                    () => sign | (low as u32 + u32::from(up)),
                };
                assert_eq!(got, want, "cvt.{mode}.{ty} of {v:e}");
            }
        }
    }
}

#[test]
fn packed_conversion_puts_the_first_operand_on_top() {
    let body = ".reg .b32 %a, %b; ld.global.v2.u32 {%a, %b}, [%row]; cvt.rn.f16x2.f32 %a, %a, %b; st.global.u32 [%o], %a;";
    assert_eq!(
        rows(body, &[[1.0f32.to_bits(), (-2.0f32).to_bits()]]),
        [0x3c00_c000]
    );
    let body = body.replace("f16x2", "relu.bf16x2");
    assert_eq!(
        rows(&body, &[[1.0f32.to_bits(), (-2.0f32).to_bits()]]),
        [0x3f80_0000]
    );
}

#[test]
fn half_arithmetic_rounds_once() {
    // Operands by bits; the answer is the correctly rounded one of the exact f64 result (22-bit products fit).
    let halves = [
        0x3c00u32, 0x3c01, 0x0001, 0x7bff, 0xbc01, 0x3800, 0x1400, 0x8000, 0x0000,
    ];
    let input: Vec<[u32; 2]> = halves
        .iter()
        .flat_map(|&a| halves.iter().map(move |&b| [a | b << 16, b | a << 16]))
        .collect();
    for (op, f) in [
        ("add.f16x2", (|a, b| a + b) as fn(f64, f64) -> f64),
        ("mul.f16x2", |a, b| a * b),
        ("sub.rn.f16x2", |a, b| a - b),
    ] {
        let body = format!(".reg .b32 %a, %b; ld.global.v2.u32 {{%a, %b}}, [%row]; {op} %a, %a, %b; st.global.u32 [%o], %a;");
        for (p, got) in input.iter().zip(rows(&body, &input)) {
            for shift in [0, 16] {
                let [a, b] = p.map(|v| half::f16::from_bits((v >> shift) as u16).to_f64());
                assert_eq!(
                    (got >> shift) as u16,
                    half::f16::from_f64(f(a, b)).to_bits(),
                    "{op} {a} {b}"
                );
            }
        }
    }
    // bf16 fma: 1 + 2^-7 squared is 1 + 2^-6 + 2^-14; adding -1 leaves bits that a rounded product would lose.
    let body = ".reg .b32 %a; .reg .b16 %h<3>; mov.b16 %h0, 0x3f81; mov.b16 %h1, 0xbf80; fma.rn.bf16 %h2, %h0, %h0, %h1; cvt.u32.u16 %a, %h2; st.global.u32 [%o], %a;";
    let want = half::bf16::from_f64(2f64.powi(-6) + 2f64.powi(-14)).to_bits();
    assert_eq!(map(body, &[0])[0], u32::from(want));
}

#[test]
fn comparisons_with_nan() {
    let ordered = [
        ("eq", false),
        ("ne", false),
        ("lt", false),
        ("ge", false),
        ("equ", true),
        ("neu", true),
        ("ltu", true),
        ("geu", true),
        ("num", false),
        ("nan", true),
    ];
    for (cmp, with_nan) in ordered {
        let body = format!(".reg .b32 %a, %b; .reg .pred %p; ld.global.v2.u32 {{%a, %b}}, [%row]; setp.{cmp}.f32 %p, %a, %b; selp.u32 %a, 1, 0, %p; st.global.u32 [%o], %a;");
        for (p, got) in pairs().iter().zip(rows(&body, &pairs())) {
            let [a, b] = p.map(f32::from_bits);
            let want = if a.is_nan() || b.is_nan() {
                with_nan
            } else {
                match cmp {
                    "eq" | "equ" => a == b,
                    "ne" | "neu" => a != b,
                    "lt" | "ltu" => a < b,
                    "ge" | "geu" => a >= b,
                    other => other == "num",
                }
            };
            assert_eq!(got, u32::from(want), "setp.{cmp} {a} {b}");
        }
    }
}

#[test]
fn roots_and_rounding_to_whole_floats() {
    let input = bits(&edges());
    for (a, got) in edges().iter().zip(unary("sqrt.rn.f32 %a, %a;", &input)) {
        same(got, a.sqrt(), "sqrt.rn");
    }
    for (a, got) in edges().iter().zip(unary("rcp.rn.f32 %a, %a;", &input)) {
        same(got, 1.0 / *a, "rcp.rn");
    }
    for (a, got) in edges().iter().zip(unary("cvt.rni.f32.f32 %a, %a;", &input)) {
        same(got, a.round_ties_even(), "cvt.rni.f32.f32");
    }
    for (a, got) in edges().iter().zip(unary("cvt.sat.f32.f32 %a, %a;", &input)) {
        same(
            got,
            if *a > 0.0 { a.min(1.0) } else { 0.0 },
            "cvt.sat.f32.f32",
        );
    }
}

#[test]
fn nan_becomes_the_canonical_nan() {
    let nan = [0x7fc0_0001u32, 0xffff_ffff, 0x7f80_0001];
    for op in [
        "add.f32 %a, %a, 0f3F800000;",
        "sqrt.rn.f32 %a, %a;",
        "rcp.rn.f32 %a, %a;",
        "sqrt.approx.f32 %a, %a;",
        "ex2.approx.f32 %a, %a;",
    ] {
        assert_eq!(unary(op, &nan), [0x7fff_ffff; 3], "{op}");
    }
    for op in [
        "lg2.approx.f32 %a, %a;",
        "rsqrt.approx.f32 %a, %a;",
        "sin.approx.f32 %a, %a;",
        "tanh.approx.f32 %a, %a;",
    ] {
        assert_eq!(unary(op, &nan), [0x7fff_ffff; 3], "{op}");
    }
    assert_eq!(
        unary("sqrt.rn.f32 %a, %a;", &[(-1.0f32).to_bits()]),
        [0x7fff_ffff]
    );
    for ty in ["f16", "bf16"] {
        let body = format!(".reg .b16 %h; cvt.rn.{ty}.f32 %h, %a; cvt.u32.u16 %a, %h;");
        assert_eq!(unary(&body, &nan), [0x7fff; 3], "{ty}");
    }
}

#[test]
fn nan_as_an_integer() {
    // PTX ISA, cvt: 0 where source and result have 32 bits or fewer, else 1 << (width - 1).
    let nan = [0x7fc0_0001u32, 0xffff_ffff, 0x7f80_0001];
    for ty in ["s8", "u8", "s16", "u16", "s32", "u32"] {
        assert_eq!(
            unary(&format!("cvt.rzi.{ty}.f32 %a, %a;"), &nan),
            [0; 3],
            "{ty}"
        );
    }
    for from in ["f32", "f64"] {
        let widen = match from {
            "f32" => "mov.b32 %w, %a;",
            _ => "mov.b64 %w, {%a, %a};",
        };
        let ty = if from == "f32" { "b32" } else { "b64" };
        for to in ["s64", "u64"] {
            // Both halves of the result in one word: the upper, with whatever the lower has.
            let body = format!(
                ".reg .{ty} %w; .reg .b64 %l; .reg .b32 %lo, %hi; {widen} cvt.rzi.{to}.{from} %l, %w;\n\
                 mov.b64 {{%lo, %hi}}, %l; or.b32 %a, %lo, %hi;"
            );
            assert_eq!(
                unary(&body, &[0x7ff8_0000, 0xffff_ffff]),
                [1 << 31; 2],
                "{to} {from}"
            );
        }
    }
    for to in ["s32", "u32"] {
        let body = format!(".reg .b64 %w; mov.b64 %w, {{%a, %a}}; cvt.rzi.{to}.f64 %a, %w;");
        assert_eq!(
            unary(&body, &[0x7ff8_0000, 0xffff_ffff]),
            [1 << 31; 2],
            "{to} f64"
        );
    }
}

#[test]
fn bf16_keeps_what_a_nan_carries() {
    // Widened it is a shift: the same NaN, quiet or signalling, and either sign.
    let body = ".reg .b16 %h; cvt.u16.u32 %h, %a; cvt.f32.bf16 %a, %h;";
    let values = [0x7fc1u32, 0xffff, 0x7f81, 0x7f80, 0x8001, 0x3f80];
    assert_eq!(unary(body, &values), values.map(|v| v << 16));
}

#[test]
fn errors_planted_in_conversions_are_found() {
    common::must_fail("nan-is-zero", "nan_as_an_integer");
    common::must_fail("bf16-nan-canonical", "bf16_keeps_what_a_nan_carries");
}
