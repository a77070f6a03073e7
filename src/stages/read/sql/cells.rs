//! Functions that polars lacks or defines otherwise, row by row.

use std::cmp::Ordering;

use polars::prelude::{AnyValue, Column, Field, IntoColumn, PolarsResult, Series};
use polars_lazy::dsl::{Expr, lit};
use polars_lazy::prelude::NULL;

use super::types::{DIGITS, Type, WIDE};

/// A value of a row.
#[derive(Debug, Clone)]
pub(super) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i128),
    /// Of both kinds of floating point.
    Double(f64),
    Text(&'a str),
    Made(String),
}

impl<'a> Cell<'a> {
    fn of(value: &'a AnyValue<'_>) -> Self {
        match value {
            AnyValue::Boolean(truth) => Self::Bool(*truth),
            AnyValue::Int64(int) => Self::Int((*int).into()),
            AnyValue::Decimal(units, ..) => Self::Int(*units),
            AnyValue::Float32(number) => Self::Double((*number).into()),
            AnyValue::Float64(number) => Self::Double(*number),
            AnyValue::String(text) => Self::Text(text),
            AnyValue::StringOwned(text) => Self::Text(text),
            _ => Self::Null,
        }
    }

    /// It in a column of `kind`.
    fn held(self, kind: &Type) -> AnyValue<'static> {
        match self {
            Self::Null => AnyValue::Null,
            Self::Bool(truth) => AnyValue::Boolean(truth),
            Self::Int(units) if kind.held() == WIDE => AnyValue::Decimal(units, DIGITS as usize, 0),
            Self::Int(units) => i64::try_from(units).map_or(AnyValue::Null, AnyValue::Int64),
            Self::Double(number) if *kind == Type::Single => AnyValue::Float32(number as f32),
            Self::Double(number) => AnyValue::Float64(number),
            Self::Text(text) => AnyValue::StringOwned(text.into()),
            Self::Made(text) => AnyValue::StringOwned(text.into()),
        }
    }

    /// The order of SQL, in which NaN is the largest number.
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b).or_else(|| Some(a.is_nan().cmp(&b.is_nan()))),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// What `function` makes of the values of every row; null where one of them is.
pub(super) fn by_rows(
    arguments: &[Expr],
    kind: &Type,
    function: impl Fn(&[Cell<'_>]) -> Cell<'static> + Send + Sync + 'static,
) -> Expr {
    let held = kind.clone();
    of_rows(arguments, kind, move |cells| match cells.iter().any(|cell| matches!(cell, Cell::Null)) {
        true => AnyValue::Null,
        false => function(cells).held(&held),
    })
}

/// The first value of every row that is `wanted` to the others; null where all are.
pub(super) fn extreme(arguments: &[Expr], kind: &Type, wanted: Ordering) -> Expr {
    let held = kind.clone();
    of_rows(arguments, kind, move |cells| {
        let values = cells.iter().filter(|cell| !matches!(cell, Cell::Null));
        let found = values.reduce(|best, cell| if cell.order(best) == Some(wanted) { cell } else { best });
        found.map_or(AnyValue::Null, |cell| cell.clone().held(&held))
    })
}

fn of_rows(
    arguments: &[Expr],
    kind: &Type,
    function: impl Fn(&[Cell<'_>]) -> AnyValue<'static> + Send + Sync + 'static,
) -> Expr {
    let Some((first, rest)) = arguments.split_first() else { return lit(NULL).cast(kind.held()) };
    let (held, named) = (kind.held(), kind.held());
    let made = move |columns: &mut [Column]| {
        // A constant is a column of one row.
        let is_empty = columns.iter().any(Column::is_empty);
        let rows = if is_empty { 0 } else { columns.iter().map(Column::len).max().unwrap_or(0) };
        let mut made = Vec::with_capacity(rows);
        for row in 0..rows {
            let values = columns.iter().map(|column| column.get(if column.len() == 1 { 0 } else { row }));
            let values = values.collect::<PolarsResult<Vec<_>>>()?;
            made.push(function(&values.iter().map(Cell::of).collect::<Vec<_>>()));
        }
        let name = columns[0].name().clone();
        Series::from_any_values_and_dtype(name, &made, &held, true).map(IntoColumn::into_column)
    };
    first.clone().map_many(made, rest, move |_, fields| Ok(Field::new(fields[0].name().clone(), named.clone())))
}
