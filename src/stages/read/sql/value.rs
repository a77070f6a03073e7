//! Types and values of SQL expressions.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use arrow::array::Array;

use super::column;
use super::number;

/// The type of a part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    /// Of the literal NULL.
    Null,
    Bool,
    /// A whole number of any width, signed or not.
    Int,
    Decimal,
    /// `f32`.
    Single,
    /// `f64`.
    Double,
    Text,
    Date,
    Timestamp,
    List(Box<Type>),
    Struct(Vec<(String, Type)>),
    /// What only `IS NULL` can be asked of, by its name.
    Other(String),
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Bool => f.write_str("BOOLEAN"),
            Self::Int => f.write_str("INTEGER"),
            Self::Decimal => f.write_str("DECIMAL"),
            Self::Single => f.write_str("FLOAT"),
            Self::Double => f.write_str("DOUBLE"),
            Self::Text => f.write_str("TEXT"),
            Self::Date => f.write_str("DATE"),
            Self::Timestamp => f.write_str("TIMESTAMP"),
            Self::List(element) => write!(f, "LIST of {element}"),
            Self::Struct(_) => f.write_str("STRUCT"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl Type {
    /// Place among the types of numbers, of which two meet in the later one; none of other types.
    pub(super) fn rank(&self) -> Option<u8> {
        match self {
            Self::Int => Some(0),
            Self::Decimal => Some(1),
            Self::Single => Some(2),
            Self::Double => Some(3),
            _ => None,
        }
    }

    /// The type in which values of both are compared; none where they have none.
    pub(super) fn common(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Null, other) | (other, Self::Null) => Some(other.clone()),
            (Self::Date, Self::Timestamp) | (Self::Timestamp, Self::Date) => Some(Self::Timestamp),
            (a, b) if a == b => Some(a.clone()),
            (a, b) => Some(if a.rank()? > b.rank()? { a.clone() } else { b.clone() }),
        }
    }

    /// Whether its values have an order.
    pub(super) fn is_ordered(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Struct(_) | Self::Other(_))
    }
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i128),
    /// `units / 10^scale`.
    Decimal {
        units: i128,
        scale: u8,
    },
    Single(f32),
    Double(f64),
    Text(Cow<'a, str>),
    /// Days since 1970-01-01.
    Date(i64),
    /// Nanoseconds since 1970-01-01.
    Timestamp(i128),
    List(List<'a>),
    /// A row of a column of structs.
    Struct(&'a dyn Array, usize),
    /// What is not null, and nothing else is known of.
    Other,
}

/// The elements of a list.
#[derive(Debug, Clone)]
pub(super) enum List<'a> {
    Rows(&'a dyn Array, Range<usize>),
    Values(Vec<Value<'a>>),
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Rows(_, rows) => rows.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Element `index`, from 0.
    pub(super) fn get(&self, index: usize) -> Value<'a> {
        match self {
            Self::Rows(array, rows) => column::value(*array, rows.start + index),
            Self::Values(values) => values[index].clone(),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}

impl Value<'_> {
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The order of two values of one type; none where one is null. NaN is the largest number, and equal to itself.
    pub(super) fn order(&self, other: &Self) -> Result<Option<Ordering>, String> {
        Ok(Some(match (self, other) {
            (Self::Null, _) | (_, Self::Null) => return Ok(None),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Int(_) | Self::Decimal { .. }, Self::Int(_) | Self::Decimal { .. }) => {
                let [(a, _), (b, _)] = number::aligned(self, other)?;
                a.cmp(&b)
            }
            (Self::Single(a), Self::Single(b)) => float_order(f64::from(*a), f64::from(*b)),
            (Self::Double(a), Self::Double(b)) => float_order(*a, *b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            _ => return Err("values without an order".to_owned()),
        }))
    }
}

fn float_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
