//! Arithmetic of SQL: whole numbers and decimals exactly, with a sign whatever the columns' types, others in IEEE 754.

use super::syntax::Operator;
use super::value::{Type, Value};

/// What a result says that has no room in 128 bits.
const TOO_LARGE: &str = "a number has more than 38 digits";
const BY_ZERO: &str = "division by zero";

/// The number that a literal is: with a point a decimal, with an exponent a double.
pub(super) fn literal(text: &str) -> Value<'static> {
    let double = || Value::Double(text.parse().unwrap_or(f64::INFINITY));
    if text.contains(['e', 'E']) {
        return double();
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction}");
    match digits.parse() {
        Ok(number) if !text.contains('.') => Value::Int(number),
        Ok(units) if digits.len() <= 38 => Value::Decimal { units, scale: fraction.len() as u8 },
        _ => double(),
    }
}

/// Units and scale of two numbers that are whole or decimals, with one scale.
pub(super) fn aligned(a: &Value<'_>, b: &Value<'_>) -> Result<[(i128, u8); 2], String> {
    let (a, b) = (parts(a), parts(b));
    let scale = a.1.max(b.1);
    let widened = |(units, own): (i128, u8)| {
        let units = 10_i128.checked_pow(u32::from(scale - own)).and_then(|factor| units.checked_mul(factor));
        Ok::<_, String>((units.ok_or(TOO_LARGE)?, scale))
    };
    Ok([widened(a)?, widened(b)?])
}

fn parts(number: &Value<'_>) -> (i128, u8) {
    match number {
        Value::Int(units) => (*units, 0),
        Value::Decimal { units, scale } => (*units, *scale),
        _ => (0, 0),
    }
}

/// `a operator b` of two numbers of one type (whole numbers and decimals are one).
pub(super) fn arithmetic<'a>(operator: Operator, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, String> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => Ok(Value::Null),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(float(operator, *a, *b))),
        // Products and sums of two f32 are exact, or rounded harmlessly, in f64.
        (Value::Single(a), Value::Single(b)) => Ok(Value::Single(float(operator, f64::from(*a), f64::from(*b)) as f32)),
        (Value::Int(a), Value::Int(b)) => whole(operator, *a, *b).map(Value::Int),
        _ => decimal(operator, a, b),
    }
}

fn float(operator: Operator, a: f64, b: f64) -> f64 {
    match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Remainder => a % b,
        Operator::Power => a.powf(b),
        _ => a / b,
    }
}

fn whole(operator: Operator, a: i128, b: i128) -> Result<i128, String> {
    if b == 0 && matches!(operator, Operator::IntegerDivide | Operator::Remainder) {
        return Err(BY_ZERO.to_owned());
    }
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::IntegerDivide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.ok_or_else(|| TOO_LARGE.to_owned())
}

fn decimal<'a>(operator: Operator, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, String> {
    if operator == Operator::Multiply {
        let ((a, a_scale), (b, b_scale)) = (parts(a), parts(b));
        let units = a.checked_mul(b).ok_or(TOO_LARGE)?;
        return Ok(Value::Decimal { units, scale: a_scale + b_scale });
    }
    let [(a, scale), (b, _)] = aligned(a, b)?;
    whole(operator, a, b).map(|units| Value::Decimal { units, scale })
}

/// `-number`.
pub(super) fn negated(number: Value<'_>) -> Result<Value<'_>, String> {
    let turned = |units: i128| units.checked_neg().ok_or(TOO_LARGE);
    Ok(match number {
        Value::Int(number) => Value::Int(turned(number)?),
        Value::Decimal { units, scale } => Value::Decimal { units: turned(units)?, scale },
        Value::Single(number) => Value::Single(-number),
        Value::Double(number) => Value::Double(-number),
        other => other,
    })
}

/// `number` as a value of the numeric type `to`, which is not below its own.
pub(super) fn widened<'a>(number: Value<'a>, to: &Type) -> Value<'a> {
    match (to, &number) {
        (Type::Double, _) => double(&number).map_or(number, Value::Double),
        (Type::Single, Value::Int(int)) => Value::Single(*int as f32),
        (Type::Single, Value::Decimal { .. }) => {
            double(&number).map_or(Value::Null, |number| Value::Single(number as f32))
        }
        _ => number,
    }
}

