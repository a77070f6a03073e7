//! What Parquet itself says a column means, where no Arrow schema in the footer does: DuckDB, Spark and others write JSON and
//! UUIDs by Parquet's logical types alone.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use parquet::basic::{ConvertedType, LogicalType};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

use crate::io::extension::{self, JSON, UUID};

/// `schema`, which was made of `parquet`, with the extension types of the columns that have a meaning beyond their Arrow type.
pub(super) fn marked(schema: &Schema, parquet: &SchemaDescriptor) -> Schema {
    // Both have their leaves in the same order.
    let mut leaves = parquet.columns().iter();
    let fields: Vec<FieldRef> = schema.fields().iter().map(|field| mark(field, &mut leaves)).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn mark<'a>(field: &FieldRef, leaves: &mut impl Iterator<Item = &'a ColumnDescPtr>) -> FieldRef {
    let mut inner = |field: &FieldRef| mark(field, leaves);
    let kind = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(element) => DataType::List(inner(element)),
        DataType::LargeList(element) => DataType::LargeList(inner(element)),
        DataType::ListView(element) => DataType::ListView(inner(element)),
        DataType::LargeListView(element) => DataType::LargeListView(inner(element)),
        DataType::FixedSizeList(element, length) => DataType::FixedSizeList(inner(element), *length),
        DataType::Map(entries, is_sorted) => DataType::Map(inner(entries), *is_sorted),
        _ => {
            let name = leaves.next().and_then(|leaf| meaning(leaf)).filter(|_| extension::name(field).is_none());
            return name.map_or_else(|| field.clone(), |name| Arc::new(extension::named(Field::clone(field), name)));
        }
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

fn meaning(leaf: &ColumnDescPtr) -> Option<&'static str> {
    match (leaf.logical_type_ref(), leaf.converted_type()) {
        (Some(LogicalType::Json), _) | (None, ConvertedType::JSON) => Some(JSON),
        (Some(LogicalType::Uuid), _) => Some(UUID),
        (Some(LogicalType::Bson), _) | (None, ConvertedType::BSON) => Some("BSON"),
        _ => None,
    }
}
