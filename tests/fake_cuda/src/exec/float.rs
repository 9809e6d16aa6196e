//! Float instructions, bit for bit as the PTX ISA defines them.
//!
//! f32 and f64 use the host's IEEE arithmetic (to nearest even, one rounding for `fma`). Halves are
//! computed in f64, rounded to odd where f64 is not wide enough, and then rounded once. A NaN result is
//! the canonical NaN. `.approx` instructions answer the correctly rounded value of an f64 computation,
//! which lies within the ISA's error bounds but is not what any one GPU answers.
use crate::ptx::ir::{Class, Cmp, Float1, Float2, FloatMods, Round, Ty};

/// The canonical NaN of f32.
const NAN32: u32 = 0x7fff_ffff;
/// The canonical NaN of f16 and bf16.
pub const NAN16: u16 = 0x7fff;

/// Subnormals to zero, sign kept.
pub fn flush(a: f32) -> f32 {
    if a.is_subnormal() {
        0f32.copysign(a)
    } else {
        a
    }
}

/// Applies `.ftz`, `.sat`, `.relu` and the canonical NaN to a result.
fn finish(v: f32, m: FloatMods) -> u32 {
    let v = if m.ftz { flush(v) } else { v };
    if m.sat {
        // NaN.sat is +0.
        return if v > 0.0 { v.min(1.0).to_bits() } else { 0 };
    }
    canonical(v)
}

/// The bits of a result, with the one NaN that PTX knows.
///
/// The test looks at the bits on purpose: `if v.is_nan() { NAN32 } else { v.to_bits() }` picks between two
/// NaNs, and since Rust leaves open which NaN an operation returns, the optimiser may drop the choice
/// (it does after `sqrt`).
pub fn canonical(v: f32) -> u32 {
    let bits = v.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        NAN32
    } else {
        bits
    }
}

fn input(bits: u32, m: FloatMods) -> f32 {
    let v = f32::from_bits(bits);
    if m.ftz {
        flush(v)
    } else {
        v
    }
}

/// The exact sum of two f64 as (rounded, error).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let bb = s - a;
    (s, (a - (s - bb)) + (b - bb))
}

/// `s + e` rounded to odd: sticky bits survive a second rounding to a narrower format.
fn to_odd(s: f64, e: f64) -> f64 {
    if e == 0.0 || !s.is_finite() || s.to_bits() & 1 == 1 {
        return s;
    }
    let away = (e > 0.0) == (s > 0.0);
    f64::from_bits(if away {
        s.to_bits() | 1
    } else {
        s.to_bits() - 1
    })
}

/// The f32 next to `v` in a direction.
fn step(v: f32, up: bool) -> f32 {
    if up {
        v.next_up()
    } else {
        v.next_down()
    }
}

/// Rounds an f64 (already sticky) to f32.
pub fn narrow(v: f64, round: Round) -> f32 {
    let near = v as f32;
    if !v.is_finite() || f64::from(near) == v {
        return near;
    }
    let above = f64::from(near) > v;
    match round {
        Round::Rn | Round::Rna => near,
        Round::Rz if above == (v > 0.0) => step(near, v < 0.0),
        Round::Rm if above => step(near, false),
        Round::Rp if !above => step(near, true),
        _ => near,
    }
}

/// `a * b + c` under a directed rounding.
fn directed(a: f32, b: f32, c: f32, round: Round) -> f32 {
    // The product of two f32 is exact in f64.
    let p = f64::from(a) * f64::from(b);
    let (s, e) = two_sum(p, f64::from(c));
    if s == 0.0
        && e == 0.0
        && !(p == 0.0 && c == 0.0 && p.is_sign_negative() == c.is_sign_negative())
    {
        return if round == Round::Rm { -0.0 } else { 0.0 };
    }
    if !s.is_finite() {
        return s as f32;
    }
    narrow(to_odd(s, e), round)
}

