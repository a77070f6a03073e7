//! Numbers for people: counts whole, measurements with three significant digits, rates with their intervals.

use serde_json::Value;

/// Significant digits of a measurement.
const DIGITS: i32 = 3;

/// A measurement smaller than this one is shown with an exponent.
const SMALLEST: f64 = 1e-3;

/// `value` by itself.
pub(super) fn one(value: &Value) -> String {
    row(&[Some(value)]).pop().unwrap_or_default()
}

/// The values of one row of a table: measurements have as many decimals as the largest of them deserves, so that they can
/// be compared by eye. What is not there is empty.
pub(super) fn row(values: &[Option<&Value>]) -> Vec<String> {
    let measured = values.iter().flatten().filter(|value| value.is_f64()).filter_map(|value| value.as_f64());
    let largest = measured.fold(0.0, |largest: f64, value| largest.max(value.abs()));
    values.iter().map(|value| value.map_or_else(String::new, |value| cell(value, largest))).collect()
}

/// Whether `value` is a count of nothing.
pub(super) fn is_nothing(value: &Value) -> bool {
    value.as_u64() == Some(0)
}

fn cell(value: &Value, largest: f64) -> String {
    match value {
        Value::Number(number) if number.is_f64() => measurement(number.as_f64().unwrap_or_default(), largest),
        Value::String(text) => text.clone(),
        Value::Object(_) => rate(value).unwrap_or_else(|| value.to_string()),
        Value::Null => "-".into(),
        _ => value.to_string(),
    }
}

fn measurement(value: f64, largest: f64) -> String {
    if value == 0.0 && largest == 0.0 {
        return "0".into();
    }
    if largest < SMALLEST {
        return format!("{value:.*e}", DIGITS as usize - 1);
    }
    let before_the_point = largest.log10().floor() as i32 + 1;
    format!("{value:.*}", (DIGITS - before_the_point).max(0) as usize)
}

/// A rate with its interval: `0.50 [0.31, 0.69]`.
fn rate(value: &Value) -> Option<String> {
    let number = |name: &str| value.get(name)?.as_f64();
    Some(format!("{:.2} [{:.2}, {:.2}]", number("rate")?, number("low")?, number("high")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_has_the_digits_that_it_deserves() {
        for (value, expected) in [
            (json!(268), "268"),
            (json!(57_496_123), "57496123"),
            (json!(0.98046875), "0.980"),
            (json!(-0.033123), "-0.0331"),
            (json!(243.712), "244"),
            (json!(7731.4), "7731"),
            (json!(23.84), "23.8"),
            (json!(1.0), "1.00"),
            (json!(0.0), "0"),
            (json!(0.0000123), "1.23e-5"),
            (json!("row 7"), "row 7"),
            (json!(null), "-"),
            (json!({"rate": 0.5, "low": 0.3125, "high": 0.6875, "rows": 16}), "0.50 [0.31, 0.69]"),
        ] {
            assert_eq!(one(&value), expected);
        }
    }

    #[test]
    fn a_row_has_one_number_of_decimals() {
        let values = [json!(0.98), json!(0.0412345), json!(-1.0), json!(3)];
        let values: Vec<Option<&Value>> = values.iter().map(Some).chain([None]).collect();
        assert_eq!(row(&values), ["0.98", "0.04", "-1.00", "3", ""]);
    }
}
