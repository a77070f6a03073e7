//! `where:` — a SQL expression over the columns, run by polars. The only file that knows polars: batches cross over
//! through the Arrow C data interface, without a copy.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use polars::prelude::{AnyValue, Column, DataFrame, Series};
use polars_lazy::dsl::{Expr, Operator};
use polars_lazy::frame::IntoLazy;

use crate::error::{Error, Place, Result};
use crate::io::Bound;
use crate::io::bounds::{Compare, Value};

/// A parsed expression.
pub(super) struct Filter {
    text: String,
    expression: Expr,
}

impl Filter {
    /// Parses `text`; the error is what polars says about it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expression = polars::sql::sql_expr(text).map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), expression })
    }

    /// Comparisons of a column with a constant that the expression joins by AND.
    pub(super) fn bounds(&self) -> Vec<Bound> {
        let mut found = Vec::new();
        bounds(&self.expression, &mut found);
        found
    }

    /// The columns that it names; none where it may mean any.
    pub(super) fn columns(&self) -> Option<Vec<String>> {
        let mut found = Vec::new();
        for part in &self.expression {
            match part {
                Expr::Column(name) => found.push(name.to_string()),
                Expr::Selector(_) => return None,
                _ => {}
            }
        }
        Some(found)
    }

    /// True where the expression is; null counts as false.
    pub(super) fn keep(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let wrong =
            |error: &dyn std::fmt::Display| Error::data(Place::default(), format!("where: `{}`: {error}", self.text));
        let fields = batch.schema();
        let named = self.columns();
        let is_named = |field: &Field| named.as_ref().is_none_or(|named| named.contains(field.name()));
        let columns = fields.fields().iter().zip(batch.columns()).filter(|(field, _)| is_named(field));
        // A column of a type that polars lacks is no column for the expression.
        let columns = columns.filter_map(|(field, array)| series(field, array));
        let frame = DataFrame::new(batch.num_rows(), columns.collect()).map_err(|error| wrong(&error))?;
        let kept = frame.lazy().select([self.expression.clone().alias("keep")]).collect();
        let kept = kept.map_err(|error| wrong(&error))?;
        let kept = kept.column("keep").and_then(|column| column.bool().cloned());
        let kept = kept.map_err(|_| wrong(&"is not true or false for a row"))?;
        if kept.len() != batch.num_rows() {
            return Err(wrong(&"must be true or false for every row by itself"));
        }
        Ok(kept.iter().map(|keep| Some(keep.unwrap_or(false))).collect())
    }
}

fn bounds(expression: &Expr, found: &mut Vec<Bound>) {
    let Expr::BinaryExpr { left, op, right } = expression else { return };
    if matches!(op, Operator::And | Operator::LogicalAnd) {
        bounds(left, found);
        bounds(right, found);
        return;
    }
    // `5 > x` is `x < 5`.
    let (column, value, turned) = match (&**left, &**right) {
        (Expr::Column(column), Expr::Literal(value)) => (column, value, false),
        (Expr::Literal(value), Expr::Column(column)) => (column, value, true),
        _ => return,
    };
    let compare = match (op, turned) {
        (Operator::Eq, _) => Compare::Equal,
        (Operator::Lt, false) | (Operator::Gt, true) => Compare::Less,
        (Operator::LtEq, false) | (Operator::GtEq, true) => Compare::LessOrEqual,
        (Operator::GtEq, false) | (Operator::LtEq, true) => Compare::GreaterOrEqual,
        (Operator::Gt, false) | (Operator::Lt, true) => Compare::Greater,
        _ => return,
    };
    let value = match value.to_any_value() {
        Some(AnyValue::String(text)) => Value::Text(text.to_owned()),
        Some(AnyValue::StringOwned(text)) => Value::Text(text.to_string()),
        Some(number) if number.is_integer() => match number.extract() {
            Some(number) => Value::Integer(number),
            None => return,
        },
        _ => return,
    };
    found.push(Bound { column: column.to_string(), compare, value });
}

/// The type in which values of type `data_type` cross over: dictionaries as what they hold. None where polars, as it is
/// built here, would have no such type, which it says by a panic.
fn crossing(data_type: &DataType) -> Option<DataType> {
    use DataType::{
        Boolean, Date32, Dictionary, Float32, Float64, Int32, Int64, LargeList, LargeUtf8, List, Null, Struct, UInt32,
        UInt64, Utf8, Utf8View,
    };
    let inner = |field: &FieldRef| Some(Arc::new(Field::clone(field).with_data_type(crossing(field.data_type())?)));
    Some(match data_type {
        Dictionary(_, values) => crossing(values)?,
        List(element) => List(inner(element)?),
        LargeList(element) => LargeList(inner(element)?),
        Struct(fields) => Struct(fields.iter().map(inner).collect::<Option<_>>()?),
        small if small.is_integer() && small.primitive_width() < Some(4) => Int32,
        DataType::Float16 => Float32,
        DataType::Decimal128(..) | DataType::Decimal256(..) => Float64,
        plain
        @ (Boolean | Int32 | Int64 | UInt32 | UInt64 | Float32 | Float64 | Utf8 | LargeUtf8 | Utf8View | Null) => {
            plain.clone()
        }
        time @ (Date32 | DataType::Timestamp(..)) => time.clone(),
        _ => return None,
    })
}

