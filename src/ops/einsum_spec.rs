//! What an einsum specification says.

use crate::error::{Error, Result};
use std::fmt;

/// The name of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label {
    /// One that `...` stands for, counted from the right.
    Further(usize),
    Letter(char),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Letter(letter) => write!(f, "'{letter}'"),
            Label::Further(from_right) => {
                write!(f, "axis {} from the right of '...'", from_right + 1)
            }
        }
    }
}

/// A specification whose `...` has not been counted yet.
pub(crate) struct Parsed {
    operands: [Term; 2],
    /// `None` without an arrow.
    out: Option<Term>,
}

/// Letters, and where `...` stands among them.
#[derive(Clone)]
struct Term {
    letters: Vec<char>,
    further: Option<usize>,
}

/// Labels of each axis of the operands and of the result.
#[derive(Debug, PartialEq)]
pub(crate) struct Spec {
    pub operands: [Vec<Label>; 2],
    pub out: Vec<Label>,
}

impl Spec {
    /// Reads the text.
    pub fn parse(spec: &str) -> Result<Parsed> {
        let refuse = |expected: String| Error::Value {
            what: "the einsum specification",
            found: format!("{spec:?}"),
            expected,
        };
        let text: String = spec.chars().filter(|c| !c.is_whitespace()).collect();
        let (operands, out) = match text.split_once("->") {
            Some((operands, out)) => (operands, Some(out)),
            None => (&text[..], None),
        };
        let Some((a, b)) = operands.split_once(',').filter(|(_, b)| !b.contains(',')) else {
            return Err(refuse("two operands, as in 'ij,jk->ik'".into()));
        };
        let term = |text: &str| Term::parse(text).map_err(refuse);
        let operands = [term(a)?, term(b)?];
        let out = out.map(term).transpose()?;
        if let Some(out) = &out {
            let known = |l: &&char| !operands.iter().any(|o| o.letters.contains(l));
            if let Some(letter) = out.letters.iter().find(known) {
                return Err(refuse(format!(
                    "'{letter}' of the result in an operand too"
                )));
            }
            if out.further.is_none() && operands.iter().any(|o| o.further.is_some()) {
                return Err(refuse(
                    "'...' in the result, since an operand has it".into(),
                ));
            }
        }
        Ok(Parsed { operands, out })
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        let (letters, further) = match text.split_once("...") {
            None => (text.to_string(), None),
            Some((before, after)) => (format!("{before}{after}"), Some(before.chars().count())),
        };
        let letters: Vec<char> = letters.chars().collect();
        for (i, letter) in letters.iter().enumerate() {
            if !letter.is_ascii_alphabetic() {
                return Err(format!(
                    "letters, ',', '->' and '...' where '{letter}' stands"
                ));
            }
            if letters[..i].contains(letter) {
                return Err(format!("'{letter}' once in '{text}'"));
            }
        }
        Ok(Term { letters, further })
    }

    /// The labels of an operand whose `...` stands for `count` axes.
    fn labels(&self, count: usize) -> Vec<Label> {
        let mut labels: Vec<Label> = self.letters.iter().copied().map(Label::Letter).collect();
        if let Some(at) = self.further {
            labels.splice(at..at, (0..count).rev().map(Label::Further));
        }
        labels
    }
}

impl Parsed {
    /// The labels for operands of these ranks; or else what would have fitted.
    pub fn resolve(self, a: usize, b: usize) -> Result<Spec, String> {
        let count = |term: &Term, rank: usize, name: &str| {
            let letters = term.letters.len();
            match (rank.checked_sub(letters), term.further) {
                (Some(0), None) => Ok(0),
                (Some(more), Some(_)) => Ok(more),
                (_, further) => Err(format!(
                    "the {name} operand with {}{letters} axes, as the specification says",
                    if further.is_some() { "at least " } else { "" }
                )),
            }
        };
        let [ta, tb] = &self.operands;
        let (na, nb) = (count(ta, a, "left")?, count(tb, b, "right")?);
        let operands = [ta.labels(na), tb.labels(nb)];
        let further = na.max(nb);
        let out = match &self.out {
            Some(out) => out.labels(further),
            None => {
                let all = operands.iter().flatten();
                let mut letters: Vec<Label> = all
                    .filter(|l| matches!(l, Label::Letter(_)))
                    .filter(|l| !operands.iter().all(|o| o.contains(l)))
                    .copied()
                    .collect();
                letters.sort_unstable();
                (0..further)
                    .rev()
                    .map(Label::Further)
                    .chain(letters)
                    .collect()
            }
        };
        Ok(Spec { operands, out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<Label> {
        let label = |c: char| match c.to_digit(10) {
            Some(n) => Label::Further(n as usize),
            None => Label::Letter(c),
        };
        text.chars().map(label).collect()
    }

    #[test]
    fn dots_and_missing_results_are_filled_in() {
        for (spec, ranks, [a, b, out]) in [
            ("ij,jk->ki", (2, 2), ["ij", "jk", "ki"]),
            (" i j , j k ", (2, 2), ["ij", "jk", "ik"]),
            ("ba,bc", (2, 2), ["ba", "bc", "ac"]),
            ("...ij,jk->...ik", (4, 2), ["10ij", "jk", "10ik"]),
            ("i...,...i", (2, 3), ["i0", "10i", "10"]),
            (",->", (0, 0), ["", "", ""]),
        ] {
            let got = Spec::parse(spec)
                .unwrap()
                .resolve(ranks.0, ranks.1)
                .unwrap();
            assert_eq!(got.operands, [labels(a), labels(b)], "{spec}");
            assert_eq!(got.out, labels(out), "{spec}");
        }
    }

    #[test]
    fn bad_specifications_are_refused_with_the_reason() {
        for (spec, part) in [
            ("ij->ij", "two operands"),
            ("i,j,k->ijk", "two operands"),
            ("ii,ij->j", "'i' once"),
            ("ij,jk->ii", "'i' once"),
            ("ij,jk->il", "'l' of the result"),
            ("i1,1k->ik", "where '1' stands"),
            ("i.j,jk->ik", "where '.' stands"),
            ("...i,i->", "'...' in the result"),
        ] {
            let message = Spec::parse(spec).err().expect(spec).to_string();
            assert!(
                message.contains(part) && message.contains(spec),
                "{message}"
            );
        }
        let message = Spec::parse("ij,jk").unwrap().resolve(3, 2).unwrap_err();
        assert!(message.contains("left operand with 2 axes"), "{message}");
        let message = Spec::parse("ij...,jk").unwrap().resolve(1, 2).unwrap_err();
        assert!(message.contains("at least 2"), "{message}");
    }
}
