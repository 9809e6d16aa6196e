//! BERT's tokenizer, uncased: cleaned, lowercased, accents stripped, split at punctuation, then WordPiece.

use std::collections::HashMap;
use std::path::Path;
use unicode_normalization::char::is_combining_mark;
use unicode_normalization::UnicodeNormalization;

/// A vocabulary, longest match first.
pub struct WordPiece {
    ids: HashMap<String, u32>,
    special: [u32; 3],
}

/// How many tokens a sentence may have, with the two around it.
pub const MAX_TOKENS: usize = 256;

impl WordPiece {
    /// Reads vocab.txt: one token per line, numbered by lines.
    pub fn open(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let ids: HashMap<String, u32> = (0..)
            .zip(text.lines())
            .map(|(i, t)| (t.into(), i))
            .collect();
        let id = |token: &str| {
            let id = ids.get(token).copied();
            id.ok_or_else(|| format!("{}: no {token}", path.display()))
        };
        let special = [id("[CLS]")?, id("[SEP]")?, id("[UNK]")?];
        Ok(WordPiece { ids, special })
    }

    /// `[CLS] tokens [SEP]`.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let [start, end, _] = self.special;
        let mut out = vec![start];
        for word in words(text) {
            self.word(&word, &mut out);
        }
        out.truncate(MAX_TOKENS - 1);
        out.push(end);
        out
    }

    fn word(&self, word: &str, out: &mut Vec<u32>) {
        let start = out.len();
        let unknown = |out: &mut Vec<u32>| {
            out.truncate(start);
            out.push(self.special[2]);
        };
        if word.chars().count() > 100 {
            return unknown(out);
        }
        let mut rest = word;
        while !rest.is_empty() {
            let first = rest.len() == word.len();
            let ends = rest.char_indices().map(|(i, c)| i + c.len_utf8()).rev();
            let found = ends.into_iter().find_map(|end| {
                let piece = &rest[..end];
                let id = if first {
                    self.ids.get(piece)
                } else {
                    self.ids.get(&format!("##{piece}"))
                };
                id.map(|id| (end, *id))
            });
            match found {
                Some((end, id)) => {
                    out.push(id);
                    rest = &rest[end..];
                }
                None => return unknown(out),
            }
        }
    }
}

/// Words and single marks of punctuation, as BERT's basic tokenizer splits them.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let lower = text.chars().flat_map(char::to_lowercase);
    for c in lower.nfd().filter(|c| !is_combining_mark(*c)) {
        if c.is_whitespace() {
            words.push(String::new());
        } else if c == '\0' || c == '\u{fffd}' || c.is_control() {
            // Dropped.
        } else if is_punctuation(c) || is_cjk(c) {
            words.extend([c.to_string(), String::new()]);
        } else {
            words.last_mut().expect("never empty").push(c);
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

/// ASCII that is neither letter nor digit, and the general punctuation of other scripts.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c as u32, 0xa1 | 0xa7 | 0xab | 0xb6 | 0xb7 | 0xbb | 0xbf | 0x2010..=0x2027 | 0x2030..=0x205e
            | 0x3001..=0x3003 | 0x3008..=0x3011 | 0x3014..=0x301f)
}

fn is_cjk(c: char) -> bool {
    matches!(c as u32, 0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}