/// f32, one operand.
pub fn f32x1(op: Float1, m: FloatMods, a: u32) -> u32 {
    match op {
        Float1::Neg if !m.ftz => return a ^ 0x8000_0000,
        Float1::Abs if !m.ftz => return a & 0x7fff_ffff,
        _ => {}
    }
    let v = input(a, m);
    let wide = f64::from(v);
    let r = match op {
        Float1::Neg => -v,
        Float1::Abs => v.abs(),
        Float1::Sqrt => v.sqrt(),
        Float1::Rcp => 1.0 / v,
        Float1::Rsqrt => (1.0 / wide.sqrt()) as f32,
        Float1::Ex2 => wide.exp2() as f32,
        Float1::Lg2 => wide.log2() as f32,
        Float1::Sin => wide.sin() as f32,
        Float1::Cos => wide.cos() as f32,
        Float1::Tanh => wide.tanh() as f32,
    };
    finish(r, m)
}

/// Minimum or maximum by the rules of IEEE 754-2019 minimumNumber/maximumNumber, or NaN-propagating; -0 < +0.
fn extreme(a: f32, b: f32, max: bool, propagate: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return match (a.is_nan() && b.is_nan()) || propagate {
            true => f32::NAN,
            false if a.is_nan() => b,
            false => a,
        };
    }
    let a_less = a < b || (a == b && a.is_sign_negative());
    if a_less == max {
        b
    } else {
        a
    }
}

/// f32, two operands.
pub fn f32x2(op: Float2, m: FloatMods, a: u32, b: u32) -> u32 {
    if op == Float2::Copysign {
        // PTX: the sign of a on the magnitude of b.
        return (a & 0x8000_0000) | (b & 0x7fff_ffff);
    }
    let (a, b) = (input(a, m), input(b, m));
    let r = match op {
        Float2::Add if m.round != Round::Rn => directed(a, 1.0, b, m.round),
        Float2::Sub if m.round != Round::Rn => directed(a, 1.0, -b, m.round),
        Float2::Mul if m.round != Round::Rn => narrow(f64::from(a) * f64::from(b), m.round),
        Float2::Add => a + b,
        Float2::Sub => a - b,
        Float2::Mul => a * b,
        Float2::Div => a / b,
        Float2::Min => extreme(a, b, false, false),
        Float2::Max => extreme(a, b, true, false),
        Float2::MinNan => extreme(a, b, false, true),
        Float2::MaxNan => extreme(a, b, true, true),
        Float2::Copysign => a,
    };
    finish(r, m)
}

/// f32 `fma`.
pub fn f32_fma(m: FloatMods, a: u32, b: u32, c: u32) -> u32 {
    let (a, b, c) = (input(a, m), input(b, m), input(c, m));
    let r = match m.round {
        Round::Rn => a.mul_add(b, c),
        round => directed(a, b, c, round),
    };
    finish(r, m)
}

/// f64, one operand.
pub fn f64x1(op: Float1, a: u64) -> u64 {
    let v = f64::from_bits(a);
    match op {
        Float1::Neg => return a ^ (1 << 63),
        Float1::Abs => return a & !(1 << 63),
        Float1::Sqrt => v.sqrt(),
        Float1::Rcp => 1.0 / v,
        Float1::Rsqrt => 1.0 / v.sqrt(),
        Float1::Ex2 => v.exp2(),
        Float1::Lg2 => v.log2(),
        Float1::Sin => v.sin(),
        Float1::Cos => v.cos(),
        Float1::Tanh => v.tanh(),
    }
    .to_bits()
}

/// f64, two operands.
pub fn f64x2(op: Float2, a: u64, b: u64) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    let less = x < y || (x == y && x.is_sign_negative());
    match op {
        Float2::Add => x + y,
        Float2::Sub => x - y,
        Float2::Mul => x * y,
        Float2::Div => x / y,
        Float2::Copysign => y.abs().copysign(x),
        Float2::Min | Float2::Max if x.is_nan() => y,
        Float2::Min | Float2::Max if y.is_nan() => x,
        Float2::MinNan | Float2::MaxNan if x.is_nan() || y.is_nan() => f64::NAN,
        Float2::Min | Float2::MinNan if less => x,
        Float2::Min | Float2::MinNan => y,
        Float2::Max | Float2::MaxNan if less => y,
        Float2::Max | Float2::MaxNan => x,
    }
    .to_bits()
}