/// The number as a double; none of what is no number.
pub(super) fn double(number: &Value<'_>) -> Option<f64> {
    match number {
        Value::Int(number) => Some(*number as f64),
        Value::Decimal { units, scale } => Some(*units as f64 / 10_f64.powi(i32::from(*scale))),
        Value::Single(number) => Some(f64::from(*number)),
        Value::Double(number) => Some(*number),
        _ => None,
    }
}

/// How a number loses its fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// Half away from zero.
    Half,
    Down,
    Up,
    TowardsZero,
}

/// `number` without its fraction; of a whole number `floor` and `ceil` make a double.
pub(super) fn rounded(rounding: Rounding, number: Value<'_>) -> Value<'_> {
    let float = |number: f64| match rounding {
        Rounding::Half => number.round(),
        Rounding::Down => number.floor(),
        Rounding::Up => number.ceil(),
        Rounding::TowardsZero => number.trunc(),
    };
    match number {
        Value::Int(int) if matches!(rounding, Rounding::Down | Rounding::Up) => Value::Double(int as f64),
        Value::Decimal { units, scale } => Value::Decimal { units: divided(rounding, units, scale), scale: 0 },
        Value::Single(number) => Value::Single(float(f64::from(number)) as f32),
        Value::Double(number) => Value::Double(float(number)),
        other => other,
    }
}

/// `units / 10^places`, rounded.
pub(super) fn divided(rounding: Rounding, units: i128, places: u8) -> i128 {
    let Some(factor) = 10_i128.checked_pow(u32::from(places)) else { return 0 };
    let (quotient, rest) = (units / factor, units % factor);
    match rounding {
        Rounding::Half if rest.unsigned_abs() >= factor.unsigned_abs().div_ceil(2) => quotient + rest.signum(),
        Rounding::Down if rest < 0 => quotient - 1,
        Rounding::Up if rest > 0 => quotient + 1,
        _ => quotient,
    }
}

/// `number` with `places` behind the point, half away from zero; `places` below 0 are in front of it.
pub(super) fn rounded_to<'a>(number: Value<'a>, places: i128) -> Value<'a> {
    let places = places.clamp(-40, 40) as i32;
    let float = |number: f64| {
        let factor = 10_f64.powi(places.abs());
        let rounded = if places < 0 { (number / factor).round() * factor } else { (number * factor).round() / factor };
        if rounded.is_finite() { rounded } else { number }
    };
    match number {
        Value::Int(int) if places < 0 => {
            let cut = -places as u8;
            let back = 10_i128.checked_pow(u32::from(cut)).unwrap_or_default();
            Value::Int(divided(Rounding::Half, int, cut).saturating_mul(back))
        }
        Value::Decimal { units, scale } if places >= i32::from(scale) => Value::Decimal { units, scale },
        Value::Decimal { units, scale } => {
            let kept = places.max(0) as u8;
            let cut = (i32::from(scale) - places) as u8;
            let back = 10_i128.checked_pow(u32::from(cut - (scale - kept))).unwrap_or_default();
            Value::Decimal { units: divided(Rounding::Half, units, cut).saturating_mul(back), scale: kept }
        }
        Value::Single(number) => {
            let factor = 10_f32.powi(places.abs());
            let rounded =
                if places < 0 { (number / factor).round() * factor } else { (number * factor).round() / factor };
            Value::Single(if rounded.is_finite() { rounded } else { number })
        }
        Value::Double(number) => Value::Double(float(number)),
        other => other,
    }
}

/// The whole number that a double is nearest to, halves to even; none beyond 128 bits.
pub(super) fn whole_of(number: f64) -> Option<i128> {
    let rounded = number.round_ties_even();
    (rounded.abs() < 1.7e38).then_some(rounded as i128)
}
