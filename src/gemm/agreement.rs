//! What ranks that share a layer must agree on, written down so that they can compare it before they begin.

use std::fmt::Display;

/// Names and values, one a line, in one order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Agreement(Vec<(String, String)>);

impl Agreement {
    /// The same with one more thing to agree on.
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        // One line each: what separates them can't be inside.
        let value = value.to_string().replace(['\n', '\t'], " ");
        self.0.push((name.into(), value));
        self
    }

    /// How it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let lines = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}\t{value}"));
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Agreement(pairs.map(|(n, v)| (n.into(), v.into())).collect())
    }

    /// The first thing that two ranks say differently, of what all ranks sent; the same sentence on every rank.
    pub fn differences(all: &[Vec<u8>]) -> Result<(), String> {
        let mut all = all.iter().map(|bytes| Self::from_bytes(bytes)).enumerate();
        let Some((_, first)) = all.next() else {
            return Ok(());
        };
        for (rank, other) in all {
            let pairs = first.0.iter().zip(&other.0);
            let mut differing = pairs.filter(|(a, b)| a != b);
            if let Some(((name, a), (other, b))) = differing.next() {
                let of = if name == other {
                    name.clone()
                } else {
                    format!("{name} and {other}")
                };
                return Err(format!(
                    "ranks 0 and {rank} disagree about {of}: {a} and {b}"
                ));
            }
            if first.0.len() != other.0.len() {
                return Err(format!(
                    "ranks 0 and {rank} describe layers of different kinds"
                ));
            }
        }
        Ok(())
    }
}

/// 64 bits that stand for values which all ranks must have alike (FNV-1a).
pub(crate) fn digest(words: impl IntoIterator<Item = u32>) -> String {
    let bytes = words.into_iter().flat_map(u32::to_le_bytes);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("values of digest {hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_with_both_values() {
        let one = |k: usize, kind: &str| {
            let agreement = Agreement::default().with("the kind", kind);
            agreement.with("the inputs", k).to_bytes()
        };
        let all = [
            one(7, "row\nparallel"),
            one(7, "row parallel"),
            one(8, "row parallel"),
        ];
        assert_eq!(Agreement::differences(&all[..2]), Ok(()));
        let message = Agreement::differences(&all).unwrap_err();
        assert_eq!(message, "ranks 0 and 2 disagree about the inputs: 7 and 8");
        assert!(Agreement::differences(&[
            one(7, "a"),
            Agreement::default().with("the kind", "a").to_bytes()
        ])
        .is_err());
        assert_ne!(digest([1, 2]), digest([2, 1]));
    }
}
