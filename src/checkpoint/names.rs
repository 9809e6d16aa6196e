//! Patterns over the names of layers.

use regex_lite::Regex;

/// A pattern over layer names.
///
/// | written | matches |
/// |---|---|
/// | `re:EXPR` | names whose start the regular expression matches, as in compressed-tensors |
/// | with `*`, `?` or `[` | names that the glob matches as a whole; `*` matches dots too |
/// | anything else | that name |
///
/// ```
/// use imma::checkpoint::NamePattern;
/// let pattern = |text: &str| text.parse::<NamePattern>().unwrap();
/// assert!(pattern("re:.*self_attn").matches("layers.0.self_attn.q_proj"));
/// assert!(pattern("*.q_proj").matches("layers.0.self_attn.q_proj"));
/// assert!(pattern("lm_head").matches("lm_head") && !pattern("lm_head").matches("x.lm_head"));
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
    /// Whether the pattern matches this name.
    pub fn matches(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Name => self.text == name,
            Kind::Glob(glob) => glob.matches(name),
            Kind::Regex(regex) => regex.is_match(name),
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
            Some(expr) => Kind::Regex(Regex::new(&format!("^(?:{expr})")).map_err(|e| {
                format!(
                    "found 're:{expr}', expected a regular expression without look-around ({e})"
                )
            })?),
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
