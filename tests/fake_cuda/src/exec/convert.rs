//! `cvt`: one value from one type to another.
use super::float::{canonical, flush, narrow, narrow16, widen16};
use super::planted::{planted, Planted};
use crate::ptx::ir::{Cvt, Round, Ty};

/// A value on its way: integers stay integers.
enum Value {
    Int(i128),
    Float(f64),
}

fn read(ty: Ty, bits: u64, ftz: bool) -> Value {
    match ty {
        Ty::F64 => Value::Float(f64::from_bits(bits)),
        Ty::F32 => {
            let v = f32::from_bits(bits as u32);
            Value::Float(f64::from(if ftz { flush(v) } else { v }))
        }
        Ty::F16 | Ty::Bf16 => Value::Float(f64::from(widen16(ty, bits as u16))),
        _ => {
            let shift = 64 - ty.bits();
            Value::Int(match ty.is_signed() {
                true => i128::from((bits << shift) as i64 >> shift),
                false => i128::from((bits << shift) >> shift),
            })
        }
    }
}

fn to_integer(v: f64, round: Round) -> f64 {
    match round {
        Round::Rn => v.round_ties_even(),
        Round::Rz => v.trunc(),
        Round::Rm => v.floor(),
        Round::Rp => v.ceil(),
        Round::Rna => v.round(),
    }
}

fn int_range(ty: Ty) -> (i128, i128) {
    let bits = ty.bits();
    match ty.is_signed() {
        true => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => (0, (1 << bits) - 1),
    }
}

/// Float to integer: values outside clamp to the range. A NaN gives 0 where source and result have 32 bits or fewer, else
/// the result's highest bit alone (PTX ISA, `cvt`, integer notes).
fn float_to_int(c: Cvt, v: f64) -> u64 {
    if v.is_nan() {
        let wide = !planted(Planted::NanIsZero) && (c.from == Ty::F64 || c.to.bits() == 64);
        return if wide {
            cut(c.to, 1 << (c.to.bits() - 1))
        } else {
            0
        };
    }
    let (low, high) = int_range(c.to);
    let v = to_integer(v, c.round);
    // Saturating casts of Rust; i128 holds every range.
    (v as i128).clamp(low, high) as u64
}

/// An integer as an f64 rounded to odd, so that the next rounding is right.
fn int_to_sticky(v: i128) -> f64 {
    let magnitude = v.unsigned_abs();
    let bits = 128 - magnitude.leading_zeros();
    let drop = bits.saturating_sub(53);
    let mut kept = magnitude >> drop;
    if kept << drop != magnitude {
        kept |= 1;
    }
    let f = kept as f64 * 2f64.powi(drop as i32);
    if v < 0 {
        -f
    } else {
        f
    }
}

fn int_to_f64(v: i128, round: Round) -> f64 {
    let near = v as f64;
    let back = near as i128;
    match round {
        Round::Rz if back.unsigned_abs() > v.unsigned_abs() => toward_zero(near),
        Round::Rm if back > v => near.next_down(),
        Round::Rp if back < v => near.next_up(),
        _ => near,
    }
}

fn toward_zero(v: f64) -> f64 {
    f64::from_bits(v.to_bits() - 1)
}

fn write_float(c: Cvt, v: f64) -> u64 {
    let mut v = if c.integer && c.from.is_float() {
        to_integer(v, c.round)
    } else {
        v
    };
    if c.sat {
        v = if v > 0.0 { v.min(1.0) } else { 0.0 };
    }
    if c.relu && v <= 0.0 {
        v = 0.0;
    }
    match c.to {
        Ty::F64 => v.to_bits(),
        Ty::F32 => {
            let r = narrow(v, c.round);
            u64::from(canonical(if c.ftz { flush(r) } else { r }))
        }
        ty => narrow16(ty, v, c.round).into(),
    }
}

/// Converts the low bits of `bits`.
pub fn cvt(c: Cvt, bits: u64) -> u64 {
    let carried = !planted(Planted::Bf16NanCanonical);
    if carried && c.from == Ty::Bf16 && c.to == Ty::F32 && !c.sat && !c.relu && !c.integer {
        // The same value in a wider format: ptxas makes a shift of it, which keeps what a NaN carries.
        return (bits & 0xffff) << 16;
    }
    match (read(c.from, bits, c.ftz), c.to.is_float()) {
        (Value::Int(v), false) => match c.sat {
            true => {
                let (low, high) = int_range(c.to);
                v.clamp(low, high) as u64
            }
            // Widening to a signed type keeps the value; anything else keeps the low bits.
            false => cut(c.to, v as u64),
        },
        (Value::Int(v), true) => match c.to {
            Ty::F64 => write_float(c, int_to_f64(v, c.round)),
            _ => write_float(c, int_to_sticky(v)),
        },
        (Value::Float(v), false) => float_to_int(c, v),
        (Value::Float(v), true) => write_float(c, v),
    }
}

/// Low bits of a result; signed types narrower than the register are sign-extended into it.
fn cut(ty: Ty, v: u64) -> u64 {
    let shift = 64 - ty.bits();
    match ty.is_signed() {
        true => ((v << shift) as i64 >> shift) as u64,
        false => (v << shift) >> shift,
    }
}

/// `cvt.rn.f16x2.f32 d, a, b`: a in the upper half.
pub fn cvt_pack(c: Cvt, a: u32, b: u32) -> u32 {
    let one = Cvt {
        to: if c.to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 },
        ..c
    };
    let [a, b] = [a, b].map(|v| cvt(one, v.into()) as u32 & 0xffff);
    a << 16 | b
}

/// `cvt.pack.sat`: b clamped into the low part, a above it, and c shifted up to make room.
pub fn cvt_pack_int(to: Ty, a: u32, b: u32, c: u32) -> u32 {
    let (low, high) = int_range(to);
    let bits = to.bits();
    let one = |v: u32| (i128::from(v as i32).clamp(low, high) as u32) & (u32::MAX >> (32 - bits));
    let pair = one(a) << bits | one(b);
    match bits {
        16 => pair,
        _ => c << (2 * bits) | pair,
    }
}
