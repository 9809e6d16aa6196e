//! Integer instructions on 16, 32 and 64 bits.
use super::regs::{each, Lanes};
use crate::ptx::ir::{Int1, Int2, PrmtMode, Tri};

/// A machine word with its signed reading.
pub trait Word: Copy + Default + Into<u64> + std::ops::Not<Output = Self> {
    /// Width.
    const BITS: u32;
    /// Low bits of `v`.
    fn cut(v: u64) -> Self;
    /// Sign-extended value.
    fn signed(self) -> i64;
}

macro_rules! word {
    ($u:ty, $i:ty) => {
        impl Word for $u {
            const BITS: u32 = <$u>::BITS;
            fn cut(v: u64) -> Self {
                v as $u
            }
            fn signed(self) -> i64 {
                i64::from(self as $i)
            }
        }
    };
}
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);

/// One-operand instructions.
pub fn int1<W: Word>(op: Int1, a: &Lanes<W>) -> Lanes<W> {
    let f = |f: &dyn Fn(W) -> W| each(|l| f(a[l]));
    match op {
        Int1::Mov => *a,
        Int1::Not => f(&|a| !a),
        Int1::Neg => f(&|a| W::cut(a.signed().wrapping_neg() as u64)),
        Int1::Abs => f(&|a| W::cut(a.signed().wrapping_abs() as u64)),
        Int1::Cnot => f(&|a| W::cut(u64::from(a.into() == 0))),
        Int1::Brev => f(&|a| W::cut(a.into().reverse_bits() >> (64 - W::BITS))),
    }
}

/// Two-operand instructions. The shift count of `shl` and `shr` is not masked: counts of the width and more shift everything out.
pub fn int2<W: Word>(
    op: Int2,
    signed: bool,
    a: &Lanes<W>,
    b: &Lanes<W>,
    count: &Lanes<u32>,
) -> Lanes<W> {
    /// Monomorphic in `f`, so each instruction is one tight loop.
    #[inline(always)]
    fn map<W: Word>(a: &Lanes<W>, b: &Lanes<W>, f: impl Fn(W, W) -> u64) -> Lanes<W> {
        each(|l| W::cut(f(a[l], b[l])))
    }
    let clamp = |v: i64| v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64;
    match op {
        Int2::Add => map(a, b, |a, b| a.into().wrapping_add(b.into())),
        Int2::Sub => map(a, b, |a, b| a.into().wrapping_sub(b.into())),
        Int2::MulLo => map(a, b, |a, b| a.into().wrapping_mul(b.into())),
        Int2::And => map(a, b, |a, b| a.into() & b.into()),
        Int2::Or => map(a, b, |a, b| a.into() | b.into()),
        Int2::Xor => map(a, b, |a, b| a.into() ^ b.into()),
        Int2::AddSat => map(a, b, |a, b| clamp(a.signed() + b.signed())),
        Int2::SubSat => map(a, b, |a, b| clamp(a.signed() - b.signed())),
        Int2::MulHi if signed => map(a, b, |a, b| {
            ((i128::from(a.signed()) * i128::from(b.signed())) >> W::BITS) as u64
        }),
        Int2::MulHi => map(a, b, |a, b| {
            ((u128::from(a.into()) * u128::from(b.into())) >> W::BITS) as u64
        }),
        Int2::Min if signed => map(a, b, |a, b| a.signed().min(b.signed()) as u64),
        Int2::Min => map(a, b, |a, b| a.into().min(b.into())),
        Int2::Max if signed => map(a, b, |a, b| a.signed().max(b.signed()) as u64),
        Int2::Max => map(a, b, |a, b| a.into().max(b.into())),
        // Division by zero: the ISA leaves the value open; GPUs answer all ones, and the dividend for rem.
        Int2::Div if signed => map(a, b, |a, b| {
            if b.into() == 0 {
                u64::MAX
            } else {
                a.signed().wrapping_div(b.signed()) as u64
            }
        }),
        Int2::Div => map(a, b, |a, b| {
            a.into().checked_div(b.into()).unwrap_or(u64::MAX)
        }),
        Int2::Rem if signed => map(a, b, |a, b| {
            if b.into() == 0 {
                a.into()
            } else {
                a.signed().wrapping_rem(b.signed()) as u64
            }
        }),
        Int2::Rem => map(a, b, |a, b| {
            a.into().checked_rem(b.into()).unwrap_or(a.into())
        }),
        Int2::Shl => each(|l| {
            W::cut(if count[l] >= W::BITS {
                0
            } else {
                a[l].into() << count[l]
            })
        }),
        Int2::Shr if signed => each(|l| W::cut((a[l].signed() >> count[l].min(63)) as u64)),
        Int2::Shr => each(|l| {
            W::cut(if count[l] >= W::BITS {
                0
            } else {
                a[l].into() >> count[l]
            })
        }),
    }
}