/// f64 `fma`.
pub fn f64_fma(a: u64, b: u64, c: u64) -> u64 {
    f64::from_bits(a)
        .mul_add(f64::from_bits(b), f64::from_bits(c))
        .to_bits()
}

/// One half of either format, widened exactly.
pub fn widen16(ty: Ty, bits: u16) -> f32 {
    match ty {
        Ty::Bf16 | Ty::Bf16x2 => f32::from_bits(u32::from(bits) << 16),
        _ => {
            let (sign, exp, man) = (
                bits >> 15,
                (bits >> 10 & 31) as i32,
                u32::from(bits & 0x3ff),
            );
            let magnitude = match exp {
                0 => man as f32 * 2f32.powi(-24),
                31 if man == 0 => f32::INFINITY,
                31 => f32::NAN,
                _ => (1024 + man) as f32 * 2f32.powi(exp - 25),
            };
            if sign == 1 {
                -magnitude
            } else {
                magnitude
            }
        }
    }
}

/// Rounds a (sticky) f64 to f16 or bf16.
pub fn narrow16(ty: Ty, v: f64, round: Round) -> u16 {
    // (mantissa bits, exponent bias)
    let (man, bias) = match ty {
        Ty::Bf16 | Ty::Bf16x2 => (7, 127),
        _ => (10, 15),
    };
    let sign = u16::from(v.is_sign_negative()) << 15;
    let infinity = ((2 * bias + 1) as u16) << man;
    if v.is_nan() {
        return NAN16;
    }
    if v.is_infinite() {
        return sign | infinity;
    }
    let magnitude = v.abs();
    if magnitude == 0.0 {
        return sign;
    }
    // The quantum at this magnitude; below the smallest normal it stays constant.
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    let quantum = 2f64.powi(exponent - man);
    // Scaling by a power of two is exact; an f64 subnormal is far below any half.
    let scaled = magnitude / quantum;
    let (low, negative) = (scaled.floor(), sign != 0);
    let rest = scaled - low;
    let up = match round {
        Round::Rn => rest > 0.5 || (rest == 0.5 && low % 2.0 == 1.0),
        Round::Rna => rest >= 0.5,
        Round::Rz => false,
        Round::Rm => negative && rest > 0.0,
        Round::Rp => !negative && rest > 0.0,
    };
    let significand = low as u32 + u32::from(up);
    // A significand of 2^man at the smallest exponent is the first normal number; a carry moves on likewise.
    let biased = (exponent + bias - 1) as u32;
    let bits = (biased << man) + significand;
    if bits >= u32::from(infinity) {
        // Overflow: to infinity, or to the largest number where the rounding points inwards.
        let inwards = match round {
            Round::Rz => true,
            Round::Rm => !negative,
            Round::Rp => negative,
            _ => false,
        };
        return sign | (infinity - u16::from(inwards));
    }
    sign | bits as u16
}

fn half_out(ty: Ty, v: f64, m: FloatMods) -> u16 {
    let mut v = v;
    if m.sat {
        v = if v > 0.0 { v.min(1.0) } else { 0.0 };
    }
    if m.relu && v <= 0.0 {
        v = 0.0;
    }
    let bits = narrow16(ty, v, Round::Rn);
    if m.ftz && matches!(ty, Ty::F16 | Ty::F16x2) && bits & 0x7c00 == 0 {
        bits & 0x8000
    } else {
        bits
    }
}

fn half_in(ty: Ty, bits: u16, m: FloatMods) -> f32 {
    let flushed = m.ftz && matches!(ty, Ty::F16 | Ty::F16x2) && bits & 0x7c00 == 0;
    widen16(ty, if flushed { bits & 0x8000 } else { bits })
}

