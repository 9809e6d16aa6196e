//! Comparisons, predicates, selections and moves.
use super::cluster::{stop, Cluster, Step};
use super::float;
use super::int::{sign_extend, zero_extend};
use super::regs::{ballot, each, lanes};
use super::warp::Warp;
use super::FaultKind;
use crate::memory::{BLOCK_WINDOW_BYTES, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::ir::{Bool, Cmp, Compare, Op, Space, Ty};

/// Start and size of a space in the generic address space.
fn window(space: Space) -> (u64, u64) {
    match space {
        Space::Shared => (SHARED_WINDOW, BLOCK_WINDOW_BYTES),
        Space::Cluster => (SHARED_WINDOW, WINDOW_BYTES),
        Space::Local => (LOCAL_WINDOW, WINDOW_BYTES),
        Space::Param => (PARAM_WINDOW, WINDOW_BYTES),
        Space::Global | Space::Generic => (0, 0),
    }
}

fn integers<T: Ord>(cmp: Cmp, pair: impl Fn(usize) -> (T, T)) -> u32 {
    let test = |f: fn(&T, &T) -> bool| {
        ballot(|l| {
            let (a, b) = pair(l);
            f(&a, &b)
        })
    };
    match cmp {
        Cmp::Eq => test(|a, b| a == b),
        Cmp::Ne => test(|a, b| a != b),
        Cmp::Lt => test(|a, b| a < b),
        Cmp::Le => test(|a, b| a <= b),
        Cmp::Gt => test(|a, b| a > b),
        _ => test(|a, b| a >= b),
    }
}

impl Cluster<'_> {
    /// The lanes in which a comparison of scalars holds.
    fn compare(&self, w: &Warp, c: &Compare) -> u32 {
        let (a, b) = (self.src64(w, c.a), self.src64(w, c.b));
        let bits = c.ty.bits() as u8;
        match c.ty {
            Ty::F32 => {
                let f = |v: u64| {
                    let v = f32::from_bits(v as u32);
                    f64::from(if c.ftz { float::flush(v) } else { v })
                };
                ballot(|l| float::compare(c.cmp, f(a[l]), f(b[l])))
            }
            Ty::F64 => {
                ballot(|l| float::compare(c.cmp, f64::from_bits(a[l]), f64::from_bits(b[l])))
            }
            Ty::F16 | Ty::Bf16 => {
                let f = |v: u64| f64::from(float::widen16(c.ty, v as u16));
                ballot(|l| float::compare(c.cmp, f(a[l]), f(b[l])))
            }
            ty if ty.is_signed() => integers(c.cmp, |l| {
                (sign_extend(bits, a[l]), sign_extend(bits, b[l]))
            }),
            _ => integers(c.cmp, |l| {
                (zero_extend(bits, a[l]), zero_extend(bits, b[l]))
            }),
        }
    }

    fn combined(&self, w: &Warp, c: &Compare, yes: u32) -> u32 {
        match c.combine {
            None => yes,
            Some((op, p)) => {
                let p = w.regs.pred(p);
                match op {
                    Bool::And => yes & p,
                    Bool::Or => yes | p,
                    Bool::Xor => yes ^ p,
                }
            }
        }
    }

    pub(super) fn predicate(&mut self, w: &mut Warp, exec: u32, op: &Op) {
        match op {
            Op::Setp { c, d, other } => {
                let yes = self.compare(w, c);
                // Both results use the third predicate as it was before.
                let (p, q) = (self.combined(w, c, yes), self.combined(w, c, !yes));
                if let Some(d) = d {
                    w.regs.set_pred(*d, exec, p);
                }
                if let Some(other) = other {
                    w.regs.set_pred(*other, exec, q);
                }
            }
            Op::SetpX2 { c, d, other } => {
                let (a, b) = (self.src32(w, c.a), self.src32(w, c.b));
                let f = |v: u32, shift: u32| f64::from(float::widen16(c.ty, (v >> shift) as u16));
                let half =
                    |shift| ballot(|l| float::compare(c.cmp, f(a[l], shift), f(b[l], shift)));
                let (low, high) = (self.combined(w, c, half(0)), self.combined(w, c, half(16)));
                w.regs.set_pred(*d, exec, low);
                if let Some(other) = other {
                    w.regs.set_pred(*other, exec, high);
                }
            }
            Op::Set { c, to, d } => {
                let yes = self.combined(w, c, self.compare(w, c));
                let value = match to {
                    Ty::F32 => 0x3f80_0000,
                    Ty::F16 => 0x3c00,
                    Ty::Bf16 => 0x3f80,
                    _ => u32::MAX,
                };
                w.regs.set32(
                    *d,
                    exec,
                    &each(|l| if yes >> l & 1 == 1 { value } else { 0 }),
                );
            }
            Op::TestP { class, bits, d, a } => {
                let a = self.src64(w, *a);
                w.regs
                    .set_pred(*d, exec, ballot(|l| float::test_class(*class, *bits, a[l])));
            }
            Op::MovPred { d, a } => {
                let a = w.regs.pred(*a);
                w.regs.set_pred(*d, exec, a);
            }
            Op::LogicPred { op, d, a, b } => {
                let (a, b) = (w.regs.pred(*a), w.regs.pred(*b));
                w.regs.set_pred(
                    *d,
                    exec,
                    match op {
                        Bool::And => a & b,
                        Bool::Or => a | b,
                        Bool::Xor => a ^ b,
                    },
                );
            }
            _ => {}
        }
    }

    pub(super) fn moves(&mut self, w: &mut Warp, exec: u32, op: &Op) -> Step {
        match op {
            Op::Selp { bits, d, a, b, p } => {
                let p = w.regs.pred(*p);
                if *bits == 64 {
                    let (a, b) = (self.src64(w, *a), self.src64(w, *b));
                    w.regs.set64(
                        *d,
                        exec,
                        &each(|l| if p >> l & 1 == 1 { a[l] } else { b[l] }),
                    );
                } else {
                    let (a, b) = (self.src32(w, *a), self.src32(w, *b));
                    w.regs.set32(
                        *d,
                        exec,
                        &each(|l| if p >> l & 1 == 1 { a[l] } else { b[l] }),
                    );
                }
            }
            Op::Slct {
                float, d, a, b, c, ..
            } => {
                let (a, b, c) = (self.src64(w, *a), self.src64(w, *b), self.src32(w, *c));
                let first = |c: u32| {
                    if *float {
                        f32::from_bits(c) >= 0.0
                    } else {
                        c as i32 >= 0
                    }
                };
                w.regs
                    .set64(*d, exec, &each(|l| if first(c[l]) { a[l] } else { b[l] }));
            }
            Op::Pack { part, d, parts } => {
                let mut out = [0u64; 32];
                for (i, &s) in (0u32..).zip(parts.iter()) {
                    let v = self.src64(w, s);
                    out.iter_mut()
                        .zip(v)
                        .for_each(|(o, v)| *o |= zero_extend(*part, v) << (i * u32::from(*part)));
                }
                w.regs.set64(*d, exec, &out);
            }
            Op::Unpack { part, parts, a } => {
                let a = self.src64(w, *a);
                for (i, &r) in (0u32..).zip(parts.iter()) {
                    w.regs.set64(
                        r,
                        exec,
                        &each(|l| zero_extend(*part, a[l] >> (i * u32::from(*part)))),
                    );
                }
            }
            Op::Cvta { space, to, d, a } => {
                let a = self.src64(w, *a);
                let (base, bytes) = window(*space);
                let outside = |v: u64| bytes != 0 && v.wrapping_sub(base) >= bytes;
                if let Some(lane) = lanes(exec).find(|&l| *to && outside(a[l])) {
                    return stop(
                        lane,
                        FaultKind::Undefined(format!(
                            "cvta.to of {:#x}, which is not in {space:?} memory",
                            a[lane]
                        )),
                    );
                }
                w.regs.set64(
                    *d,
                    exec,
                    &each(|l| {
                        if *to {
                            a[l].wrapping_sub(base)
                        } else {
                            a[l].wrapping_add(base)
                        }
                    }),
                );
            }
            Op::IsSpace { space, d, a } => {
                let a = self.src64(w, *a);
                let inside = |s: Space, v: u64| v.wrapping_sub(window(s).0) < window(s).1;
                let special = |v: u64| {
                    [Space::Shared, Space::Local, Space::Param]
                        .into_iter()
                        .any(|s| inside(s, v))
                };
                let yes = ballot(|l| {
                    if *space == Space::Global {
                        !special(a[l])
                    } else {
                        inside(*space, a[l])
                    }
                });
                w.regs.set_pred(*d, exec, yes);
            }
            _ => {}
        }
        Ok(())
    }
}
