//! Integer instructions against the PTX ISA's text, each written out anew.
mod common;

use common::{map, rows};

const EDGES: [u32; 12] = [
    0,
    1,
    2,
    31,
    32,
    33,
    127,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xdead_beef,
    0xffff_ffff,
];

fn pairs() -> Vec<[u32; 2]> {
    EDGES
        .iter()
        .flat_map(|&a| EDGES.iter().map(move |&b| [a, b]))
        .collect()
}

/// Checks `op d, a, b` on all pairs of edges.
fn check2(op: &str, want: impl Fn(u32, u32) -> u32) {
    let body = format!(".reg .b32 %a, %b, %d; ld.global.v2.u32 {{%a, %b}}, [%row]; {op} %d, %a, %b; st.global.u32 [%o], %d;");
    for (p, got) in pairs().iter().zip(rows(&body, &pairs())) {
        assert_eq!(got, want(p[0], p[1]), "{op} {:#x} {:#x}", p[0], p[1]);
    }
}

fn check3(op: &str, cases: &[[u32; 3]], want: impl Fn([u32; 3]) -> u32) {
    let input: Vec<[u32; 4]> = cases.iter().map(|c| [c[0], c[1], c[2], 0]).collect();
    let body = format!(
        ".reg .b32 %a, %b, %c, %d, %x; ld.global.v4.u32 {{%a, %b, %c, %x}}, [%row]; {op} %d, %a, %b, %c; st.global.u32 [%o], %d;"
    );
    for (c, got) in cases.iter().zip(rows(&body, &input)) {
        assert_eq!(got, want(*c), "{op} {c:#x?}");
    }
}

fn triples(seed: u32, n: usize) -> Vec<[u32; 3]> {
    let mut x = seed;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x
    };
    (0..n).map(|_| [next(), next(), next()]).collect()
}

#[test]
fn arithmetic() {
    let wide = |v: u32| i64::from(v as i32);
    check2("add.s32", |a, b| (u64::from(a) + u64::from(b)) as u32);
    check2("sub.u32", |a, b| (wide(a) - wide(b)) as u32);
    check2("add.sat.s32", |a, b| {
        (wide(a) + wide(b)).clamp(-(1 << 31), (1 << 31) - 1) as u32
    });
    check2("sub.sat.s32", |a, b| {
        (wide(a) - wide(b)).clamp(-(1 << 31), (1 << 31) - 1) as u32
    });
    check2("mul.lo.s32", |a, b| (wide(a) * wide(b)) as u32);
    check2("mul.hi.s32", |a, b| ((wide(a) * wide(b)) >> 32) as u32);
    check2("mul.hi.u32", |a, b| {
        ((u64::from(a) * u64::from(b)) >> 32) as u32
    });
    check2("min.s32", |a, b| wide(a).min(wide(b)) as u32);
    check2("min.u32", |a, b| a.min(b));
    check2("max.s32", |a, b| wide(a).max(wide(b)) as u32);
    check2("max.u32", |a, b| a.max(b));
    check2("and.b32", |a, b| a & b);
    check2("xor.b32", |a, b| a ^ b);
    check2("div.u32", |a, b| a.checked_div(b).unwrap_or(u32::MAX));
    check2("div.s32", |a, b| {
        if b == 0 {
            u32::MAX
        } else {
            (wide(a) / wide(b)) as u32
        }
    });
    check2("rem.s32", |a, b| {
        if b == 0 {
            a
        } else {
            (wide(a) % wide(b)) as u32
        }
    });
}

#[test]
fn shift_counts_clamp() {
    check2("shl.b32", |a, b| if b > 31 { 0 } else { a << b });
    check2("shr.u32", |a, b| if b > 31 { 0 } else { a >> b });
    check2("shr.s32", |a, b| ((a as i32) >> b.min(31)) as u32);
}

