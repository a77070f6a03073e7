//! Values as a line of YAML, in the style of the shipped pipelines.

use serde_json::Value;

/// `value` in flow style.
pub fn flow(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => float(number),
            None => number.to_string(),
        },
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => {
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{}: {}", scalar(key), flow(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// A number with a point, which every YAML reads as one: `1e-6` is text in YAML 1.1.
fn float(number: f64) -> String {
    if number == 0.0 || number.abs() >= 1e-3 {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0e{exponent}"),
        _ => text,
    }
}

/// Text, in quotes where it would be read as something else.
fn scalar(text: &str) -> String {
    let is_word = ["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_lowercase().as_str());
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@".contains(c))
        && !text.ends_with(':');
    if is_plain && !is_word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tree::Node;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_again() {
        let value = json!({
            "a": [1, 2.0, 5e-7, 1.5e-8, 0.1, -0.5, 0.0, 1e30], "on": "no", "path": "hf://org/name@main", "text": "{x}\n\"y\": é",
            "like": ["12", "1e-6", "~", "", "- x", "# x", "a: b", "x:"], "none": null, "map": {}, "is": true,
        });
        let written = flow(&value);
        assert!(!written.contains('\n'), "{written}");
        assert_eq!(Node::parse(&written).unwrap().to_json(), value, "{written}");
        assert_eq!(flow(&json!([1e-6, 2.0, 0.03])), "[1.0e-6, 2.0, 0.03]");
    }
}
