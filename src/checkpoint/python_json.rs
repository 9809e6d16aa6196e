//! JSON as Python's `json` writes it: with `Infinity`, `-Infinity` and `NaN` where a number stands.
//!
//! `serde_json` has no such values, so each is a marked string between reading and writing.

use serde_json::Value;

/// A control character that no text has in front of these words.
const MARK: char = '\u{1}';

const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads a text; words that stand for numbers become marked strings.
pub(super) fn parse(text: &str) -> serde_json::Result<Value> {
    if !WORDS.iter().any(|word| text.contains(word)) {
        return serde_json::from_str(text);
    }
    let mut plain = String::with_capacity(text.len() + 64);
    let mut rest = text;
    let mut quoted = false;
    while let Some(c) = rest.chars().next() {
        if !quoted {
            if let Some(word) = WORDS.iter().find(|word| rest.starts_with(**word)) {
                plain.push_str(&format!("\"\\u0001{word}\""));
                rest = &rest[word.len()..];
                continue;
            }
        }
        let mut length = c.len_utf8();
        if quoted && c == '\\' {
            length += rest[1..].chars().next().map_or(0, char::len_utf8);
        } else if c == '"' {
            quoted = !quoted;
        }
        plain.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    serde_json::from_str(&plain)
}

/// Writes a value as people read it, marked strings as the words they were.
pub(super) fn pretty(value: &Value) -> String {
    let mut text = format!("{value:#}");
    for word in WORDS {
        text = text.replace(&format!("\"\\u{:04x}{word}\"", u32::from(MARK)), word);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_python_are_read_and_written_back() {
        let text = r#"{"a": [0.0, Infinity], "b": -Infinity, "c \" NaN": NaN, "d": "say \"Infinity\" \\"}"#;
        let value = parse(text).unwrap();
        assert_eq!(value["d"], "say \"Infinity\" \\");
        let written = pretty(&value);
        assert!(written.contains("\"b\": -Infinity"), "{written}");
        assert!(written.contains("\"c \\\" NaN\": NaN"), "{written}");
        assert_eq!(parse(&written).unwrap(), value);
        for bad in [
            "{\"a\": Infinityy}",
            "NaN NaN",
            "\"\\",
            "{\"a\": nan}",
            "\"Infinity",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