#[test]
fn widening_products() {
    let body = |ty: &str| {
        format!(
            ".reg .b32 %a, %b; .reg .b64 %w; ld.global.v2.u32 {{%a, %b}}, [%row]; mul.wide.{ty} %w, %a, %b;\n\
             shr.u64 %w, %w, 17; cvt.u32.u64 %a, %w; st.global.u32 [%o], %a;"
        )
    };
    for (p, got) in pairs().iter().zip(rows(&body("s32"), &pairs())) {
        assert_eq!(
            got,
            ((i64::from(p[0] as i32) * i64::from(p[1] as i32)) >> 17) as u32
        );
    }
    for (p, got) in pairs().iter().zip(rows(&body("u32"), &pairs())) {
        assert_eq!(got, ((u64::from(p[0]) * u64::from(p[1])) >> 17) as u32);
    }
}

#[test]
fn sixteen_bit_values_keep_to_sixteen_bits() {
    let body = |op: &str, back: &str| {
        format!(
            ".reg .b32 %a, %b; .reg .b16 %x, %y; ld.global.v2.u32 {{%a, %b}}, [%row]; cvt.u16.u32 %x, %a; cvt.u16.u32 %y, %b;\n\
             {op} %x, %x, %y; cvt.{back} %a, %x; st.global.u32 [%o], %a;"
        )
    };
    let s = |v: u32| i32::from(v as i16);
    for (p, got) in pairs()
        .iter()
        .zip(rows(&body("add.s16", "u32.u16"), &pairs()))
    {
        assert_eq!(got, (p[0] & 0xffff).wrapping_add(p[1] & 0xffff) & 0xffff);
    }
    for (p, got) in pairs()
        .iter()
        .zip(rows(&body("mul.hi.s16", "s32.s16"), &pairs()))
    {
        assert_eq!(got as i32, (s(p[0]) * s(p[1])) >> 16);
    }
    for (p, got) in pairs()
        .iter()
        .zip(rows(&body("min.s16", "s32.s16"), &pairs()))
    {
        assert_eq!(got as i32, s(p[0]).min(s(p[1])));
    }
}

#[test]
fn lop3_tables_are_read_bit_by_bit() {
    for table in [0x80u32, 0xfe, 0x96, 0xe8, 0x1e, 0x40] {
        let body = format!(
            ".reg .b32 %a, %b, %c, %x; ld.global.v4.u32 {{%a, %b, %c, %x}}, [%row]; lop3.b32 %a, %a, %b, %c, {table:#x}; st.global.u32 [%o], %a;"
        );
        let cases = triples(table, 40);
        let input: Vec<[u32; 4]> = cases.iter().map(|c| [c[0], c[1], c[2], 0]).collect();
        for ([a, b, c], got) in cases.iter().zip(rows(&body, &input)) {
            let want = (0..32).fold(0, |w, i| {
                let index = (a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1);
                w | (table >> index & 1) << i
            });
            assert_eq!(got, want);
        }
    }
}

#[test]
fn prmt_picks_bytes_and_signs() {
    let cases = triples(7, 200);
    check3("prmt.b32", &cases, |[a, b, c]| {
        let source = [
            a as u8,
            (a >> 8) as u8,
            (a >> 16) as u8,
            (a >> 24) as u8,
            b as u8,
            (b >> 8) as u8,
            (b >> 16) as u8,
            (b >> 24) as u8,
        ];
        (0..4).fold(0, |w, i| {
            let nibble = (c >> (4 * i)) % 16;
            let byte = source[(nibble % 8) as usize];
            let byte = if nibble < 8 {
                byte
            } else if byte < 128 {
                0
            } else {
                255
            };
            w | u32::from(byte) << (8 * i)
        })
    });
    // The ISA's tables, from the most significant result byte down, for selectors 0 to 3.
    let tables = [
        (
            "f4e",
            [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
        ),
        (
            "b4e",
            [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
        ),
        (
            "rc8",
            [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]],
        ),
        (
            "ecl",
            [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]],
        ),
        (
            "ecr",
            [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]],
        ),
        (
            "rc16",
            [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
        ),
    ];
    for (mode, table) in tables {
        check3(
            &format!("prmt.b32.{mode}"),
            &[
                [0x0302_0100, 0x0706_0504, 0],
                [0x0302_0100, 0x0706_0504, 1],
                [0x0302_0100, 0x0706_0504, 2],
                [0x0302_0100, 0x0706_0504, 3],
            ],
            |[_, _, c]| u32::from_be_bytes(table[c as usize]),
        );
    }
}