fn series(field: &Field, array: &dyn Array) -> Option<Column> {
    let array = cast(array, &crossing(field.data_type())?).ok()?;
    let field = &Field::new(field.name(), array.data_type().clone(), true);
    let schema = FFI_ArrowSchema::try_from(field).ok()?;
    let array = FFI_ArrowArray::new(&array.to_data());
    // SAFETY: both sides are the C structs of the Arrow C data interface, made by arrow-rs just above, and moved: the
    // copy that stays behind is never dropped.
    let imported = unsafe {
        let schema = std::mem::transmute::<FFI_ArrowSchema, polars_arrow::ffi::ArrowSchema>(schema);
        let array = std::mem::transmute::<FFI_ArrowArray, polars_arrow::ffi::ArrowArray>(array);
        let field = polars_arrow::ffi::import_field_from_c(&schema).ok()?;
        polars_arrow::ffi::import_array_from_c(array, field.dtype.clone()).ok()?
    };
    Some(Series::from_arrow(field.name().as_str().into(), imported).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

    #[test]
    fn comparisons_with_constants_are_found() {
        let bounds = |text: &str| {
            let found = Filter::parse(text).unwrap().bounds();
            found.into_iter().map(|bound| (bound.column, bound.compare, bound.value)).collect::<Vec<_>>()
        };
        let five = ("n".to_owned(), Compare::Less, Value::Integer(5));
        assert_eq!(bounds("n < 5"), std::slice::from_ref(&five));
        assert_eq!(
            bounds("5 > n AND (kind = 'list' AND length(kind) > 2)"),
            [five, ("kind".into(), Compare::Equal, Value::Text("list".into()))]
        );
        for nothing in ["n < 5 OR kind = 'list'", "NOT n < 5", "n < 5.5", "n < m", "n <> 5", "n + 1 < 5"] {
            assert_eq!(bounds(nothing), [], "{nothing}");
        }
    }

    #[test]
    fn the_columns_of_an_expression_are_known() {
        let columns = |text: &str| Filter::parse(text).unwrap().columns();
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let mut found = columns("a < 5 OR NOT (length(b) > 2 AND c IS NULL)").unwrap();
        found.sort_unstable();
        assert_eq!(Some(found), names(&["a", "b", "c"]));
        assert_eq!(columns("1 = 1"), names(&[]));
    }

    /// Whatever type a column has, an expression that names it is an answer or an error, never a panic.
    #[test]
    fn columns_of_every_type_can_be_named() {
        use arrow::datatypes::{IntervalUnit, TimeUnit};
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None]));
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("1"), Some("2"), None]));
        let element = |data_type| Arc::new(Field::new("element", data_type, true));
        let dictionary = |values| DataType::Dictionary(Box::new(DataType::Int32), Box::new(values));
        let micro = TimeUnit::Microsecond;
        let types = [
            DataType::Int8,
            DataType::UInt16,
            DataType::UInt64,
            DataType::Float16,
            DataType::Boolean,
            DataType::Null,
            DataType::Date32,
            DataType::Date64,
            DataType::Timestamp(micro, None),
            DataType::Timestamp(micro, Some("Europe/Rome".into())),
            DataType::Time32(TimeUnit::Second),
            DataType::Time64(micro),
            DataType::Duration(micro),
            DataType::Decimal128(10, 2),
            DataType::Decimal256(50, 2),
            DataType::Interval(IntervalUnit::DayTime),
            DataType::Binary,
            DataType::LargeBinary,
            DataType::BinaryView,
            DataType::FixedSizeBinary(1),
            DataType::Utf8View,
            DataType::LargeUtf8,
            dictionary(DataType::Utf8),
            dictionary(DataType::Int64),
            DataType::List(element(DataType::Utf8)),
            DataType::LargeList(element(dictionary(DataType::Utf8))),
            DataType::FixedSizeList(element(DataType::Int64), 1),
            DataType::Struct(vec![Field::new("x", dictionary(DataType::Utf8), true)].into()),
        ];
        for data_type in types {
            let column = cast(&number, &data_type).or_else(|_| cast(&text, &data_type));
            let column = column.unwrap_or_else(|_| arrow::array::new_null_array(&data_type, 3));
            let batch = RecordBatch::try_from_iter([("x", column), ("y", number.clone())]).unwrap();
            for text in ["x IS NOT NULL", "x > 1", "x = '2'", "y > 1"] {
                let kept = Filter::parse(text).unwrap().keep(&batch);
                assert!(kept.is_ok() || !text.starts_with('y'), "{data_type}: {text}: {kept:?}");
            }
        }
        let words = cast(&text, &dictionary(DataType::Utf8)).unwrap();
        let batch = RecordBatch::try_from_iter([("x", words)]).unwrap();
        assert_eq!(
            Filter::parse("x = '2'").unwrap().keep(&batch).unwrap(),
            BooleanArray::from(vec![false, true, false])
        );
    }

    #[test]
    fn rows_are_kept_by_sql() {
        let columns: [(&str, ArrayRef); 2] = [
            ("kind", Arc::new(StringArray::from(vec![Some("sum"), Some("list"), None]))),
            ("score", Arc::new(Float64Array::from(vec![1.0, 3.0, 5.0]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let keep = |text: &str| Filter::parse(text).unwrap().keep(&batch.slice(1, 2));
        assert_eq!(keep("kind = 'list' AND score > 2").unwrap(), BooleanArray::from(vec![true, false]));
        let error = keep("nothing > 2").unwrap_err().to_string();
        assert!(error.contains("where: `nothing > 2`: ") && error.contains("nothing"), "{error}");
        assert!(Filter::parse("score >").is_err());
    }
}