/// Applies `f` to the one or two halves of 32-bit operands.
pub fn halves<const N: usize>(ty: Ty, v: [u32; N], f: impl Fn([u16; N]) -> u16) -> u32 {
    let low = f(v.map(|v| v as u16));
    match ty {
        Ty::F16x2 | Ty::Bf16x2 => u32::from(low) | u32::from(f(v.map(|v| (v >> 16) as u16))) << 16,
        _ => low.into(),
    }
}

/// One half, one operand.
pub fn half1(op: Float1, ty: Ty, m: FloatMods, a: u16) -> u16 {
    let v = f64::from(half_in(ty, a, m));
    let r = match op {
        Float1::Neg => return half_bits(ty, a, m) ^ 0x8000,
        Float1::Abs => return half_bits(ty, a, m) & 0x7fff,
        Float1::Sqrt => v.sqrt(),
        Float1::Rcp => 1.0 / v,
        Float1::Rsqrt => 1.0 / v.sqrt(),
        Float1::Ex2 => v.exp2(),
        Float1::Lg2 => v.log2(),
        Float1::Sin => v.sin(),
        Float1::Cos => v.cos(),
        Float1::Tanh => v.tanh(),
    };
    half_out(ty, r, m)
}

fn half_bits(ty: Ty, a: u16, m: FloatMods) -> u16 {
    if m.ftz && matches!(ty, Ty::F16 | Ty::F16x2) && a & 0x7c00 == 0 {
        a & 0x8000
    } else {
        a
    }
}

/// One half, two operands.
pub fn half2(op: Float2, ty: Ty, m: FloatMods, a: u16, b: u16) -> u16 {
    let (x, y) = (half_in(ty, a, m), half_in(ty, b, m));
    let r = match op {
        Float2::Add => return half_sum(ty, m, x.into(), y.into()),
        Float2::Sub => return half_sum(ty, m, x.into(), (-y).into()),
        Float2::Mul => f64::from(x) * f64::from(y),
        Float2::Div => f64::from(x) / f64::from(y),
        Float2::Min => extreme(x, y, false, false).into(),
        Float2::Max => extreme(x, y, true, false).into(),
        Float2::MinNan => extreme(x, y, false, true).into(),
        Float2::MaxNan => extreme(x, y, true, true).into(),
        Float2::Copysign => return (a & 0x8000) | (b & 0x7fff),
    };
    half_out(ty, r, m)
}

fn half_sum(ty: Ty, m: FloatMods, a: f64, b: f64) -> u16 {
    let (s, e) = two_sum(a, b);
    half_out(ty, if s.is_finite() { to_odd(s, e) } else { s }, m)
}

/// One half `fma`.
pub fn half_fma(ty: Ty, m: FloatMods, a: u16, b: u16, c: u16) -> u16 {
    let [a, b, c] = [a, b, c].map(|v| f64::from(half_in(ty, v, m)));
    half_sum(ty, m, a * b, c)
}

/// A comparison of floats: unordered forms hold when an operand is NaN, ordered ones do not.
pub fn compare(cmp: Cmp, a: f64, b: f64) -> bool {
    let nan = a.is_nan() || b.is_nan();
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => !nan && a != b,
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Equ => nan || a == b,
        Cmp::Neu => nan || a != b,
        Cmp::Ltu => nan || a < b,
        Cmp::Leu => nan || a <= b,
        Cmp::Gtu => nan || a > b,
        Cmp::Geu => nan || a >= b,
        Cmp::Num => !nan,
        Cmp::Nan => nan,
    }
}

/// `testp`.
pub fn test_class(class: Class, bits: u8, a: u64) -> bool {
    let v = if bits == 32 {
        f64::from(f32::from_bits(a as u32))
    } else {
        f64::from_bits(a)
    };
    let subnormal = if bits == 32 {
        f32::from_bits(a as u32).is_subnormal()
    } else {
        v.is_subnormal()
    };
    match class {
        Class::Finite => v.is_finite(),
        Class::Infinite => v.is_infinite(),
        Class::Number => !v.is_nan(),
        Class::NotANumber => v.is_nan(),
        Class::Normal => v.is_finite() && v != 0.0 && !subnormal,
        Class::Subnormal => subnormal,
    }
}
