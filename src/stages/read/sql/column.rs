//! Columns, fields and elements of Arrow: their SQL types, and their values as columns of polars, which arrive through the Arrow C data
//! interface without a copy.

use std::fmt::Display;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::kernels::length::length;
use arrow::compute::{cast, is_not_null, is_null, nullif, take};
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use polars::prelude::{Column, Series};

use super::types::{DAY, DIGITS, Exact, Type};
use crate::io::extension;
use crate::io::list_element;

/// A step from a column to the values in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// A field of a struct.
    Field(String),
    /// An element of a list, counted from 1 or, below 0, from the end.
    Element(i64),
    /// The number of elements.
    Length,
}

/// A column, or what is in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaf {
    pub(super) column: String,
    pub(super) steps: Vec<Step>,
    pub(super) kind: Type,
}

/// What the values of `field` are.
pub(super) fn kind(field: &Field) -> Type {
    if let Some(name) = extension::name(field) {
        return Type::Other(name.to_owned());
    }
    kind_of(field.data_type())
}

fn kind_of(data_type: &DataType) -> Type {
    use DataType::{
        Boolean, Date32, Decimal128, Dictionary, Float16, Float32, Float64, LargeUtf8, Null, Timestamp, Utf8, Utf8View,
    };
    match data_type {
        Null => Type::Null,
        Boolean => Type::Bool,
        int if int.is_unsigned_integer() => Exact::whole(0, i128::from(u64::MAX >> (64 - 8 * width(int)))),
        int if int.is_signed_integer() => {
            let high = i128::from(i64::MAX >> (64 - 8 * width(int)));
            Exact::whole(-high - 1, high)
        }
        Float16 | Float32 => Type::Single,
        Float64 => Type::Double,
        Decimal128(digits, scale @ 0..) => {
            let most = 10_i128.pow((*digits).into()) - 1;
            Exact::new(*scale as u8, -most, most).map_or_else(|| Type::Other(data_type.to_string()), Type::Exact)
        }
        Utf8 | LargeUtf8 | Utf8View => Type::Text,
        Dictionary(_, values) => kind_of(values),
        Date32 => Type::Date,
        Timestamp(_, zone) if zone.as_ref().is_none_or(|zone| matches!(&**zone, "UTC" | "Z" | "+00:00")) => {
            Type::Timestamp
        }
        list => match list_element(list).map(kind_of) {
            Some(element @ (Type::Bool | Type::Single | Type::Double | Type::Text | Type::Null)) => {
                Type::List(Box::new(element))
            }
            Some(Type::Exact(exact)) if exact.scale == 0 => Type::List(Box::new(Type::Exact(exact))),
            Some(element) => Type::Other(format!("LIST of {element}")),
            None if matches!(list, DataType::Struct(_)) => Type::Other("STRUCT".to_owned()),
            None => Type::Other(list.to_string()),
        },
    }
}

fn width(int: &DataType) -> usize {
    int.primitive_width().unwrap_or(8)
}

impl Leaf {
    /// Its values in `batch`.
    pub(super) fn column(&self, name: String, batch: &RecordBatch) -> Result<Column, String> {
        let column = batch.column_by_name(&self.column).ok_or_else(|| format!("no column `{}`", self.column))?;
        let found = self.steps.iter().try_fold(column.clone(), |array, step| stepped(&array, step));
        let held = found.and_then(|array| held(&array, &self.kind)).map_err(|error| error.to_string())?;
        crossed(name, &held).map_err(|error| error.to_string())
    }
}

fn stepped(array: &ArrayRef, step: &Step) -> Result<ArrayRef, ArrowError> {
    match step {
        Step::Length => length(array),
        Step::Field(name) => {
            let rows = array.as_struct();
            let field =
                rows.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no field `{name}`")))?;
            nullif(field, &is_null(rows)?)
        }
        Step::Element(place) => {
            let element = list_element(array.data_type()).cloned().unwrap_or(DataType::Null);
            let list = cast(array, &DataType::LargeList(Field::new_list_field(element, true).into()))?;
            let list = list.as_list::<i64>();
            let at = |row: usize| {
                let (first, count) = (list.value_offsets()[row], list.value_length(row));
                let index = if *place < 0 { count + place } else { place - 1 };
                (list.is_valid(row) && (0..count).contains(&index)).then_some((first + index) as u64)
            };
            take(list.values(), &(0..list.len()).map(at).collect::<UInt64Array>(), None)
        }
    }
}