#[test]
fn funnel_shifts() {
    let cases: Vec<[u32; 3]> = [0, 1, 8, 31, 32, 33, 63, 64]
        .iter()
        .map(|&n| [0x8123_4567, 0x89ab_cdef, n])
        .collect();
    let both = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    check3("shf.l.wrap.b32", &cases, |[a, b, n]| {
        (both(a, b) << (n % 32) >> 32) as u32
    });
    check3("shf.r.wrap.b32", &cases, |[a, b, n]| {
        (both(a, b) >> (n % 32)) as u32
    });
    check3("shf.l.clamp.b32", &cases, |[a, b, n]| {
        if n >= 32 {
            a
        } else {
            (both(a, b) << n >> 32) as u32
        }
    });
    check3("shf.r.clamp.b32", &cases, |[a, b, n]| {
        if n >= 32 {
            b
        } else {
            (both(a, b) >> n) as u32
        }
    });
}

#[test]
fn bit_fields() {
    let cases: Vec<[u32; 3]> = [0, 3, 28, 31, 32, 40, 255]
        .iter()
        .flat_map(|&p| [0, 1, 4, 8, 32, 40].map(|n| [0x9abc_def0, p, n]))
        .collect();
    // The ISA's loop: bit i of the field is bit pos+i of a while i < len and pos+i <= msb, else the sign.
    let field = |signed: bool, [a, pos, len]: [u32; 3]| {
        let (pos, len) = (pos & 0xff, len & 0xff);
        let sign = signed && len != 0 && a >> (pos + len - 1).min(31) & 1 == 1;
        (0..32).fold(0, |d, i| {
            let bit = if i < len && pos + i <= 31 {
                a >> (pos + i) & 1 == 1
            } else {
                sign
            };
            d | u32::from(bit) << i
        })
    };
    check3("bfe.u32", &cases, |c| field(false, c));
    check3("bfe.s32", &cases, |c| field(true, c));
    let body = ".reg .b32 %a, %b, %p, %n, %d; ld.global.v4.u32 {%a, %b, %p, %n}, [%row]; bfi.b32 %d, %a, %b, %p, %n; st.global.u32 [%o], %d;";
    let cases: Vec<[u32; 4]> = cases
        .iter()
        .map(|c| [0x1234_5678, c[0], c[1], c[2]])
        .collect();
    for (&[a, b, pos, len], got) in cases.iter().zip(rows(body, &cases)) {
        let (pos, len) = (pos & 0xff, len & 0xff);
        let want = (0..32).fold(0, |f, i| {
            let inside = i >= pos && i - pos < len;
            f | (if inside {
                a >> (i - pos) & 1
            } else {
                b >> i & 1
            }) << i
        });
        assert_eq!(got, want, "bfi {pos} {len}");
    }
}

#[test]
fn counting_bits() {
    let one = |op: &str| {
        map(
            &format!("ld.global.u32 %t, [%i]; {op} %t, %t; st.global.u32 [%o], %t;"),
            &EDGES,
        )
    };
    let want = |f: fn(u32) -> u32| EDGES.map(f).to_vec();
    assert_eq!(one("popc.b32"), want(|a| (0..32).map(|i| a >> i & 1).sum()));
    assert_eq!(
        one("clz.b32"),
        want(|a| (0..32).take_while(|i| a >> (31 - i) & 1 == 0).count() as u32)
    );
    assert_eq!(
        one("brev.b32"),
        want(|a| (0..32).fold(0, |d, i| d | (a >> i & 1) << (31 - i)))
    );
    let find = |a: u32| (0..32).rev().find(|i| a >> i & 1 == 1).unwrap_or(u32::MAX);
    assert_eq!(one("bfind.u32"), EDGES.map(find).to_vec());
    assert_eq!(
        one("bfind.s32"),
        EDGES
            .map(|a| find(if a >> 31 == 1 { !a } else { a }))
            .to_vec()
    );
    assert_eq!(
        one("bfind.shiftamt.u32"),
        EDGES
            .map(|a| if a == 0 { u32::MAX } else { 31 - find(a) })
            .to_vec()
    );
    assert_eq!(
        one("abs.s32"),
        want(|a| if a >> 31 == 1 { a.wrapping_neg() } else { a })
    );
    assert_eq!(one("cnot.b32"), want(|a| u32::from(a == 0)));
}

