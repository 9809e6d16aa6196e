//! config.json as Python writes it: JSON, and `NaN`, `Infinity`, `-Infinity` for floats that JSON does not have.

use serde_json::Value;
use std::ops::Range;

/// The names of floats that Python writes and JSON does not have.
const NAMES: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// The value of a text, `null` where it has a float that JSON does not have.
pub(super) fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).or_else(|e| match named_floats(text) {
        names if names.is_empty() => Err(e),
        names => {
            let mut plain = String::with_capacity(text.len());
            let mut at = 0;
            for name in names {
                plain.push_str(&text[at..name.start]);
                plain.push_str("null");
                at = name.end;
            }
            plain.push_str(&text[at..]);
            serde_json::from_str(&plain)
        }
    })
}

/// Where the names stand, outside of strings.
fn named_floats(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut found, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        if bytes[i] == b'"' {
            i = string_end(bytes, i);
            continue;
        }
        let rest = &bytes[i..];
        match NAMES.iter().find(|name| rest.starts_with(name.as_bytes())) {
            Some(name) => {
                found.push(i..i + name.len());
                i += name.len();
            }
            None => i += 1,
        }
    }
    found
}

/// The place after the string that starts at `i`.
fn string_end(bytes: &[u8], mut i: usize) -> usize {
    i += 1;
    while let Some(b) = bytes.get(i) {
        match b {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

/// An object's text with the member `key` in place of those named `replaced`, at its end; all others stay as they are
/// written, to the byte. `None` when the text is no object.
pub(super) fn with_member(
    text: &str,
    replaced: &[&str],
    key: &str,
    value: &Value,
) -> Option<String> {
    let (members, close) = members(text)?;
    let open = text.find('{')?;
    let mut out = text[..=open].to_string();
    let kept = members
        .iter()
        .filter(|(name, _)| !replaced.contains(&name.as_str()) && name != key);
    for (_, place) in kept {
        out.push_str(text[place.clone()].trim_end());
        out.push(',');
    }
    let value = format!("{value:#}").replace('\n', "\n  ");
    let key = Value::from(key);
    out.push_str(&format!("\n  {key}: {value}\n"));
    out.push_str(text[close..].trim_end());
    out.push('\n');
    Some(out)
}

/// The members of an object, which is well formed, and the place of its closing brace.
type Members = (Vec<(String, Range<usize>)>, usize);

fn members(text: &str) -> Option<Members> {
    let bytes = text.as_bytes();
    let (mut depth, mut found) = (0usize, Vec::new());
    let mut i = text.find('{')?;
    let mut start = i + 1;
    let member = |place: Range<usize>| {
        let written = text[place.clone()].trim_start();
        let key = &written[..string_end(written.as_bytes(), 0).min(written.len())];
        serde_json::from_str(key)
            .ok()
            .map(|key: String| (key, place))
    };
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                i = string_end(bytes, i);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 || depth == 1 && bytes[i] == b',' {
            // An empty object has no member before its end.
            if depth == 1 || !text[start..i].trim().is_empty() {
                found.push(member(start..i)?);
            }
            start = i + 1;
        }
        if depth == 0 {
            return Some((found, i));
        }
        i += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_writes_is_parsed() {
        let text = r#"{"a": [0.0, Infinity, -Infinity], "NaN": NaN, "s": "Infinity \" NaN"}"#;
        let want = json!({"a": [0.0, null, null], "NaN": null, "s": "Infinity \" NaN"});
        assert_eq!(parse(text).unwrap(), want);
        for bad in [
            "{",
            "{\"a\": Infinite}",
            "{\"a\": nan}",
            "",
            "{\"a\": \"Infinity}",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_member_is_put_in_and_the_others_stay_as_written() {
        let text = "{\n  \"z\": [1e-05, Infinity, {\"q\": \"},\\\"\"}],\n  \"q\": null,\n  \"a\": 100000000000000000001\n}";
        let out = with_member(text, &["old"], "q", &json!({"x": [1]})).unwrap();
        let want = "{\n  \"z\": [1e-05, Infinity, {\"q\": \"},\\\"\"}],\n  \"a\": 100000000000000000001,\n  \"q\": {\n    \"x\": [\n      1\n    ]\n  }\n}\n";
        assert_eq!(out, want);
        assert_eq!(
            with_member("{ }", &[], "q", &json!(1)).unwrap(),
            "{\n  \"q\": 1\n}\n"
        );
        let out = with_member("{\"old\":1,\"b\":{}}", &["old"], "q", &json!(2)).unwrap();
        assert_eq!(parse(&out).unwrap(), json!({"b": {}, "q": 2}));
        assert_eq!(with_member("[1]", &[], "q", &json!(1)), None);
        assert_eq!(with_member("{\"a\": 1", &[], "q", &json!(1)), None);
    }
}
