//! Where a quantisation config stands, and which of its keys are understood.

use super::error::shortened;
use super::scheme::Refusal;
use serde_json::Value;

/// The head of a quantisation config, in messages: [`OpenOptions`](super::OpenOptions) leaves out keys that stand there.
pub(super) const HEAD: &str = "quantization_config";

/// A JSON value in a message.
pub(super) fn show(value: &Value) -> String {
    shortened(&value.to_string())
}

/// Whether a value says nothing.
pub(super) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Refuses the first key of an object that is not known and says something.
pub(super) fn refuse_unknown(what: &str, of: &Value, known: &[&str]) -> Result<(), Refusal> {
    let mut keys = of.as_object().into_iter().flatten();
    match keys.find(|(key, value)| !known.contains(&key.as_str()) && !says_nothing(value)) {
        None => Ok(()),
        Some((key, value)) => {
            // What stands deeper goes with its key at the head alone.
            let leave = match what {
                HEAD => " (OpenOptions::ignore_keys, or --ignore, leaves one out)",
                _ => "",
            };
            Err((
                format!("{what}.{} {}", shortened(key), show(value)),
                format!("keys that are known: {}{leave}", known.join(", ")),
            ))
        }
    }
}

/// The quantisation config of a model's config: at its head or in a part of it (`text_config`), under its own name or the
/// older `compression_config`, which may hold one more level.
///
/// Several that say the same are one; several that differ are refused.
pub(super) fn find(config: &Value) -> Result<Option<Value>, Refusal> {
    let mut found: Vec<(String, &Value)> = Vec::new();
    collect(config, "", 0, &mut found);
    let Some((first, value)) = found.first() else {
        return Ok(None);
    };
    match found.iter().find(|(_, other)| other != value) {
        None => Ok(Some((*value).clone())),
        Some((second, _)) => Err((
            format!("{first} and {second}, which differ"),
            "one quantisation config".into(),
        )),
    }
}

fn collect<'v>(of: &'v Value, path: &str, depth: usize, found: &mut Vec<(String, &'v Value)>) {
    // Deeper than any model's parts.
    if depth > 6 {
        return;
    }
    for (key, value) in of.as_object().into_iter().flatten() {
        let path = match path {
            "" => key.clone(),
            _ => format!("{path}.{key}"),
        };
        match key.as_str() {
            "quantization_config" | "compression_config" if value.is_null() => {}
            "quantization_config" => found.push((path, value)),
            "compression_config" => match value.get("quantization_config") {
                Some(inner) if !inner.is_null() => found.push((path, inner)),
                _ if value.get("sparsity_config").is_some()
                    && value.get("config_groups").is_none() => {}
                _ => found.push((path, value)),
            },
            _ => collect(value, &path, depth + 1, found),
        }
    }
}
