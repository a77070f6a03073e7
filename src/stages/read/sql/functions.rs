//! Arithmetic, casts and functions, by DuckDB's names and with its results. What has no value is null: a division of whole numbers by
//! zero, the root of a number below it.

use std::cmp::Ordering;

use polars::prelude::{DataType, RoundMode};
use polars_lazy::dsl::{Expr, coalesce, concat_str, lit, ternary_expr};
use polars_lazy::prelude::NULL;
use sqlparser::ast::{
    BinaryOperator, CeilFloorKind, DataType as Named, Expr as Tree, FunctionArg, FunctionArgExpr, FunctionArguments,
    Spanned, Value, ValueWithSpan,
};
use sqlparser::tokenizer::Location;

use super::cells::{Cell, by_rows, extreme};
use super::syntax::Wrong;
use super::text;
use super::translate::{Made, Translator, Typed, chosen, unified};
use super::types::{Exact, Type, double, number, widened};
use crate::error::nearest;

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

/// Values joined as texts: `||`, which is null where one is, and `concat`, which leaves nulls out.
pub(super) fn concatenated(sides: Vec<Typed>, at: Location, leaves_out: bool) -> Made {
    let texts = sides.into_iter().map(|side| match side.kind {
        Type::Text => Ok(side.value),
        Type::Null | Type::Bool | Type::Exact(Exact { scale: 0, .. }) => Ok(side.value.cast(DataType::String)),
        _ => Err(side.wrong(format!("{} is not joined with texts", side.kind))),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    Ok(Typed { value: concat_str(texts, "", leaves_out), kind: Type::Text, at, text: None })
}

/// Whether `text` is like `pattern`.
pub(super) fn like(text: Typed, pattern: Typed, escape: Option<&ValueWithSpan>, folds: bool) -> Result<Expr, Wrong> {
    let sides = [text, pattern];
    if let Some(side) = sides.iter().find(|side| !matches!(side.kind, Type::Text | Type::Null)) {
        return Err(side.wrong(format!("LIKE takes texts, and this is {}", side.kind)));
    }
    let escape = match escape.map(|escape| (&escape.value, escape)) {
        None => None,
        Some((Value::SingleQuotedString(escape), at)) if escape.chars().count() == 1 => {
            let pattern =
                sides[1].text.as_deref().ok_or_else(|| sides[1].wrong("ESCAPE goes with a pattern in quotes"))?;
            let escape = escape.chars().next();
            if text::pieces(pattern, escape).is_none() {
                return Err(Wrong::at(at, "the pattern ends with its escape character"));
            }
            escape
        }
        Some((_, at)) => return Err(Wrong::at(at, "ESCAPE takes one character in quotes")),
    };
    let sides = sides.map(|side| widened(side.value, &side.kind, &Type::Text));
    Ok(by_rows(&sides, &Type::Bool, move |cells| match cells {
        [Cell::Text(text), Cell::Text(pattern)] => Cell::Bool(text::like(text, pattern, escape, folds)),
        _ => Cell::Null,
    }))
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
            (by_rows(std::slice::from_ref(&value.value), &kind, move |cells| text::whole(cells, to)), true)
        }
        (Type::Text, Type::Double) => (by_rows(std::slice::from_ref(&value.value), &kind, text::double), true),
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

/// The name and the arguments of a call.
fn call(tree: &Tree) -> Option<(String, Vec<&Tree>)> {
    let name = |name: &str| name.to_owned();
    Some(match tree {
        Tree::Function(function) => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let is_plain = function.over.is_none() && function.filter.is_none() && function.within_group.is_empty();
            if !is_plain || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
                return None;
            }
            let argument = |argument| match argument {
                &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref tree)) => Some(tree),
                _ => None,
            };
            (function.name.to_string().to_ascii_lowercase(), list.args.iter().map(argument).collect::<Option<_>>()?)
        }
        Tree::Ceil { expr, field: CeilFloorKind::DateTimeField(sqlparser::ast::DateTimeField::NoDateTime) } => {
            (name("ceil"), vec![expr])
        }
        Tree::Floor { expr, field: CeilFloorKind::DateTimeField(sqlparser::ast::DateTimeField::NoDateTime) } => {
            (name("floor"), vec![expr])
        }
        Tree::Substring { expr, substring_from: Some(from), substring_for, .. } => {
            let length = substring_for.as_deref();
            (name("substring"), [&**expr, from].into_iter().chain(length).collect())
        }
        Tree::Trim { expr, trim_where: None, trim_what: None, trim_characters } => {
            (name("trim"), std::iter::once(&**expr).chain(trim_characters.iter().flatten()).collect())
        }
        _ => return None,
    })
}

