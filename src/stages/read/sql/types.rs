//! Types of SQL values, and the columns of polars that hold them.

use std::fmt;

use polars::prelude::{AnyValue, DataType, Scalar};
use polars_lazy::dsl::{Expr, lit};
use polars_lazy::prelude::NULL;

/// The type of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    /// Of NULL itself.
    Null,
    Bool,
    /// Whole numbers and decimals.
    Exact(Exact),
    Single,
    Double,
    Text,
    /// In days since 1970.
    Date,
    /// In nanoseconds since 1970.
    Timestamp,
    List(Box<Type>),
    /// Of which only IS NULL can be asked.
    Other(String),
}

/// Integers and decimals as units of `10^-scale`, with the range that the values are known to be in. The range decides whether 64 bits
/// hold a result or a decimal of 38 digits is needed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Exact {
    pub(super) scale: u8,
    pub(super) low: i128,
    pub(super) high: i128,
}

/// Digits of polars' decimals.
pub(super) const DIGITS: u32 = 38;

impl Exact {
    /// None where a number may have more than 38 digits.
    pub(super) fn new(scale: u8, low: i128, high: i128) -> Option<Self> {
        let most = 10_i128.pow(DIGITS) - 1;
        (u32::from(scale) < DIGITS && low >= -most && high <= most).then_some(Self { scale, low, high })
    }

    pub(super) fn whole(low: i128, high: i128) -> Type {
        Type::Exact(Self { scale: 0, low, high })
    }

    pub(super) fn fits_64(self) -> bool {
        self.low >= i128::from(i64::MIN) && self.high <= i128::from(i64::MAX)
    }

    /// The same numbers in smaller units.
    pub(super) fn rescaled(self, scale: u8) -> Option<Self> {
        let factor = 10_i128.checked_pow(u32::from(scale.checked_sub(self.scale)?))?;
        Self::new(scale, self.low.checked_mul(factor)?, self.high.checked_mul(factor)?)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "NULL",
            Self::Bool => "BOOLEAN",
            Self::Exact(Exact { scale: 0, .. }) => "INTEGER",
            Self::Exact(_) => "DECIMAL",
            Self::Single => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Text => "TEXT",
            Self::Date => "DATE",
            Self::Timestamp => "TIMESTAMP",
            Self::List(element) => return write!(f, "LIST of {element}"),
            Self::Other(name) => name,
        })
    }
}

pub(super) const WIDE: DataType = DataType::Decimal(DIGITS as usize, 0);

impl Type {
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Exact(_) | Self::Single | Self::Double)
    }

    pub(super) fn is_ordered(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Other(_))
    }

    /// The type of the column that holds its values.
    pub(super) fn held(&self) -> DataType {
        match self {
            Self::Null => DataType::Null,
            Self::Bool | Self::Other(_) => DataType::Boolean,
            Self::Exact(exact) if exact.fits_64() => DataType::Int64,
            Self::Exact(_) | Self::Timestamp => WIDE,
            Self::Single => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Text => DataType::String,
            Self::Date => DataType::Int64,
            Self::List(element) => DataType::List(Box::new(element.held())),
        }
    }

    /// The type that holds the values of both.
    pub(super) fn common(&self, other: &Self) -> Option<Self> {
        use Type::{Date, Double, Exact as Number, Null, Single, Timestamp};
        Some(match (self, other) {
            (Null, kind) | (kind, Null) => kind.clone(),
            (Number(a), Number(b)) => {
                let scale = a.scale.max(b.scale);
                let (a, b) = (a.rescaled(scale)?, b.rescaled(scale)?);
                Number(Exact { scale, low: a.low.min(b.low), high: a.high.max(b.high) })
            }
            (Single, Number(_) | Single) | (Number(_), Single) => Single,
            (a, b) if (*a == Double && b.is_number()) || (*b == Double && a.is_number()) => Double,
            (Date | Timestamp, Date | Timestamp) if self != other => Timestamp,
            (a, b) if a == b => a.clone(),
            _ => return None,
        })
    }
}

/// An exact number, in the column type of `kind`.
pub(super) fn number(units: i128, kind: &Type) -> Expr {
    match i64::try_from(units) {
        // `lit(units)` would take its type from what stands beside it.
        Ok(units) if kind.held() == DataType::Int64 => lit(Scalar::from(units)),
        _ => lit(Scalar::new(WIDE, AnyValue::Decimal(units, DIGITS as usize, 0))),
    }
}

/// A floating-point number.
pub(super) fn double(number: f64) -> Expr {
    lit(Scalar::from(number))
}

/// `value` of type `from` as one of the wider type `to`.
pub(super) fn widened(value: Expr, from: &Type, to: &Type) -> Expr {
    let held = |value: Expr| if from.held() == to.held() { value } else { value.cast(to.held()) };
    match (from, to) {
        (Type::Null, to) => lit(NULL).cast(to.held()),
        (Type::Exact(own), Type::Exact(exact)) if own.scale < exact.scale => {
            held(value) * number(10_i128.pow(u32::from(exact.scale - own.scale)), to)
        }
        (Type::Exact(own), Type::Double | Type::Single) if own.scale > 0 => {
            let quotient = value.cast(DataType::Float64) / double(10_f64.powi(own.scale.into()));
            if *to == Type::Single { quotient.cast(DataType::Float32) } else { quotient }
        }
        (Type::Date, Type::Timestamp) => held(value) * number(DAY, to),
        _ => held(value),
    }
}

/// Nanoseconds of a day.
pub(super) const DAY: i128 = 86_400_000_000_000;
