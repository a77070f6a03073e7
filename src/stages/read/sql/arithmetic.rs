//! Arithmetic and casts. What has no value is null: a division of whole numbers by zero, a number beyond the bounds of its type.

use std::slice::from_ref;

use polars::prelude::{DataType, RoundMode};
use polars_lazy::dsl::{Expr, lit, ternary_expr};
use polars_lazy::prelude::NULL;
use sqlparser::ast::{BinaryOperator, DataType as Named};
use sqlparser::tokenizer::Location;

use super::cells::{Cell, by_rows};
use super::syntax::Wrong;
use super::text;
use super::translate::{Made, Typed};
use super::types::{Exact, Type, double, number, widened};

/// `left op right`; none where `op` is no arithmetic.
pub(super) fn arithmetic(op: &BinaryOperator, left: Typed, right: Typed) -> Option<Made> {
    use BinaryOperator::{Divide, DuckIntegerDivide, Minus, Modulo, Multiply, Plus};
    if !matches!(op, Plus | Minus | Multiply | Divide | DuckIntegerDivide | Modulo) {
        return None;
    }
    if let Some(side) = [&left, &right].into_iter().find(|side| !side.kind.is_number() && side.kind != Type::Null) {
        return Some(Err(side.wrong(format!("arithmetic takes numbers, and this is {}", side.kind))));
    }
    let (at, text) = (left.at, None);
    Some(match (&left.kind, &right.kind) {
        (Type::Null, kind) | (kind, Type::Null) => {
            let kind = if matches!(op, Divide) { Type::Double } else { kind.clone() };
            Ok(Typed { value: widened(lit(NULL), &Type::Null, &kind), kind, at, text })
        }
        (Type::Exact(a), Type::Exact(b)) if *op != Divide => exact(op, &left, *a, &right, *b),
        (a, b) => {
            let kind = match a.common(b) {
                Some(kind @ (Type::Single | Type::Double)) => kind,
                _ => Type::Double,
            };
            let (a, b) = (widened(left.value, a, &kind), widened(right.value, b, &kind));
            let value = match op {
                Plus => a + b,
                Minus => a - b,
                Multiply => a * b,
                Divide => a / b,
                Modulo => by_rows(&[a, b], &kind, |cells| match cells {
                    [Cell::Double(a), Cell::Double(b)] => Cell::Double(a % b),
                    _ => Cell::Null,
                }),
                _ => return Some(Err(Wrong::near(at, "`//` takes whole numbers").help("floor(a / b) takes others"))),
            };
            Ok(Typed { value, kind, at, text })
        }
    })
}

/// `left op right` of exact numbers, in a type that has room for both and for the result.
fn exact(op: &BinaryOperator, left: &Typed, a: Exact, right: &Typed, b: Exact) -> Made {
    let too_large =
        || left.wrong("this may have more than 38 digits").help("CAST(value AS DOUBLE) has room for less exact ones");
    let scale = a.scale.max(b.scale);
    let (from, to) = match op {
        BinaryOperator::Multiply => (a, b),
        _ => (a.rescaled(scale).ok_or_else(too_large)?, b.rescaled(scale).ok_or_else(too_large)?),
    };
    let most = |exact: Exact| exact.low.abs().max(exact.high.abs());
    let result = match op {
        BinaryOperator::Plus => Exact::new(scale, from.low + to.low, from.high + to.high),
        BinaryOperator::Minus => Exact::new(scale, from.low - to.high, from.high - to.low),
        BinaryOperator::Multiply => {
            let corners = [(a.low, b.low), (a.low, b.high), (a.high, b.low), (a.high, b.high)];
            let products: Option<Vec<i128>> = corners.iter().map(|(a, b)| a.checked_mul(*b)).collect();
            let products = products.ok_or_else(too_large)?;
            let ends = products.iter().min().zip(products.iter().max());
            ends.and_then(|(low, high)| Exact::new(a.scale + b.scale, *low, *high))
        }
        BinaryOperator::Modulo => {
            let most = most(from).min(most(to));
            Exact::new(scale, if from.low < 0 { -most } else { 0 }, most)
        }
        _ if scale > 0 => return Err(left.wrong("`//` takes whole numbers").help("floor(a / b) takes others")),
        _ => Exact::new(0, -most(from), most(from)),
    }
    .ok_or_else(too_large)?;
    let room = |exact: Exact| Exact::whole(exact.low, exact.high);
    let room = [room(to), room(result)].iter().fold(room(from), |all, kind| all.common(kind).unwrap_or(Type::Null));
    let (x, y) = (
        widened(left.value.clone(), &left.kind, &Type::Exact(from)),
        widened(right.value.clone(), &right.kind, &Type::Exact(to)),
    );
    let (x, y) = (x.cast(room.held()), y.cast(room.held()));
    let value = match op {
        BinaryOperator::Plus => x + y,
        BinaryOperator::Minus => x - y,
        BinaryOperator::Multiply => x * y,
        BinaryOperator::Modulo => by_rows(&[x, y], &room, |cells| match cells {
            [Cell::Int(x), Cell::Int(y)] if *y != 0 => Cell::Int(x % y),
            _ => Cell::Null,
        }),
        _ => by_rows(&[x, y], &room, |cells| match cells {
            [Cell::Int(x), Cell::Int(y)] if *y != 0 => Cell::Int(x / y),
            _ => Cell::Null,
        }),
    };
    let kind = Type::Exact(result);
    Ok(Typed { value: value.cast(kind.held()), kind, at: left.at, text: None })
}