/// The functions that there are.
const NAMES: [&str; 44] = [
    "abs",
    "array_contains",
    "array_has",
    "array_length",
    "ceil",
    "ceiling",
    "char_length",
    "character_length",
    "coalesce",
    "concat",
    "contains",
    "ends_with",
    "floor",
    "greatest",
    "if",
    "ifnull",
    "instr",
    "isfinite",
    "isinf",
    "isnan",
    "lcase",
    "least",
    "left",
    "len",
    "length",
    "list_contains",
    "list_has",
    "lower",
    "ltrim",
    "mod",
    "nullif",
    "pow",
    "power",
    "replace",
    "right",
    "round",
    "rtrim",
    "sign",
    "sqrt",
    "starts_with",
    "strlen",
    "strpos",
    "substr",
    "substring",
];
const MORE: [&str; 3] = ["trim", "ucase", "upper"];

/// The call of a function; none where `tree` is no call.
pub(super) fn called(translator: &mut Translator<'_>, tree: &Tree) -> Result<Option<Typed>, Wrong> {
    let Some((name, arguments)) = call(tree) else { return Ok(None) };
    let at = tree.span().start;
    if let ("len" | "length" | "array_length", [list]) = (name.as_str(), &*arguments)
        && let Some(length) = translator.length(list)
    {
        return Ok(Some(length));
    }
    let typed = arguments.iter().map(|tree| translator.typed(tree)).collect::<Result<Vec<_>, _>>()?;
    if let ("nullif", [left, right]) = (name.as_str(), &*arguments) {
        let equal = translator.compared(left, right, Expr::eq)?;
        let own = typed.into_iter().next().filter(|own| own.kind != Type::Null);
        let null = |own: Typed| Typed {
            value: ternary_expr(equal, widened(lit(NULL), &Type::Null, &own.kind), own.value),
            at,
            ..own
        };
        return Ok(Some(own.map_or_else(|| Typed { value: lit(NULL), kind: Type::Null, at, text: None }, null)));
    }
    let made = many(&name, &typed, at).or_else(|| of_number(&name, &typed)).or_else(|| of_texts(&name, &typed, at));
    if let Some(made) = made {
        return made.map(Some);
    }
    let names: Vec<&str> = NAMES.iter().chain(&MORE).copied().collect();
    if names.contains(&name.as_str()) {
        let kinds = typed.iter().map(|part| part.kind.to_string()).collect::<Vec<_>>().join(", ");
        let message = format!("`{name}` does not take ({kinds})");
        return Err(Wrong::near(at, message).help("docs/datasets.md says what it takes"));
    }
    let near = nearest(&name, &names).map(|(_, near)| format!("did you mean `{near}`?"));
    Err(Wrong::near(at, format!("no function `{name}`"))
        .help(near.unwrap_or_else(|| "docs/datasets.md lists them".to_owned())))
}

/// Functions whose arguments have a type in common, or that take nulls.
fn many(name: &str, typed: &[Typed], at: Location) -> Option<Made> {
    let together = || unified(typed.to_vec());
    Some(match (name, typed) {
        ("coalesce", [_, ..]) | ("ifnull", [_, _]) => together().map(|(values, kind)| {
            let value = if kind == Type::Null { lit(NULL) } else { coalesce(&values) };
            Typed { value, kind, at, text: None }
        }),
        ("if", [when, values @ ..]) if values.len() == 2 && matches!(when.kind, Type::Bool | Type::Null) => {
            chosen(vec![widened(when.value.clone(), &when.kind, &Type::Bool)], values.to_vec(), at)
        }
        ("greatest" | "least", [first, ..]) => {
            let wanted = if name == "least" { Ordering::Less } else { Ordering::Greater };
            together().and_then(|(values, kind)| match kind.is_ordered() {
                true => Ok(Typed { value: extreme(&values, &kind, wanted), kind, at, text: None }),
                false => Err(first.wrong(format!("values of type {kind} are not compared"))),
            })
        }
        ("concat", [_, ..]) => concatenated(typed.to_vec(), at, true),
        ("mod", [left, right]) => arithmetic(&BinaryOperator::Modulo, left.clone(), right.clone())?,
        ("pow" | "power", [_, _]) => power(typed.to_vec(), at),
        ("list_contains" | "array_contains" | "list_has" | "array_has" | "contains", [list, element]) => {
            let Type::List(own) = &list.kind else { return None };
            let probe = Typed { value: lit(NULL), kind: Type::clone(own), at: list.at, text: None };
            unified(vec![probe, element.clone()]).and_then(|(mut values, kind)| {
                let is_scaled =
                    matches!((&**own, &kind), (Type::Exact(own), Type::Exact(all)) if own.scale != all.scale);
                if is_scaled || **own == Type::Null {
                    return Err(element.wrong(format!("a {} is not searched for {}", list.kind, element.kind)));
                }
                let list = list.value.clone().cast(DataType::List(Box::new(kind.held())));
                let found = list.clone().list().contains(values.remove(1), false);
                // In an empty list there is nothing, not even null.
                let value = ternary_expr(list.list().len().eq(lit(0)), lit(false), found);
                Ok(Typed { value, kind: Type::Bool, at, text: None })
            })
        }
        _ => return None,
    })
}

