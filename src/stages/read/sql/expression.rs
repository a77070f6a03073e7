//! An expression whose columns and types are known, evaluated row by row.

use std::cmp::Ordering;

use arrow::array::ArrayRef;

use super::cast::{Target, cast};
use super::column;
use super::functions::{self, Do};
use super::number;
use super::syntax::{Case, Failing, Operator, Test};
use super::text;
use super::value::{Type, Value};

/// An expression over columns of a batch.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    Value(Value<'static>),
    /// A column, by its place among those that the expression names.
    Column(usize),
    Field(Box<Self>, usize),
    Index(Box<Self>, Box<Self>),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
    Compare(Operator, Box<Self>, Box<Self>),
    Distinct {
        left: Box<Self>,
        right: Box<Self>,
        is_negated: bool,
    },
    Is {
        value: Box<Self>,
        test: Test,
        is_negated: bool,
    },
    In {
        value: Box<Self>,
        list: Vec<Self>,
    },
    Has {
        list: Box<Self>,
        element: Box<Self>,
        kind: Type,
    },
    Like {
        value: Box<Self>,
        pattern: Box<Self>,
        escape: Option<char>,
        case: Case,
    },
    Arithmetic(Operator, Box<Self>, Box<Self>),
    Negate(Box<Self>),
    /// A number as one of a wider type.
    Widen(Box<Self>, Type),
    Cast {
        value: Box<Self>,
        to: Target,
        failing: Failing,
    },
    /// The value of the first branch whose condition is true.
    Branches(Vec<(Self, Self)>, Box<Self>),
    /// The first that is not null.
    First(Vec<Self>),
    /// The least or greatest of those that are not null.
    Extreme(Ordering, Vec<Self>),
    /// Texts in a row, without those that are null.
    Concatenate(Vec<Self>),
    Call(Do, Vec<Self>),
}

/// A row of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The columns that the expression names.
    pub(super) columns: &'a [ArrayRef],
    pub(super) row: usize,
}

type Evaluated<'a> = Result<Value<'a>, String>;

