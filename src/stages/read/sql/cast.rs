//! CAST and TRY_CAST.

use chrono::{NaiveDate, NaiveDateTime};

use super::number::{self, Rounding, divided};
use super::value::{Type, Value};

/// What a value is cast to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A whole number within bounds.
    Int(i128, i128),
    Single,
    Double,
    Text,
    Bool,
    Date,
    Timestamp,
}

impl Target {
    /// The type that SQL calls `name`; none of others.
    pub(super) fn named(name: &str) -> Option<Self> {
        let int = |bits: u32| Self::Int(-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
        let unsigned = |bits: u32| Self::Int(0, (1 << bits) - 1);
        Some(match name {
            "TINYINT" | "INT1" => int(8),
            "SMALLINT" | "INT2" | "SHORT" => int(16),
            "INTEGER" | "INT" | "INT4" | "SIGNED" => int(32),
            "BIGINT" | "INT8" | "LONG" => int(64),
            "HUGEINT" => Self::Int(i128::MIN, i128::MAX),
            "UTINYINT" => unsigned(8),
            "USMALLINT" => unsigned(16),
            "UINTEGER" => unsigned(32),
            "UBIGINT" => unsigned(64),
            "REAL" | "FLOAT" | "FLOAT4" => Self::Single,
            "DOUBLE" | "FLOAT8" => Self::Double,
            "VARCHAR" | "TEXT" | "STRING" | "CHAR" => Self::Text,
            "BOOLEAN" | "BOOL" | "LOGICAL" => Self::Bool,
            "DATE" => Self::Date,
            "TIMESTAMP" | "DATETIME" => Self::Timestamp,
            _ => return None,
        })
    }

    pub(super) fn kind(self) -> Type {
        match self {
            Self::Int(..) => Type::Int,
            Self::Single => Type::Single,
            Self::Double => Type::Double,
            Self::Text => Type::Text,
            Self::Bool => Type::Bool,
            Self::Date => Type::Date,
            Self::Timestamp => Type::Timestamp,
        }
    }

    /// Whether values of type `from` can be cast to it. Numbers with a fraction are no texts: every engine writes them in
    /// another way.
    pub(super) fn takes(self, from: &Type) -> bool {
        let is_number = from.rank().is_some();
        match self {
            _ if *from == Type::Null => true,
            Self::Int(..) | Self::Single | Self::Double => is_number || matches!(from, Type::Text | Type::Bool),
            Self::Text => matches!(from, Type::Text | Type::Int | Type::Bool | Type::Date),
            Self::Bool => matches!(from, Type::Bool | Type::Int | Type::Text),
            Self::Date => matches!(from, Type::Date | Type::Timestamp | Type::Text),
            Self::Timestamp => matches!(from, Type::Date | Type::Timestamp | Type::Text),
        }
    }
}

/// `value`, which is not null, as `target`.
///
/// # Errors
/// The value, where it cannot be.
pub(super) fn cast<'a>(value: Value<'a>, target: Target) -> Result<Value<'a>, String> {
    let shown = match &value {
        Value::Text(text) => format!("'{text}'"),
        value => number::double(value).map(|number| number.to_string()).unwrap_or_default(),
    };
    let cast = match target {
        Target::Int(low, high) => int(&value).filter(|int| (low..=high).contains(int)).map(Value::Int),
        Target::Double => double(&value).map(Value::Double),
        Target::Single => match &value {
            Value::Text(text) => parsed(text).map(Value::Single),
            Value::Int(int) => Some(Value::Single(*int as f32)),
            value => double(value).map(|number| Value::Single(number as f32)),
        },
        Target::Text => text(value),
        Target::Bool => truth(&value).map(Value::Bool),
        Target::Date => match value {
            Value::Text(text) => date(&text).map(Value::Date),
            Value::Timestamp(nanos) => Some(Value::Date(nanos.div_euclid(DAY) as i64)),
            value => Some(value),
        },
        Target::Timestamp => match value {
            Value::Text(text) => timestamp(&text).map(Value::Timestamp),
            Value::Date(days) => Some(Value::Timestamp(i128::from(days) * DAY)),
            value => Some(value),
        },
    };
    cast.ok_or_else(|| format!("{shown} cannot be cast to {}", target.kind()))
}

/// Nanoseconds of a day.
const DAY: i128 = 86_400_000_000_000;

fn int(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(int) => Some(*int),
        Value::Bool(bool) => Some(i128::from(*bool)),
        Value::Decimal { units, scale } => Some(divided(Rounding::Half, *units, *scale)),
        Value::Single(number) => number::whole_of(f64::from(*number)),
        Value::Double(number) => number::whole_of(*number),
        Value::Text(text) => int_of(text.trim_matches(is_space)),
        _ => None,
    }
}

/// Digits with a sign; with a point and an exponent they are rounded, half away from zero.
fn int_of(text: &str) -> Option<i128> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok().filter(|exponent: &i32| exponent.abs() < 1000)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = format!("{whole}{fraction}");
    if !is_digits(fraction) || !is_digits(digits.strip_prefix(['+', '-']).unwrap_or(&digits)) {
        return None;
    }
    let units: i128 = digits.parse().ok()?;
    let scale = fraction.len() as i32 - exponent;
    match u8::try_from(scale) {
        Ok(scale) => Some(divided(Rounding::Half, units, scale)),
        Err(_) if scale < 0 => units.checked_mul(10_i128.checked_pow(scale.unsigned_abs())?),
        Err(_) => Some(0),
    }
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Bool(bool) => Some(f64::from(u8::from(*bool))),
        Value::Text(text) => parsed(text),
        value => number::double(value),
    }
}

fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.trim_matches(is_space).parse().ok()
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

fn text(value: Value<'_>) -> Option<Value<'_>> {
    Some(Value::Text(match value {
        Value::Text(text) => text,
        Value::Int(int) => int.to_string().into(),
        Value::Bool(bool) => bool.to_string().into(),
        Value::Date(days) => epoch()?.checked_add_signed(chrono::Duration::try_days(days)?)?.to_string().into(),
        _ => return None,
    }))
}

fn truth(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(bool) => Some(*bool),
        Value::Int(int) => Some(*int != 0),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Some(true),
            "false" | "f" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn epoch() -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(1970, 1, 1)
}

fn date(text: &str) -> Option<i64> {
    let date = NaiveDate::parse_from_str(text.trim_matches(is_space), "%Y-%m-%d").ok()?;
    Some(date.signed_duration_since(epoch()?).num_days())
}

fn timestamp(text: &str) -> Option<i128> {
    if let Some(days) = date(text) {
        return Some(i128::from(days) * DAY);
    }
    let text = text.trim_matches(is_space).replacen('T', " ", 1);
    let time = NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f").ok()?.and_utc();
    Some(i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos()))
}
