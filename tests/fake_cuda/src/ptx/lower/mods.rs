//! Modifiers of an opcode: each must be understood by someone, or the instruction is refused.
use crate::ptx::ast::Ty;
use crate::ptx::ir::{FloatMods, Round};

/// The dot-separated rest of an opcode, consumed bit by bit.
pub struct Mods<'a> {
    rest: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    /// Splits an opcode into its root and its modifiers.
    pub fn split(opcode: &'a str) -> (&'a str, Mods<'a>) {
        let mut parts = opcode.split('.');
        let root = parts.next().unwrap_or("");
        (
            root,
            Mods {
                rest: parts.collect(),
            },
        )
    }

    /// Takes `name` if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        match self.rest.iter().position(|&m| m == name) {
            Some(i) => {
                self.rest.remove(i);
                true
            }
            None => false,
        }
    }

    /// Takes the first modifier that `known` recognises.
    pub fn pick<T>(&mut self, known: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (i, value) = self
            .rest
            .iter()
            .enumerate()
            .find_map(|(i, m)| known(m).map(|v| (i, v)))?;
        self.rest.remove(i);
        Some(value)
    }

    /// Takes the next type.
    pub fn ty(&mut self) -> Option<Ty> {
        self.pick(Ty::parse)
    }

    /// Takes everything that only steers caches or asserts nothing.
    pub fn drop_hints(&mut self) -> bool {
        let before = self.rest.len();
        self.rest.retain(|m| {
            !(m.starts_with("L1::") || (m.starts_with("L2::") && *m != "L2::cache_hint"))
        });
        for hint in ["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc"] {
            self.flag(hint);
        }
        before != self.rest.len()
    }

    /// Takes memory-ordering modifiers. Every access of the emulator is at least as strong.
    pub fn drop_ordering(&mut self) {
        for m in [
            "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "sc", "mmio", "cta",
            "cluster", "gpu", "sys", "noftz",
        ] {
            self.flag(m);
        }
    }

    /// Takes `.ftz`, `.sat`, `.relu` and the rounding.
    pub fn float(&mut self) -> FloatMods {
        FloatMods {
            ftz: self.flag("ftz"),
            sat: self.flag("sat"),
            relu: self.flag("relu"),
            round: self.round().unwrap_or(Round::Rn),
        }
    }

    /// Takes a float rounding.
    pub fn round(&mut self) -> Option<Round> {
        self.pick(|m| match m {
            "rn" => Some(Round::Rn),
            "rz" => Some(Round::Rz),
            "rm" => Some(Round::Rm),
            "rp" => Some(Round::Rp),
            "rna" => Some(Round::Rna),
            _ => None,
        })
    }

    /// What nobody took.
    pub fn rest(&self) -> &[&'a str] {
        &self.rest
    }
}
