//! mbarriers, clusters, warpgroup instructions.
use super::convert::space;
use super::mods::Mods;
use super::{Lowered, Lowerer};
use crate::ptx::ast::{Operand, Ty};
use crate::ptx::ir::{Hopper, Op, Order, Phase, Reg, Space, Src, WgmmaA, WgmmaShape};

/// Wraps an instruction.
pub(super) fn op(h: Hopper) -> Op {
    Op::Hopper(Box::new(h))
}

impl Lowerer<'_> {
    /// Refuses what the module's target doesn't have: `sm` and up, or `sm_90a` itself.
    pub(super) fn needs_target(&self, what: &str, sm: u32, exact: bool) -> Lowered<()> {
        let target = &self.ast.target;
        let digits: String = target.chars().filter(char::is_ascii_digit).collect();
        let have: u32 = digits.parse().unwrap_or(0);
        if have < sm || (exact && target != "sm_90a") {
            let want = if exact {
                String::from("sm_90a")
            } else {
                format!("sm_{sm} or higher")
            };
            return self.err(format!(
                "'{what}' needs .target {want}, the module says {target}"
            ));
        }
        Ok(())
    }

    fn shared_space(&self, m: &mut Mods) -> Lowered<Space> {
        match m.pick(space).unwrap_or(Space::Generic) {
            s @ (Space::Shared | Space::Cluster | Space::Generic) => Ok(s),
            other => self.err(format!("an mbarrier in {other:?} memory")),
        }
    }

    /// `.release`, `.acquire`, `.relaxed` and the scope, `.cta` where none is named.
    fn orders(&self, m: &mut Mods, strong: &str) -> Order {
        let relaxed = m.flag("relaxed");
        m.flag(strong);
        let (_block, cluster) = (m.flag("cta"), m.flag("cluster"));
        match (relaxed, cluster) {
            (true, _) => Order::Relaxed,
            (false, false) => Order::Block,
            (false, true) => Order::Cluster,
        }
    }

    pub(super) fn mbarrier(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Option<Op>> {
        self.needs_target("mbarrier", 80, false)?;
        let kind = m.pick(|s| {
            [
                "init",
                "inval",
                "arrive",
                "arrive_drop",
                "expect_tx",
                "complete_tx",
                "test_wait",
                "try_wait",
            ]
            .into_iter()
            .find(|k| *k == s)
        });
        let Some(kind) = kind else {
            return self.err(format!(
                "'mbarrier.{}' is not supported",
                m.rest().join(".")
            ));
        };
        let expect = m.flag("expect_tx");
        if expect || matches!(kind, "expect_tx" | "complete_tx" | "try_wait") {
            self.needs_target("mbarrier.expect_tx, complete_tx and try_wait", 90, false)?;
        }
        let strong = if kind.ends_with("wait") {
            "acquire"
        } else {
            "release"
        };
        let parity = m.flag("parity");
        let ordered = self.orders(m, strong);
        let space = self.shared_space(m)?;
        if m.ty() != Some(Ty::B64) {
            return self.err("an mbarrier is .b64");
        }
        if space == Space::Cluster && matches!(kind, "init" | "inval" | "test_wait" | "try_wait") {
            return self.err(format!(
                "mbarrier.{kind} works on the block's own shared memory only"
            ));
        }
        let h = match kind {
            "init" => {
                self.count(o, &[2])?;
                let (addr, count) = (self.addr(&o[0])?, self.src(&o[1], Ty::U32)?);
                Hopper::MbarrierInit { space, addr, count }
            }
            "inval" => {
                self.count(o, &[1])?;
                let addr = self.addr(&o[0])?;
                Hopper::MbarrierInval { space, addr }
            }
            "expect_tx" | "complete_tx" => {
                self.count(o, &[2])?;
                Hopper::MbarrierTx {
                    space,
                    addr: self.addr(&o[0])?,
                    bytes: self.src(&o[1], Ty::U32)?,
                    complete: kind == "complete_tx",
                }
            }
            "arrive" | "arrive_drop" => {
                self.count(o, if expect { &[3] } else { &[2, 3] })?;
                let d = self.reg(&o[0])?;
                if space == Space::Cluster && d != Reg::Sink {
                    return self.err("an arrival at .shared::cluster has no result: write _");
                }
                let third = o.get(2).map(|o| self.src(o, Ty::U32)).transpose()?;
                Hopper::MbarrierArrive {
                    space,
                    d,
                    addr: self.addr(&o[1])?,
                    count: third.filter(|_| !expect),
                    expect: third.filter(|_| expect),
                    drop: kind == "arrive_drop",
                    release: ordered,
                }
            }
            _ => {
                let patient = kind == "try_wait";
                // A time limit may follow; the emulator picks its own.
                self.count(o, if patient { &[3, 4] } else { &[3] })?;
                let what = self.src(&o[2], if parity { Ty::U32 } else { Ty::B64 })?;
                Hopper::MbarrierTest {
                    space,
                    d: self.pred_dst(&o[0])?,
                    addr: self.addr(&o[1])?,
                    phase: if parity {
                        Phase::Parity(what)
                    } else {
                        Phase::State(what)
                    },
                    acquire: ordered,
                    patient,
                }
            }
        };
        Ok(Some(op(h)))
    }

    /// `mapa` and `getctarank`.
    pub(super) fn cluster_address(
        &mut self,
        root: &str,
        m: &mut Mods,
        o: &[Operand],
    ) -> Lowered<Option<Op>> {
        self.needs_target(root, 90, false)?;
        let generic = !m.flag("shared::cluster");
        let Some(ty @ (Ty::U32 | Ty::U64)) = m.ty() else {
            return self.err(format!("{root} needs .u32 or .u64"));
        };
        if generic && ty == Ty::U32 && root == "mapa" {
            return self.err("mapa.u32 needs .shared::cluster");
        }
        if root == "mapa" {
            self.count(o, &[3])?;
            let (d, a, rank) = (
                self.reg(&o[0])?,
                self.src(&o[1], ty)?,
                self.src(&o[2], Ty::U32)?,
            );
            return Ok(Some(op(Hopper::Mapa {
                generic,
                d,
                a,
                rank,
            })));
        }
        self.count(o, &[2])?;
        let (d, a) = (self.reg(&o[0])?, self.src(&o[1], ty)?);
        Ok(Some(op(Hopper::GetCtaRank { generic, d, a })))
    }

    /// `barrier.cluster`, its root and `.cluster` taken.
    pub(super) fn cluster_barrier(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        self.needs_target("barrier.cluster", 90, false)?;
        self.count(o, &[0])?;
        let aligned = m.flag("aligned");
        if m.flag("arrive") {
            let release = !m.flag("relaxed");
            m.flag("release");
            return Ok(op(Hopper::ClusterArrive { aligned, release }));
        }
        if !m.flag("wait") {
            return self.err("unknown barrier.cluster");
        }
        m.flag("acquire");
        Ok(op(Hopper::ClusterWait { aligned }))
    }

    /// `fence`: only those of the async proxy and of mbarrier initialisation do anything here.
    pub(super) fn fence(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Op> {
        self.count(o, &[0])?;
        if m.rest().iter().any(|s| s.starts_with("proxy")) {
            if m.flag("proxy") && m.flag("async") {
                self.needs_target("fence.proxy.async", 90, false)?;
                if m.flag("global") {
                    return Ok(Op::Nop);
                }
                let _ = m.flag("shared::cta") | m.flag("shared::cluster");
                return Ok(op(Hopper::FenceProxyAsync));
            }
            if m.flag("alias") {
                return Ok(Op::Nop);
            }
            return self.err(format!(
                "'fence.proxy.{}' is not supported",
                m.rest().join(".")
            ));
        }
        if m.flag("mbarrier_init") {
            self.needs_target("fence.mbarrier_init", 90, false)?;
            if !(m.flag("release") && m.flag("cluster")) {
                return self.err("fence.mbarrier_init is .release.cluster");
            }
            return Ok(op(Hopper::FenceMbarrierInit));
        }
        m.drop_ordering();
        m.flag("gl");
        Ok(Op::Nop)
    }

    pub(super) fn wgmma(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Option<Op>> {
        self.needs_target("wgmma", 90, true)?;
        self.program.wgmma = true;
        let kind = m.pick(|s| {
            ["fence", "commit_group", "wait_group", "mma_async"]
                .into_iter()
                .find(|k| *k == s)
        });
        if !(m.flag("sync") && m.flag("aligned")) {
            return self.err("wgmma is .sync.aligned");
        }
        let h = match kind {
            Some("fence") => Hopper::WgmmaFence,
            Some("commit_group") => Hopper::WgmmaCommit,
            Some("wait_group") => {
                let [Operand::Int(keep @ 0..=7)] = o else {
                    return self.err("wgmma.wait_group needs a number from 0 to 7");
                };
                Hopper::WgmmaWait { keep: *keep as u32 }
            }
            Some(_) => self.mma_async(m, o)?,
            None => return self.err("unknown wgmma"),
        };
        Ok(Some(op(h)))
    }

    fn mma_async(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Hopper> {
        let n = m.pick(|s| {
            s.strip_prefix("m64n")?
                .strip_suffix("k32")?
                .parse::<u16>()
                .ok()
        });
        let satfinite = m.flag("satfinite");
        let types = [m.ty(), m.ty(), m.ty()];
        let (Some(n), [Some(Ty::S32), Some(at @ (Ty::S8 | Ty::U8)), Some(bt @ (Ty::S8 | Ty::U8))]) =
            (n, types)
        else {
            return self.err("only the s8/u8 forms of wgmma (m64nNk32, .s32 sums) are supported");
        };
        let fits = matches!(n, 8 | 24) || (n % 16 == 0 && (16..=256).contains(&n));
        if !fits {
            return self.err(format!(
                "wgmma with N = {n}: want 8, 24 or a multiple of 16 up to 256"
            ));
        }
        self.count(o, &[4])?;
        let accumulator = |l: &Self, r: Reg| match r {
            Reg::W32(i) => Ok(i),
            _ => l.err("a wgmma accumulator that is no 32-bit register"),
        };
        let d: Box<[u32]> = self
            .regs(&o[0])?
            .iter()
            .map(|&r| accumulator(self, r))
            .collect::<Lowered<_>>()?;
        if d.len() != usize::from(n) / 2 {
            return self.err(format!(
                "{} accumulators for N = {n}, expected {}",
                d.len(),
                n / 2
            ));
        }
        let a = match &o[1] {
            Operand::Vector(v) if v.len() == 4 => WgmmaA::Regs(self.srcs(&o[1], Ty::B32)?),
            Operand::Vector(v) => {
                return self.err(format!("{} registers of A, expected 4", v.len()))
            }
            descriptor => WgmmaA::Shared(self.src(descriptor, Ty::B64)?),
        };
        let b: Src = self.src(&o[2], Ty::B64)?;
        let shape = WgmmaShape {
            n,
            a_signed: at == Ty::S8,
            b_signed: bt == Ty::S8,
            satfinite,
        };
        Ok(Hopper::Wgmma {
            shape,
            d,
            a,
            b,
            scale_d: self.pred_src(&o[3])?,
        })
    }

    pub(super) fn setmaxnreg(&mut self, m: &mut Mods, o: &[Operand]) -> Lowered<Option<Op>> {
        self.needs_target("setmaxnreg", 90, true)?;
        let up = m.flag("inc");
        let known = up != m.flag("dec") && m.flag("sync") && m.flag("aligned");
        let (true, Some(Ty::U32), [Operand::Int(count)]) = (known, m.ty(), o) else {
            return self.err("setmaxnreg is .inc or .dec, .sync.aligned.u32, with a number");
        };
        if !(24..=256).contains(count) || count % 8 != 0 {
            return self.err(format!(
                "setmaxnreg {count}: want a multiple of 8 from 24 to 256"
            ));
        }
        if self.program.registers.is_none() {
            return self.err(
                "setmaxnreg in a kernel without .maxnreg or .maxntid: ptxas ignores it there",
            );
        }
        let count = *count as u32;
        Ok(Some(op(Hopper::SetMaxReg { up, count })))
    }
}
