//! Rules that a launch may be let off: what the PTX ISA leaves open and other people's compilers rely on. Without saying so
//! nothing is.

/// A rule of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `init-fence`: an mbarrier on which bulk copies complete needs `fence.mbarrier_init` or `fence.proxy.async` after its
    /// initialisation.
    InitFence,
    /// `same-value`: two warps may not touch one shared byte unordered when one writes it, not even what it holds already.
    SameValue,
    /// `unused-shared`: shared bytes that nobody wrote can't be read, even if what was read is not used.
    UnusedShared,
    /// `wide-parity`: the parity that a wait asks for is 0 or 1.
    WideParity,
    /// `one-setmaxnreg`: the warps of a warpgroup run one setmaxnreg, not several that ask for the same.
    OneSetmaxnreg,
}

impl Rule {
    /// Every rule with its name.
    pub const ALL: [(&'static str, Rule); 5] = [
        ("init-fence", Rule::InitFence),
        ("same-value", Rule::SameValue),
        ("unused-shared", Rule::UnusedShared),
        ("wide-parity", Rule::WideParity),
        ("one-setmaxnreg", Rule::OneSetmaxnreg),
    ];

    /// The rule of that name.
    pub fn named(name: &str) -> Option<Rule> {
        Self::ALL.iter().find(|r| r.0 == name).map(|r| r.1)
    }
}

/// The rules that a launch is let off; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relaxed(u8);

impl Relaxed {
    /// No rule relaxed.
    pub const NONE: Relaxed = Relaxed(0);

    /// One rule more.
    #[must_use]
    pub fn and(self, rule: Rule) -> Self {
        Relaxed(self.0 | 1 << rule as u8)
    }

    /// Whether this rule does not hold.
    pub fn has(self, rule: Rule) -> bool {
        self.0 >> (rule as u8) & 1 == 1
    }
}
