//! Which function runs which instruction.
use super::cluster::{stop, Cluster, Step};
use super::convert::{cvt, cvt_pack, cvt_pack_int};
use super::float;
use super::int::{self, sign_extend, zero_extend};
use super::mma::mma;
use super::regs::{each, lanes, Lanes};
use super::warp::Warp;
use super::FaultKind;
use crate::ptx::ir::{Op, Src};

impl Cluster<'_> {
    fn words<W: int::Word>(&self, w: &Warp, s: Src) -> Lanes<W> {
        let v = self.src64(w, s);
        each(|l| W::cut(v[l]))
    }

    /// Runs an instruction that needs no other lane and does not branch.
    pub(super) fn execute(&mut self, w: &mut Warp, exec: u32, op: &Op) -> Step {
        match op {
            Op::Ld { space, ty, d, addr } => return self.ld(w, exec, *space, *ty, d, *addr),
            Op::St { space, ty, v, addr } => return self.st(w, exec, *space, *ty, v, *addr),
            Op::Atom {
                space,
                op,
                ty,
                d,
                addr,
                b,
                c,
            } => return self.atom(w, exec, *space, *op, *ty, *d, *addr, *b, *c),
            Op::CpAsync {
                bytes,
                dst,
                src,
                src_bytes,
                ignore,
            } => {
                let ignore = ignore.map_or(0, |p| w.regs.pred(p));
                return self.cp_async(w, exec, *bytes, *dst, *src, *src_bytes, ignore);
            }
            Op::CpAsyncCommit => lanes(exec).for_each(|l| w.copies[l].committed += 1),
            Op::CpAsyncWait { keep, all } => return self.cp_async_wait(w, exec, *keep, *all),
            Op::CopyLocal { dst, src, bytes } => {
                lanes(exec).for_each(|l| w.local.copy(l, *dst, *src, *bytes))
            }
            Op::Trap => return stop(exec.trailing_zeros() as usize, FaultKind::Trap),
            Op::AssertFail {
                message,
                file,
                line,
            } => return self.assert_fail(w, exec, *message, *file, *line),
            Op::Nop | Op::AddrCheck { .. } => {}
            Op::Hopper(h) => return self.hopper(w, exec, h),
            Op::Activemask { d } => w.regs.set32(*d, exec, &[exec; 32]),
            Op::Int1 { .. }
            | Op::Int2 { .. }
            | Op::MulWide { .. }
            | Op::Mad { .. }
            | Op::Sad { .. } => self.integer(w, exec, op),
            Op::Popc { .. }
            | Op::Clz { .. }
            | Op::Bfind { .. }
            | Op::Bfe { .. }
            | Op::Bfi { .. }
            | Op::Tri { .. } => {
                self.bit_field(w, exec, op);
            }
            Op::Setp { .. }
            | Op::Set { .. }
            | Op::SetpX2 { .. }
            | Op::TestP { .. }
            | Op::MovPred { .. }
            | Op::LogicPred { .. } => {
                self.predicate(w, exec, op);
            }
            Op::Selp { .. }
            | Op::Slct { .. }
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::Cvta { .. }
            | Op::IsSpace { .. } => {
                return self.moves(w, exec, op);
            }
            _ => self.floating(w, exec, op),
        }
        Ok(())
    }

    fn integer(&mut self, w: &mut Warp, exec: u32, op: &Op) {
        match *op {
            Op::Int1 { op, bits, d, a } => match bits {
                16 => set(w, exec, d, &int::int1::<u16>(op, &self.words(w, a))),
                32 => w.regs.set32(d, exec, &int::int1(op, &self.src32(w, a))),
                _ => w.regs.set64(d, exec, &int::int1(op, &self.src64(w, a))),
            },
            Op::Int2 {
                op,
                bits,
                signed,
                d,
                a,
                b,
            } => {
                let count = self.src32(w, b);
                match bits {
                    16 => set(
                        w,
                        exec,
                        d,
                        &int::int2::<u16>(op, signed, &self.words(w, a), &self.words(w, b), &count),
                    ),
                    32 => w.regs.set32(
                        d,
                        exec,
                        &int::int2(op, signed, &self.src32(w, a), &count, &count),
                    ),
                    _ => w.regs.set64(
                        d,
                        exec,
                        &int::int2(op, signed, &self.src64(w, a), &self.src64(w, b), &count),
                    ),
                }
            }
            Op::MulWide {
                bits,
                signed,
                d,
                a,
                b,
                c,
            } => {
                let (a, b) = (self.src64(w, a), self.src64(w, b));
                let c = c.map_or([0; 32], |c| self.src64(w, c));
                let r = each(|l| {
                    match signed {
                        true => {
                            sign_extend(bits, a[l]).wrapping_mul(sign_extend(bits, b[l])) as u64
                        }
                        false => zero_extend(bits, a[l]).wrapping_mul(zero_extend(bits, b[l])),
                    }
                    .wrapping_add(c[l])
                });
                w.regs.set64(d, exec, &r);
            }
            Op::Mad {
                bits,
                signed,
                hi,
                d,
                a,
                b,
                c,
            } => {
                if bits == 32 && !hi {
                    let (a, b, c) = (self.src32(w, a), self.src32(w, b), self.src32(w, c));
                    return w.regs.set32(
                        d,
                        exec,
                        &each(|l| a[l].wrapping_mul(b[l]).wrapping_add(c[l])),
                    );
                }
                let (a, b, c) = (self.src64(w, a), self.src64(w, b), self.src64(w, c));
                let r = each(|l| {
                    let product = match signed {
                        true => {
                            i128::from(sign_extend(bits, a[l]))
                                * i128::from(sign_extend(bits, b[l]))
                        }
                        false => {
                            (u128::from(zero_extend(bits, a[l]))
                                * u128::from(zero_extend(bits, b[l])))
                                as i128
                        }
                    };
                    zero_extend(
                        bits,
                        ((product >> if hi { u32::from(bits) } else { 0 }) as u64)
                            .wrapping_add(c[l]),
                    )
                });
                w.regs.set64(d, exec, &r);
            }
            Op::Sad {
                bits,
                signed,
                d,
                a,
                b,
                c,
            } => {
                let (a, b, c) = (self.src64(w, a), self.src64(w, b), self.src64(w, c));
                let r = each(|l| {
                    let difference = match signed {
                        true => sign_extend(bits, a[l]).abs_diff(sign_extend(bits, b[l])),
                        false => zero_extend(bits, a[l]).abs_diff(zero_extend(bits, b[l])),
                    };
                    zero_extend(bits, difference.wrapping_add(c[l]))
                });
                w.regs.set64(d, exec, &r);
            }
            _ => {}
        }
    }

    fn bit_field(&mut self, w: &mut Warp, exec: u32, op: &Op) {
        match *op {
            Op::Popc { bits, d, a } => {
                let a = self.src64(w, a);
                w.regs
                    .set32(d, exec, &each(|l| zero_extend(bits, a[l]).count_ones()));
            }
            Op::Clz { bits, d, a } => {
                let a = self.src64(w, a);
                w.regs.set32(
                    d,
                    exec,
                    &each(|l| zero_extend(bits, a[l]).leading_zeros() + u32::from(bits) - 64),
                );
            }
            Op::Bfind {
                bits,
                signed,
                shiftamt,
                d,
                a,
            } => {
                let a = self.src64(w, a);
                w.regs.set32(
                    d,
                    exec,
                    &each(|l| int::bfind(bits.into(), signed, shiftamt, a[l])),
                );
            }
            Op::Bfe {
                bits,
                signed,
                d,
                a,
                b,
                c,
            } => {
                let (a, b, c) = (self.src64(w, a), self.src32(w, b), self.src32(w, c));
                w.regs.set64(
                    d,
                    exec,
                    &each(|l| int::bfe(bits.into(), signed, a[l], b[l], c[l])),
                );
            }
            Op::Bfi {
                bits,
                d,
                a,
                b,
                c,
                e,
            } => {
                let (a, b, c, e) = (
                    self.src64(w, a),
                    self.src64(w, b),
                    self.src32(w, c),
                    self.src32(w, e),
                );
                w.regs.set64(
                    d,
                    exec,
                    &each(|l| int::bfi(bits.into(), a[l], b[l], c[l], e[l])),
                );
            }
            Op::Tri { op, d, a, b, c } => {
                let (a, b, c) = (self.src32(w, a), self.src32(w, b), self.src32(w, c));
                w.regs
                    .set32(d, exec, &each(|l| int::tri(op, a[l], b[l], c[l])));
            }
            _ => {}
        }
    }

    fn floating(&mut self, w: &mut Warp, exec: u32, op: &Op) {
        let s32 = |s: Src| self.src32(w, s);
        let s64 = |s: Src| self.src64(w, s);
        match *op {
            Op::F32x1 { op, m, d, a } => {
                let a = s32(a);
                w.regs.set32(d, exec, &each(|l| float::f32x1(op, m, a[l])));
            }
            Op::F32x2 { op, m, d, a, b } => {
                let (a, b) = (s32(a), s32(b));
                w.regs
                    .set32(d, exec, &each(|l| float::f32x2(op, m, a[l], b[l])));
            }
            Op::F32Fma { m, d, a, b, c } => {
                let (a, b, c) = (s32(a), s32(b), s32(c));
                w.regs
                    .set32(d, exec, &each(|l| float::f32_fma(m, a[l], b[l], c[l])));
            }
            Op::F64x1 { op, d, a } => {
                let a = s64(a);
                w.regs.set64(d, exec, &each(|l| float::f64x1(op, a[l])));
            }
            Op::F64x2 { op, d, a, b } => {
                let (a, b) = (s64(a), s64(b));
                w.regs
                    .set64(d, exec, &each(|l| float::f64x2(op, a[l], b[l])));
            }
            Op::F64Fma { d, a, b, c } => {
                let (a, b, c) = (s64(a), s64(b), s64(c));
                w.regs
                    .set64(d, exec, &each(|l| float::f64_fma(a[l], b[l], c[l])));
            }
            Op::Half1 { op, ty, m, d, a } => {
                let a = s32(a);
                w.regs.set32(
                    d,
                    exec,
                    &each(|l| float::halves(ty, [a[l]], |[a]| float::half1(op, ty, m, a))),
                );
            }
            Op::Half2 { op, ty, m, d, a, b } => {
                let (a, b) = (s32(a), s32(b));
                let f = |l: usize| {
                    float::halves(ty, [a[l], b[l]], |[a, b]| float::half2(op, ty, m, a, b))
                };
                w.regs.set32(d, exec, &each(f));
            }
            Op::HalfFma { ty, m, d, a, b, c } => {
                let (a, b, c) = (s32(a), s32(b), s32(c));
                let f = |l: usize| {
                    float::halves(ty, [a[l], b[l], c[l]], |[a, b, c]| {
                        float::half_fma(ty, m, a, b, c)
                    })
                };
                w.regs.set32(d, exec, &each(f));
            }
            Op::Cvt { c, d, a } => {
                let a = s64(a);
                w.regs.set64(d, exec, &each(|l| cvt(c, a[l])));
            }
            Op::CvtPack { c, d, a, b } => {
                let (a, b) = (s32(a), s32(b));
                w.regs.set32(d, exec, &each(|l| cvt_pack(c, a[l], b[l])));
            }
            Op::CvtPackInt { to, d, a, b, c, .. } => {
                let (a, b, c) = (s32(a), s32(b), c.map_or([0; 32], s32));
                w.regs
                    .set32(d, exec, &each(|l| cvt_pack_int(to, a[l], b[l], c[l])));
            }
            _ => debug_assert!(false, "instruction without a function: {op:?}"),
        }
    }

    /// Runs an instruction of lanes that are together.
    pub(super) fn collective(
        &mut self,
        w: &mut Warp,
        exec: u32,
        op: &Op,
        masks: &Lanes<u32>,
    ) -> Step {
        match op {
            Op::Ldmatrix { trans, d, addr, .. } => return self.ldmatrix(w, *trans, d, *addr),
            Op::Stmatrix { trans, v, addr, .. } => return self.stmatrix(w, *trans, v, *addr),
            Op::Mma { shape, d, a, b, c } => {
                let get = |list: &[Src]| -> Vec<Lanes<u32>> {
                    list.iter().map(|&s| self.src32(w, s)).collect()
                };
                let (a, b, mut c) = (get(a), get(b), get(c));
                mma(*shape, &a, &b, &mut c);
                for (&reg, sums) in d.iter().zip(&c) {
                    w.regs.set32(reg, exec, sums);
                }
            }
            Op::Shfl {
                kind,
                d,
                p,
                a,
                b,
                c,
                ..
            } => return self.shfl(w, exec, *kind, *d, *p, *a, *b, *c, masks),
            Op::VotePred { kind, d, a, .. } => self.vote(w, exec, *kind, *d, *a, masks),
            Op::Ballot { d, a, .. } => self.ballot(w, exec, *d, *a, masks),
            Op::MatchAny { d, a, .. } => self.match_lanes(w, exec, *d, None, *a, masks),
            Op::MatchAll { d, p, a, .. } => self.match_lanes(w, exec, *d, Some(*p), *a, masks),
            Op::Redux {
                op, signed, d, a, ..
            } => self.redux(w, exec, *op, *signed, *d, *a, masks),
            Op::ElectSync { d, p, .. } => {
                for lane in lanes(exec) {
                    let leader = (masks[lane] & exec).trailing_zeros();
                    w.regs.set_lane(*d, lane, leader.into());
                    w.regs.set_pred(
                        *p,
                        1 << lane,
                        if leader as usize == lane {
                            1 << lane
                        } else {
                            0
                        },
                    );
                }
            }
            Op::Hopper(h) => return self.hopper(w, exec, h),
            _ => {}
        }
        Ok(())
    }

    fn assert_fail(&mut self, w: &mut Warp, exec: u32, message: u32, file: u32, line: u32) -> Step {
        let lane = exec.trailing_zeros() as usize;
        let mut number = [0u8; 4];
        let known = w.local.read(lane, line.into(), &mut number).is_ok();
        let text = |at: u32| {
            let mut pointer = [0u8; 8];
            w.local.read(lane, at.into(), &mut pointer).ok()?;
            let start = u64::from_le_bytes(pointer);
            let mut bytes = Vec::new();
            for i in 0..256 {
                let mut byte = [0u8];
                self.env.memory.read(start + i, &mut byte).ok()?;
                if byte[0] == 0 {
                    break;
                }
                bytes.push(byte[0]);
            }
            String::from_utf8(bytes).ok()
        };
        let (message, file) = (
            text(message).unwrap_or_default(),
            text(file).unwrap_or_default(),
        );
        let line = if known { u32::from_le_bytes(number) } else { 0 };
        stop(
            lane,
            FaultKind::Assert(format!("{message} ({file}:{line})")),
        )
    }
}

fn set<W: int::Word>(w: &mut Warp, exec: u32, d: crate::ptx::ir::Reg, v: &Lanes<W>) {
    w.regs.set64(d, exec, &each(|l| v[l].into()));
}