/// The arrow array that polars takes for the column of `kind`.
fn held(array: &ArrayRef, kind: &Type) -> Result<ArrayRef, ArrowError> {
    use std::sync::Arc;
    let wide = DataType::Decimal128(DIGITS as u8, 0);
    let plain = match array.data_type() {
        DataType::Dictionary(_, values) => &cast(array, values)?,
        _ => array,
    };
    match kind {
        Type::Other(_) | Type::Null => {
            let valid = is_not_null(plain)?;
            Ok(Arc::new(valid.iter().map(|valid| valid.filter(|valid| *valid)).collect::<BooleanArray>()))
        }
        Type::Exact(exact) => {
            let units = match plain.data_type() {
                DataType::Decimal128(..) => {
                    Arc::new(plain.as_primitive::<Decimal128Type>().clone().with_precision_and_scale(DIGITS as u8, 0)?)
                }
                _ => plain.clone(),
            };
            cast(&units, if exact.fits_64() { &DataType::Int64 } else { &wide })
        }
        Type::Timestamp => {
            let factor = match plain.data_type() {
                DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
                DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
                DataType::Timestamp(TimeUnit::Microsecond, _) => 1000,
                _ => 1,
            };
            let ticks = cast(plain, &DataType::Int64)?;
            let nanos =
                ticks.as_primitive::<Int64Type>().unary::<_, Decimal128Type>(|ticks| i128::from(ticks) * factor);
            Ok(Arc::new(nanos.with_precision_and_scale(DIGITS as u8, 0)?))
        }
        Type::Date => cast(&cast(plain, &DataType::Int32)?, &DataType::Int64),
        Type::List(element) => {
            let element = match &**element {
                Type::Exact(exact) if exact.fits_64() => DataType::Int64,
                Type::Exact(_) => wide,
                other => target(other),
            };
            cast(plain, &DataType::LargeList(Field::new_list_field(element, true).into()))
        }
        other => cast(plain, &target(other)),
    }
}

fn target(kind: &Type) -> DataType {
    match kind {
        Type::Single => DataType::Float32,
        Type::Double => DataType::Float64,
        Type::Text => DataType::LargeUtf8,
        _ => DataType::Boolean,
    }
}

fn crossed(name: String, array: &ArrayRef) -> Result<Column, Box<dyn Display>> {
    let field = Field::new(&name, array.data_type().clone(), true);
    let schema = FFI_ArrowSchema::try_from(field).map_err(|error| Box::new(error) as Box<dyn Display>)?;
    let array = FFI_ArrowArray::new(&array.to_data());
    // SAFETY: both sides are the C structs of the Arrow C data interface, made by arrow-rs just above, and moved: the
    // copy that stays behind is never dropped.
    let imported = unsafe {
        let schema = std::mem::transmute::<FFI_ArrowSchema, polars_arrow::ffi::ArrowSchema>(schema);
        let array = std::mem::transmute::<FFI_ArrowArray, polars_arrow::ffi::ArrowArray>(array);
        polars_arrow::ffi::import_field_from_c(&schema)
            .and_then(|field| polars_arrow::ffi::import_array_from_c(array, field.dtype))
    };
    let series = imported.and_then(|array| Series::from_arrow(name.into(), array));
    Ok(series.map_err(|error| Box::new(error) as Box<dyn Display>)?.into())
}

/// The nanoseconds since 1970 that a text of a time means.
pub(super) fn nanoseconds(text: &str) -> Option<i128> {
    use chrono::{NaiveDate, NaiveDateTime};
    let text = text.trim();
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    let forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    let time = |form: &&str| NaiveDateTime::parse_from_str(text, form).ok();
    let time = day.and_then(|day| day.and_hms_opt(0, 0, 0)).or_else(|| forms.iter().find_map(time))?.and_utc();
    Some(i128::from(time.timestamp()) * (DAY / 86_400) + i128::from(time.timestamp_subsec_nanos()))
}