/// Functions of a number.
fn of_number(name: &str, typed: &[Typed]) -> Option<Made> {
    let first = typed.first().filter(|first| first.kind.is_number())?;
    let (value, kind) = (first.value.clone(), first.kind.clone());
    let made = |value: Expr, kind: Type| Some(Ok(Typed { value, kind, at: first.at, text: None }));
    let double_of = || widened(first.value.clone(), &first.kind, &Type::Double);
    let is_float = matches!(kind, Type::Single | Type::Double);
    match (name, &typed[1..], &kind) {
        ("abs", [], Type::Exact(exact)) => {
            let kind = Type::Exact(Exact { low: 0, high: exact.low.abs().max(exact.high.abs()), ..*exact });
            let value = value.cast(kind.held());
            let turned = number(0, &kind) - value.clone();
            made(ternary_expr(value.clone().lt(number(0, &kind)), turned, value), kind)
        }
        ("abs", [], _) => made(value.abs(), kind),
        ("sign", [], _) => {
            let (above, below) = (double_of().gt(double(0.0)), double_of().lt(double(0.0)));
            let above = above.and(double_of().is_nan().not());
            made(above.cast(DataType::Int64) - below.cast(DataType::Int64), Exact::whole(-1, 1))
        }
        ("isnan", [], _) => made(double_of().is_nan(), Type::Bool),
        ("isinf", [], _) => made(double_of().is_infinite(), Type::Bool),
        ("isfinite", [], _) => made(double_of().is_finite(), Type::Bool),
        ("sqrt", [], _) => made(
            ternary_expr(double_of().lt(double(0.0)), lit(NULL).cast(DataType::Float64), double_of().sqrt()),
            Type::Double,
        ),
        ("round", [], Type::Exact(Exact { scale: 0, .. })) => made(value, kind),
        ("floor" | "ceil" | "ceiling", [], Type::Exact(Exact { scale: 0, .. })) => made(double_of(), Type::Double),
        ("floor", [], _) if is_float => made(value.floor(), kind),
        ("ceil" | "ceiling", [], _) if is_float => made(value.ceil(), kind),
        ("round", [], _) if is_float => made(value.round(0, RoundMode::HalfAwayFromZero), kind),
        _ => None,
    }
}

/// Functions of texts.
fn of_texts(name: &str, typed: &[Typed], at: Location) -> Option<Made> {
    typed.first().filter(|part| matches!(part.kind, Type::Text | Type::Null))?;
    let made = |value: Expr, kind: Type| Some(Ok(Typed { value, kind, at, text: None }));
    let count = Exact::whole(0, i32::MAX.into());
    let kinds: Option<Vec<Type>> = typed
        .iter()
        .map(|part| match &part.kind {
            Type::Text | Type::Null => Some(Type::Text),
            int @ Type::Exact(Exact { scale: 0, .. }) => Some(int.clone()),
            _ => None,
        })
        .collect();
    let kinds = kinds?;
    let values: Vec<Expr> =
        typed.iter().zip(&kinds).map(|(part, kind)| widened(part.value.clone(), &part.kind, kind)).collect();
    let is_text: Vec<bool> = kinds.iter().map(|kind| *kind == Type::Text).collect();
    let by_rows =
        |function: fn(&[Cell<'_>]) -> Cell<'static>| made(by_rows(&values, &Type::Text, function), Type::Text);
    let text = || values[0].clone().str();
    match (name, &is_text[..]) {
        ("length" | "len" | "char_length" | "character_length", [true]) => {
            made(text().len_chars().cast(DataType::Int64), count)
        }
        ("strlen", [true]) => made(text().len_bytes().cast(DataType::Int64), count),
        ("lower" | "lcase", [true]) => by_rows(|cells| text::mapped(cells, text::lower)),
        ("upper" | "ucase", [true]) => by_rows(|cells| text::mapped(cells, text::upper)),
        ("trim", [true]) => made(text().strip_chars(lit(" ")), Type::Text),
        ("ltrim", [true]) => made(text().strip_chars_start(lit(" ")), Type::Text),
        ("rtrim", [true]) => made(text().strip_chars_end(lit(" ")), Type::Text),
        ("trim", [true, true]) => made(text().strip_chars(values[1].clone()), Type::Text),
        ("ltrim", [true, true]) => made(text().strip_chars_start(values[1].clone()), Type::Text),
        ("rtrim", [true, true]) => made(text().strip_chars_end(values[1].clone()), Type::Text),
        ("starts_with", [true, true]) => made(text().starts_with(values[1].clone()), Type::Bool),
        ("ends_with", [true, true]) => made(text().ends_with(values[1].clone()), Type::Bool),
        ("contains", [true, true]) => made(text().contains_literal(values[1].clone()), Type::Bool),
        ("strpos" | "instr", [true, true]) => made(super::cells::by_rows(&values, &count, text::found), count),
        ("replace", [true, true, true]) => by_rows(text::replaced),
        ("left", [true, false]) => by_rows(text::left),
        ("right", [true, false]) => by_rows(text::right),
        ("substring" | "substr", [true, false] | [true, false, false]) => by_rows(text::substring),
        _ => None,
    }
}