impl Expression {
    /// Its value for `row`.
    ///
    /// # Errors
    /// A division by zero, a number that is too large, a value that cannot be cast.
    pub(super) fn value<'a>(&'a self, row: Row<'a>) -> Evaluated<'a> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::Column(index) => Ok(column::value(&row.columns[*index], row.row)),
            Self::Field(value, index) => Ok(match value.value(row)? {
                Value::Struct(array, at) => column::field(array, at, *index),
                _ => Value::Null,
            }),
            Self::Index(list, index) => element(list.value(row)?, index.value(row)?),
            Self::Not(value) => Ok(truth(value.value(row)?.truth().map(|value| !value))),
            Self::And(parts) => joined(parts, row, false),
            Self::Or(parts) => joined(parts, row, true),
            Self::Compare(operator, left, right) => {
                let order = left.value(row)?.order(&right.value(row)?)?;
                Ok(truth(order.map(|order| holds(*operator, order))))
            }
            Self::Distinct { left, right, is_negated } => {
                let (left, right) = (left.value(row)?, right.value(row)?);
                let is_same = match left.order(&right)? {
                    Some(order) => order.is_eq(),
                    None => left.is_null() && right.is_null(),
                };
                Ok(Value::Bool(is_same == *is_negated))
            }
            Self::Is { value, test, is_negated } => {
                let value = value.value(row)?;
                let holds = match test {
                    Test::Null => value.is_null(),
                    Test::True => value.truth() == Some(true),
                    Test::False => value.truth() == Some(false),
                };
                Ok(Value::Bool(holds != *is_negated))
            }
            Self::In { value, list } => {
                let value = value.value(row)?;
                found(&value, list.iter().map(|other| other.value(row)))
            }
            Self::Has { list, element, kind } => match (list.value(row)?, element.value(row)?) {
                (Value::List(list), _) if list.len() == 0 => Ok(Value::Bool(false)),
                (Value::List(list), element) if !element.is_null() => {
                    let mut values = list.values().map(|value| number::widened(value, kind));
                    let has = values.find_map(|value| match value.order(&element) {
                        Ok(order) => order.is_some_and(Ordering::is_eq).then_some(Ok(true)),
                        Err(error) => Some(Err(error)),
                    });
                    Ok(Value::Bool(has.transpose()?.unwrap_or(false)))
                }
                _ => Ok(Value::Null),
            },
            Self::Like { value, pattern, escape, case } => match (value.value(row)?, pattern.value(row)?) {
                (Value::Text(text), Value::Text(pattern)) => {
                    text::like(&text, &pattern, *escape, *case).map(Value::Bool)
                }
                _ => Ok(Value::Null),
            },
            Self::Arithmetic(operator, left, right) => {
                number::arithmetic(*operator, &left.value(row)?, &right.value(row)?)
            }
            Self::Negate(value) => number::negated(value.value(row)?),
            Self::Widen(value, kind) => Ok(number::widened(value.value(row)?, kind)),
            Self::Cast { value, to, failing } => match value.value(row)? {
                Value::Null => Ok(Value::Null),
                value => cast(value, *to).or_else(|error| match failing {
                    Failing::Null => Ok(Value::Null),
                    Failing::Error => Err(error),
                }),
            },
            Self::Branches(branches, otherwise) => {
                for (when, then) in branches {
                    if when.value(row)?.truth() == Some(true) {
                        return then.value(row);
                    }
                }
                otherwise.value(row)
            }
            Self::First(values) => {
                for value in values {
                    match value.value(row)? {
                        Value::Null => {}
                        value => return Ok(value),
                    }
                }
                Ok(Value::Null)
            }
            Self::Extreme(wanted, values) => {
                let mut best = Value::Null;
                for value in values {
                    let value = value.value(row)?;
                    if best.is_null() || value.order(&best)? == Some(*wanted) {
                        best = value;
                    }
                }
                Ok(best)
            }
            Self::Concatenate(values) => {
                let mut text = String::new();
                for value in values {
                    if let Value::Text(part) = value.value(row)? {
                        functions::fits(text.len() + part.len())?;
                        text.push_str(&part);
                    }
                }
                Ok(Value::Text(text.into()))
            }
            Self::Call(does, arguments) => {
                let arguments = arguments.iter().map(|argument| argument.value(row)).collect::<Result<Vec<_>, _>>()?;
                if arguments.iter().any(Value::is_null) {
                    return Ok(Value::Null);
                }
                functions::call(*does, &arguments)
            }
        }
    }
}

impl Value<'_> {
    /// True, false, or neither.
    pub(super) fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

fn truth<'a>(value: Option<bool>) -> Value<'a> {
    value.map_or(Value::Null, Value::Bool)
}

/// `decides` where one of `parts` is it, null where one of the others is null.
fn joined<'a>(parts: &'a [Expression], row: Row<'a>, decides: bool) -> Evaluated<'a> {
    let mut result = Some(!decides);
    for part in parts {
        match part.value(row)?.truth() {
            Some(value) if value == decides => return Ok(Value::Bool(decides)),
            Some(_) => {}
            None => result = None,
        }
    }
    Ok(truth(result))
}

fn holds(operator: Operator, order: Ordering) -> bool {
    match operator {
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        _ => order.is_ge(),
    }
}

/// Whether `value` is among `others`; null where it is not and it or one of them is null.
fn found<'a>(value: &Value<'_>, others: impl Iterator<Item = Evaluated<'a>>) -> Evaluated<'a> {
    let mut result = Some(false);
    for other in others {
        match value.order(&other?)? {
            Some(Ordering::Equal) => return Ok(Value::Bool(true)),
            Some(_) => {}
            None => result = None,
        }
    }
    Ok(truth(result))
}

/// The element at `index`, from 1 or below 0 from the end; null where there is none.
fn element<'a>(list: Value<'a>, index: Value<'a>) -> Evaluated<'a> {
    let (Value::List(list), Value::Int(index)) = (list, index) else { return Ok(Value::Null) };
    let from_end = if index < 0 { list.len() as i128 + index } else { index - 1 };
    let place = usize::try_from(from_end).ok().filter(|place| *place < list.len());
    Ok(place.map_or(Value::Null, |place| list.get(place)))
}
