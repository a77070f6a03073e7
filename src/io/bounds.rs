//! Row groups and pages that no row of can pass a filter, by the smallest and largest values that a file states of them.
//! What it does not state for certain prunes nothing.

use arrow::datatypes::DataType;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
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
        let statistics = self.leaf(group).and_then(|leaf| group.column(leaf).statistics());
        let may_hold = match statistics.filter(|statistics| !statistics.is_min_max_deprecated()) {
            Some(Statistics::Int32(range)) => self.integers(range.min_opt().zip(range.max_opt())),
            Some(Statistics::Int64(range)) => self.integers(range.min_opt().zip(range.max_opt())),
            Some(Statistics::ByteArray(range)) => {
                self.texts(range.min_opt().map(AsRef::as_ref).zip(range.max_opt().map(AsRef::as_ref)))
            }
            _ => None,
        };
        may_hold.unwrap_or(true)
    }

    /// Whether a row of page `page` may fulfil it, by the index of its column.
    pub(super) fn may_hold_in_page(&self, index: &ColumnIndexMetaData, page: usize) -> bool {
        let may_hold = match index {
            // Null compares with nothing.
            ColumnIndexMetaData::INT32(_) | ColumnIndexMetaData::INT64(_) | ColumnIndexMetaData::BYTE_ARRAY(_)
                if index.is_null_page(page) =>
            {
                Some(false)
            }
            ColumnIndexMetaData::INT32(range) => self.integers(range.min_value(page).zip(range.max_value(page))),
            ColumnIndexMetaData::INT64(range) => self.integers(range.min_value(page).zip(range.max_value(page))),
            ColumnIndexMetaData::BYTE_ARRAY(range) => self.texts(range.min_value(page).zip(range.max_value(page))),
            _ => None,
        };
        may_hold.unwrap_or(true)
    }

    /// The leaf of `group` that it speaks of.
    pub(super) fn leaf(&self, group: &RowGroupMetaData) -> Option<usize> {
        group.columns().iter().position(|column| column.column_path().parts() == [self.column.as_str()])
    }

    fn integers<T: Copy + Into<i64>>(&self, ends: Option<(&T, &T)>) -> Option<bool> {
        let (Value::Integer(value), Some((least, most))) = (&self.value, ends) else { return None };
        Some(self.compare.may_hold((*least).into(), (*most).into(), *value))
    }

    /// Cut values still lie outside: the least was rounded down, the most up.
    fn texts(&self, ends: Option<(&[u8], &[u8])>) -> Option<bool> {
        let (Value::Text(value), Some((least, most))) = (&self.value, ends) else { return None };
        Some(self.compare.may_hold(least, most, value.as_bytes()))
    }
}