/// `a ^ b`.
pub(super) fn power(sides: Vec<Typed>, at: Location) -> Made {
    let doubles = sides.into_iter().map(|side| as_double(side, "a power")).collect::<Result<Vec<_>, _>>()?;
    let value = by_rows(&doubles, &Type::Double, |cells| match cells {
        [Cell::Double(a), Cell::Double(b)] => Cell::Double(a.powf(*b)),
        _ => Cell::Null,
    });
    Ok(Typed { value, kind: Type::Double, at, text: None })
}

fn as_double(side: Typed, what: &str) -> Result<Expr, Wrong> {
    match side.kind.is_number() || side.kind == Type::Null {
        true => Ok(widened(side.value, &side.kind, &Type::Double)),
        false => Err(side.wrong(format!("{what} takes numbers, and this is {}", side.kind))),
    }
}

/// `value` as the type that SQL calls `name`; null where that cannot be, if `fails` says that this is asked for.
pub(super) fn cast_to(value: Typed, name: &Named, fails: bool) -> Made {
    let int = |bits: u32| Exact::whole(-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
    let unsigned = |bits: u32| Exact::whole(0, (1 << bits) - 1);
    let kind = match name.to_string().to_ascii_uppercase().as_str() {
        "TINYINT" => int(8),
        "SMALLINT" => int(16),
        "INTEGER" | "INT" => int(32),
        "BIGINT" => int(64),
        "UTINYINT" => unsigned(8),
        "USMALLINT" => unsigned(16),
        "UINTEGER" => unsigned(32),
        "UBIGINT" => unsigned(64),
        "REAL" | "FLOAT" => Type::Single,
        "DOUBLE" => Type::Double,
        "VARCHAR" | "TEXT" => Type::Text,
        other => {
            let help = "there are TINYINT to BIGINT, UTINYINT to UBIGINT, FLOAT, DOUBLE and TEXT";
            return Err(value.wrong(format!("no cast to {other}")).help(help));
        }
    };
    let held = kind.held();
    let (made, may_fail) = match (&value.kind, &kind) {
        (from, to) if from == to || *from == Type::Null => (widened(value.value.clone(), from, to), false),
        (Type::Bool, to) if to.is_number() => (value.value.clone().cast(DataType::Int64).cast(held), false),
        (Type::Exact(Exact { scale: 0, .. }) | Type::Bool, Type::Text) => (value.value.clone().cast(held), false),
        (Type::Exact(own @ Exact { scale: 0, .. }), Type::Exact(to)) => {
            let fits = own.low >= to.low && own.high <= to.high;
            (within(value.value.clone(), &value.kind, &kind, *to), !fits)
        }
        // To the nearest whole number, halves to the even one.
        (Type::Single | Type::Double, Type::Exact(to)) => {
            let double = value.value.clone().cast(DataType::Float64).round(0, RoundMode::HalfToEven);
            (within(double, &Type::Double, &kind, *to), true)
        }
        (Type::Text, Type::Exact(to)) => {
            let to = *to;
            (by_rows(from_ref(&value.value), &kind, move |cells| text::whole(cells, to)), true)
        }
        (Type::Text, Type::Double) => (by_rows(from_ref(&value.value), &kind, text::double), true),
        (Type::Double, Type::Single) => (value.value.clone().cast(held), false),
        (from, to @ (Type::Single | Type::Double)) if from.is_number() => {
            (widened(value.value.clone(), from, to), false)
        }
        (from, _) => return Err(value.wrong(format!("{from} is not cast to {kind}"))),
    };
    if may_fail && !fails {
        let message = format!("{name} does not hold every {}", value.kind);
        return Err(value.wrong(message).help("TRY_CAST gives null where it does not"));
    }
    Ok(Typed { value: made, kind, at: value.at, text: None })
}

/// Numbers of type `from` within the bounds of `to`; null in place of others.
fn within(value: Expr, from: &Type, kind: &Type, to: Exact) -> Expr {
    let bound = |units: i128| if *from == Type::Double { double(units as f64) } else { number(units, from) };
    // As a double, the largest number of 64 bits is one more.
    let below =
        if *from == Type::Double { value.clone().lt(bound(to.high + 1)) } else { value.clone().lt_eq(bound(to.high)) };
    let is_within = value.clone().gt_eq(bound(to.low)).and(below);
    ternary_expr(is_within, value.cast(kind.held()), widened(lit(NULL), &Type::Null, kind))
}