#[test]
fn byte_dot_products() {
    let cases = triples(99, 60);
    let byte = |v: u32, i: u32, signed: bool| {
        let b = (v >> (8 * i) & 0xff) as i64;
        if signed && b > 127 {
            b - 256
        } else {
            b
        }
    };
    for (op, sa, sb) in [
        ("dp4a.s32.s32", true, true),
        ("dp4a.u32.u32", false, false),
        ("dp4a.s32.u32", true, false),
        ("dp4a.u32.s32", false, true),
    ] {
        check3(op, &cases, |[a, b, c]| {
            let dot: i64 = (0..4).map(|i| byte(a, i, sa) * byte(b, i, sb)).sum();
            (i64::from(c) + dot) as u32
        });
    }
    check3("dp2a.hi.s32.s32", &cases, |[a, b, c]| {
        let half = |i: u32| i64::from((a >> (16 * i)) as i16);
        (i64::from(c) + half(0) * byte(b, 2, true) + half(1) * byte(b, 3, true)) as u32
    });
    check3("sad.s32", &cases, |[a, b, c]| {
        c.wrapping_add((i64::from(a as i32) - i64::from(b as i32)).unsigned_abs() as u32)
    });
    check3("mad.hi.s32", &cases, |[a, b, c]| {
        (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c)
    });
}

#[test]
fn comparisons_and_their_combinations() {
    for (cmp, signed, want) in [
        (
            "lt.s32",
            true,
            (|o: std::cmp::Ordering| o.is_lt()) as fn(std::cmp::Ordering) -> bool,
        ),
        ("lt.u32", false, |o| o.is_lt()),
        ("lo.u32", false, |o| o.is_lt()),
        ("hs.u32", false, |o| o.is_ge()),
        ("ge.s32", true, |o| o.is_ge()),
        ("ne.b32", false, |o| o.is_ne()),
    ] {
        let body = format!(
            ".reg .b32 %a, %b; .reg .pred %p, %q; ld.global.v2.u32 {{%a, %b}}, [%row]; setp.{cmp} %p|%q, %a, %b;\n\
             selp.u32 %a, 1, 0, %p; @%q add.u32 %a, %a, 2; st.global.u32 [%o], %a;"
        );
        for (p, got) in pairs().iter().zip(rows(&body, &pairs())) {
            let order = if signed {
                (p[0] as i32).cmp(&(p[1] as i32))
            } else {
                p[0].cmp(&p[1])
            };
            assert_eq!(got, if want(order) { 1 } else { 2 }, "{cmp} {p:x?}");
        }
    }
    let body = ".reg .pred %p, %q; setp.lt.u32 %p, %t, 8; setp.gt.xor.u32 %q, %t, 4, !%p; selp.u32 %t, 1, 0, %q; st.global.u32 [%o], %t;";
    let want: Vec<u32> = (0..32).map(|t| u32::from((t > 4) ^ (t >= 8))).collect();
    assert_eq!(map(body, &[0; 32]), want);
}

#[test]
fn packing_and_unpacking() {
    let body = ".reg .b32 %x; .reg .b16 %h<2>; .reg .b64 %w; ld.global.u32 %x, [%i]; mov.b32 {%h0, %h1}, %x; mov.b32 %x, {%h1, %h0};\n\
                mov.b64 %w, {%x, %t}; mov.b64 {_, %t}, %w; add.u32 %x, %x, %t; st.global.u32 [%o], %x;";
    let input: Vec<u32> = (0..32).map(|i| i * 0x0101_0203).collect();
    let want: Vec<u32> = input
        .iter()
        .zip(0u32..)
        .map(|(v, t)| v.rotate_left(16) + t)
        .collect();
    assert_eq!(map(body, &input), want);
}
