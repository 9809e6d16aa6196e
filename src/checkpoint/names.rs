//! Patterns over the names of layers.

use fancy_regex::{Regex, RegexBuilder};

/// Steps that an expression with look-around may take on one name.
const BACKTRACKS: usize = 100_000;

/// Bytes of an expression.
const LONGEST: usize = 10_000;

/// The product of an expression's counted repetitions: the compiler multiplies them.
const REPETITIONS: usize = 100_000;

/// The product of the numbers in an expression's braces.
fn repetitions(expr: &str) -> usize {
    let braces = expr.split('{').skip(1).filter_map(|b| b.split('}').next());
    let numbers = braces.flat_map(|b| b.split(',')).map(str::trim);
    let counts = numbers.filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let counts = counts.map(|n| n.parse().unwrap_or(usize::MAX).max(1));
    counts.fold(1, usize::saturating_mul)
}

/// Bytes that an expression may compile to.
const COMPILED: usize = 1 << 20;

/// A pattern over layer names.
///
/// | written | matches |
/// |---|---|
/// | `re:EXPR` | names whose start the regular expression matches, as in compressed-tensors: Python's, with look-around |
/// | with `*`, `?` or `[` | names that the glob matches as a whole; `*` matches dots too |
/// | anything else | that name |
///
/// ```
/// use imma::checkpoint::NamePattern;
/// let pattern = |text: &str| text.parse::<NamePattern>().unwrap();
/// assert!(pattern("re:.*self_attn").matches("layers.0.self_attn.q_proj"));
/// assert!(pattern("*.q_proj").matches("layers.0.self_attn.q_proj"));
/// assert!(pattern("lm_head").matches("lm_head") && !pattern("lm_head").matches("x.lm_head"));
/// assert!(!pattern(r"re:(?!.*visual).*_proj$").matches("visual.q_proj"));
/// assert!("re:(a{99999}){99999}".parse::<NamePattern>().unwrap_err().contains("repetitions"));
/// assert!("re:(".parse::<NamePattern>().unwrap_err().contains("regular expression"));
/// ```
#[derive(Debug, Clone)]
pub struct NamePattern {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Name,
    Glob(glob::Pattern),
    Regex(Regex),
}

impl NamePattern {
    /// Whether the pattern matches this name; not where an expression takes more steps than it may to decide.
    pub fn matches(&self, name: &str) -> bool {
        self.try_matches(name).unwrap_or(false)
    }

    /// [`matches`](Self::matches), with an expression that can't decide as what was found and what was expected.
    pub(super) fn try_matches(&self, name: &str) -> Result<bool, (String, String)> {
        match &self.kind {
            Kind::Name => Ok(self.text == name),
            Kind::Glob(glob) => Ok(glob.matches(name)),
            Kind::Regex(regex) => regex.is_match(name).map_err(|_| {
                let text = super::error::shortened(&self.text);
                let found = format!("{text}, which backtracks without end");
                (found, "a regular expression that can be decided".into())
            }),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A pattern of a checkpoint, where only `re:` is special.
    pub(super) fn without_globs(text: &str) -> Result<Self, String> {
        let kind = match text.strip_prefix("re:") {
            None => Kind::Name,
            // Python's `re.match`: from the start on, not to the end.
            Some(expr) => {
                if expr.len() > LONGEST || repetitions(expr) > REPETITIONS {
                    let expr = super::error::shortened(expr);
                    let expected = "a regular expression of reasonable length and repetitions";
                    return Err(format!("found 're:{expr}', expected {expected}"));
                }
                let regex = RegexBuilder::new(&format!("^(?:{expr})"))
                    .backtrack_limit(BACKTRACKS)
                    .delegate_size_limit(COMPILED)
                    .delegate_dfa_size_limit(COMPILED)
                    .build();
                Kind::Regex(regex.map_err(|e| {
                    format!("found 're:{expr}', expected a regular expression ({e})")
                })?)
            }
        };
        Ok(NamePattern {
            text: text.into(),
            kind,
        })
    }
}

impl std::str::FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("re:") || !text.contains(['*', '?', '[']) {
            return Self::without_globs(text);
        }
        let glob = glob::Pattern::new(text)
            .map_err(|e| format!("found '{text}', expected a glob ({e})"))?;
        Ok(NamePattern {
            text: text.into(),
            kind: Kind::Glob(glob),
        })
    }
}
