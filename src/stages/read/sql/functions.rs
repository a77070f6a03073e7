//! Functions, by DuckDB's names and with its results.

use std::cmp::Ordering;

use polars::prelude::{DataType, RoundMode};
use polars_lazy::dsl::{Expr, coalesce, concat_str, lit, ternary_expr};
use polars_lazy::prelude::NULL;
use sqlparser::ast::{
    BinaryOperator, CeilFloorKind, Expr as Tree, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned, Value,
    ValueWithSpan,
};
use sqlparser::tokenizer::Location;

use super::arithmetic::{arithmetic, power};
use super::cells::{Cell, by_rows, extreme};
use super::syntax::Wrong;
use super::text;
use super::translate::{Made, Translator, Typed, chosen, unified};
use super::types::{Exact, Type, double, number, widened};
use crate::error::nearest;

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