/// `prmt`: each result byte is one of the eight bytes of {b, a}; bit 3 of its selector repeats the sign.
pub fn prmt(mode: PrmtMode, a: u32, b: u32, c: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let s = (c & 3) as usize;
    let pick: [usize; 4] = match mode {
        PrmtMode::Index => {
            return u32::from_le_bytes(std::array::from_fn(|i| {
                let sel = c >> (4 * i) & 0xf;
                let byte = bytes[(sel & 7) as usize];
                match sel & 8 {
                    0 => byte,
                    _ => ((byte as i8) >> 7) as u8,
                }
            }));
        }
        PrmtMode::F4e => [s, s + 1, s + 2, s + 3],
        PrmtMode::B4e => [s, (s + 7) % 8, (s + 6) % 8, (s + 5) % 8],
        PrmtMode::Rc8 => [s; 4],
        PrmtMode::Ecl => [s, s.max(1), s.max(2), 3],
        PrmtMode::Ecr => [0, s.min(1), s.min(2), s],
        PrmtMode::Rc16 => [2 * (s & 1), 2 * (s & 1) + 1, 2 * (s & 1), 2 * (s & 1) + 1],
    };
    u32::from_le_bytes(pick.map(|i| bytes[i]))
}

/// Three-operand instructions on 32 bits.
pub fn tri(op: Tri, a: u32, b: u32, c: u32) -> u32 {
    let byte = |v: u32, i: usize, signed: bool| match signed {
        true => i32::from(v.to_le_bytes()[i] as i8),
        false => i32::from(v.to_le_bytes()[i]),
    };
    match op {
        Tri::Lop3(table) => (0..8).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
            let side = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
            out | (side(a, 2) & side(b, 1) & side(c, 0))
        }),
        Tri::Prmt(mode) => prmt(mode, a, b, c),
        Tri::ShfL { clamp } => {
            let n = if clamp { c.min(32) } else { c & 31 };
            (((u64::from(b) << 32 | u64::from(a)) << n) >> 32) as u32
        }
        Tri::ShfR { clamp } => {
            let n = if clamp { c.min(32) } else { c & 31 };
            ((u64::from(b) << 32 | u64::from(a)) >> n) as u32
        }
        Tri::Dp4a { a_signed, b_signed } => {
            let dot: i32 = (0..4)
                .map(|i| byte(a, i, a_signed) * byte(b, i, b_signed))
                .sum();
            c.wrapping_add(dot as u32)
        }
        Tri::Dp2a {
            a_signed,
            b_signed,
            hi,
        } => {
            let half = |i: u32| match a_signed {
                true => i32::from((a >> (16 * i)) as i16),
                false => (a >> (16 * i) & 0xffff) as i32,
            };
            let from = if hi { 2 } else { 0 };
            let dot = (0..2).fold(0i32, |s, i| {
                s.wrapping_add(half(i as u32) * byte(b, i + from, b_signed))
            });
            c.wrapping_add(dot as u32)
        }
        Tri::MadHiSatS32 => {
            let hi = (i64::from(a as i32) * i64::from(b as i32)) >> 32;
            (hi + i64::from(c as i32)).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
        }
    }
}

/// `bfe`: `len` bits from `pos`; a signed field is extended from its top bit (or the value's, past the end).
pub fn bfe(bits: u32, signed: bool, a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let value = if signed && bits == 32 {
        i64::from(a as i32) as u64
    } else {
        a
    };
    let sign = signed && value >> (pos + len - 1).min(bits - 1) & 1 == 1;
    let below = if pos >= bits {
        0
    } else {
        value & (u64::MAX >> (64 - bits))
    } >> pos.min(63);
    let have = len.min(bits.saturating_sub(pos));
    let field = if have >= 64 {
        below
    } else {
        below & ((1 << have) - 1)
    };
    match sign {
        true if have < 64 => field | u64::MAX << have,
        _ => field,
    }
}

/// `bfi`: the low `len` bits of `a` put into `b` at `pos`.
pub fn bfi(bits: u32, a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, (len & 0xff).min(bits));
    if pos >= bits || len == 0 {
        return b;
    }
    let field = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    (b & !(field << pos)) | ((a & field) << pos)
}

/// `bfind`: position of the highest bit that differs from the sign; all ones if there is none.
pub fn bfind(bits: u32, signed: bool, shiftamt: bool, a: u64) -> u32 {
    let top = u64::MAX >> (64 - bits);
    let negative = signed && a >> (bits - 1) & 1 == 1;
    let v = if negative { !a } else { a } & top;
    match v {
        0 => u32::MAX,
        _ if shiftamt => bits - 1 - v.ilog2(),
        _ => v.ilog2(),
    }
}

/// The low `bits` bits as a signed number.
pub fn sign_extend(bits: u8, v: u64) -> i64 {
    let shift = 64 - u32::from(bits);
    (v << shift) as i64 >> shift
}

/// The low `bits` bits.
pub fn zero_extend(bits: u8, v: u64) -> u64 {
    v & (u64::MAX >> (64 - u32::from(bits)))
}
