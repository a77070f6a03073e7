//! Row groups that no row of can pass a filter, by the smallest and largest values that their footer states. What a footer
//! does not state for certain prunes nothing.

use arrow::datatypes::DataType;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

/// A comparison that a column's value must fulfil in every row that passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The column.
    pub column: String,
    /// How its value compares with `value`.
    pub compare: Compare,
    /// The other side.
    pub value: Value,
}

/// Comparisons whose outcome a range of values can rule out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Compare {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

/// A value whose order files and filters agree on. Floating-point numbers are none: statistics leave NaN out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    Integer(i64),
    Text(String),
}

impl Compare {
    fn may_hold<T: PartialOrd>(self, least: T, most: T, value: T) -> bool {
        match self {
            Self::Less => least < value,
            Self::LessOrEqual => least <= value,
            Self::Equal => least <= value && value <= most,
            Self::GreaterOrEqual => most >= value,
            Self::Greater => most > value,
        }
    }
}

impl Bound {
    /// Whether it speaks of values of type `kind`.
    pub(super) fn fits(&self, kind: &DataType) -> bool {
        match self.value {
            Value::Integer(_) => kind.is_signed_integer(),
            Value::Text(_) => matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
        }
    }

    /// Whether a row of `group` may fulfil it.
    pub(super) fn may_hold(&self, group: &RowGroupMetaData) -> bool {
        let column = group.columns().iter().find(|column| column.column_path().parts() == [self.column.as_str()]);
        let Some(statistics) = column.and_then(|column| column.statistics()) else { return true };
        if statistics.is_min_max_deprecated() {
            return true;
        }
        let may_hold = match (&self.value, statistics) {
            (Value::Integer(value), Statistics::Int32(range)) => {
                let ends = range.min_opt().zip(range.max_opt());
                ends.map(|(least, most)| self.compare.may_hold(i64::from(*least), i64::from(*most), *value))
            }
            (Value::Integer(value), Statistics::Int64(range)) => {
                let ends = range.min_opt().zip(range.max_opt());
                ends.map(|(least, most)| self.compare.may_hold(*least, *most, *value))
            }
            (Value::Text(value), Statistics::ByteArray(range)) => {
                // Cut values still lie outside: the least was rounded down, the most up.
                let ends = range.min_opt().zip(range.max_opt());
                ends.map(|(least, most)| self.compare.may_hold(least.data(), most.data(), value.as_bytes()))
            }
            _ => None,
        };
        may_hold.unwrap_or(true)
    }
}
