//! Arrow extension types: what a column means beyond what it is stored as.
//!
//! The canonical ones are read by their meaning: `arrow.uuid` as text, `arrow.bool8` as true and false, `arrow.json` as a
//! text whose JSON is read where a value of it is looked at. `datasets`' arrays are the lists that they are stored as. A
//! type that is not known here stays as it is, with its name, for whoever needs its meaning to refuse it.
//!
//! <https://arrow.apache.org/docs/format/CanonicalExtensions.html>

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use serde_json::Value;

use super::unify::list_field;

/// Key of a field's metadata that names its extension type.
pub const NAME: &str = "ARROW:extension:name";
const METADATA: &str = "ARROW:extension:metadata";

/// Texts of JSON.
pub const JSON: &str = "arrow.json";
/// 16 bytes.
pub const UUID: &str = "arrow.uuid";
/// Bytes of 0 and others.
pub const BOOL8: &str = "arrow.bool8";

/// `datasets`' arrays of fixed shape, which are stored as lists of lists.
const ARRAYS: &str = "datasets.features.features.Array";

/// Key of `datasets` in a schema's metadata.
pub const DATASETS: &str = "huggingface";

/// The extension type of `field`, if it is of one.
pub fn name(field: &Field) -> Option<&str> {
    field.metadata().get(NAME).map(String::as_str)
}

/// `field` as one whose texts are JSON.
pub fn json(field: Field) -> Field {
    named(field, JSON)
}

/// `field` as one of the extension type `name`.
pub(super) fn named(field: Field, name: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(NAME.to_owned(), name.to_owned());
    metadata.insert(METADATA.to_owned(), String::new());
    field.with_metadata(metadata)
}

/// A type of unknown meaning in `field`, at any depth: the path of the field that has it, and its name.
pub fn unknown(field: &Field) -> Option<(String, String)> {
    if let Some(name) = name(field).filter(|name| *name != JSON) {
        return Some((field.name().clone(), name.to_owned()));
    }
    if let Some(element) = list_field(field.data_type()) {
        return unknown(&element.clone().with_name(field.name()));
    }
    let (path, name) = children(field.data_type()).iter().find_map(|child| unknown(child))?;
    Some((format!("{}.{path}", field.name()), name))
}

fn children(kind: &DataType) -> Fields {
    match kind {
        DataType::Struct(fields) => fields.clone(),
        DataType::Map(field, _) => vec![field.clone()].into(),
        _ => Fields::empty(),
    }
}

/// `schema` as its columns are to be read: every field has the type of its meaning.
pub(super) fn meant(schema: &Schema) -> Schema {
    let told = told(schema);
    Schema::new_with_metadata(told.fields().iter().map(|field| plain(field)).collect::<Vec<_>>(), told.metadata)
}

/// `schema` with the extension types that `datasets` names in its metadata as those of the fields.
pub(super) fn told(schema: &Schema) -> Schema {
    let told = schema.metadata().get(DATASETS).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let features = told.as_ref().map_or(&Value::Null, |told| &told["info"]["features"]);
    let field = |field: &Arc<Field>| told_json(field, &features[field.name().as_str()]);
    Schema::new_with_metadata(schema.fields().iter().map(field).collect::<Vec<_>>(), schema.metadata().clone())
}

/// `field` by what `datasets` says of it: <https://huggingface.co/docs/datasets/about_dataset_features>.
fn told_json(field: &Field, feature: &Value) -> Field {
    if feature["_type"] == "Json" && is_text(field.data_type()) && name(field).is_none() {
        return json(field.clone());
    }
    let element = match feature {
        Value::Array(elements) => elements.first(),
        feature => feature.get("feature").or_else(|| feature.get("_type").is_none().then_some(feature)),
    };
    let Some(element) = element.filter(|element| !element.is_null()) else { return field.clone() };
    rebuilt(field, |child, place| match place {
        Place::Field => told_json(child, &element[child.name().as_str()]),
        Place::Element => told_json(child, element),
    })
}

/// Where a field stands in its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Field,
    Element,
}

/// `field` with its direct children as `child` makes them.
fn rebuilt(field: &Field, child: impl Fn(&Field, Place) -> Field) -> Field {
    let element = |element: &Field| Arc::new(child(element, Place::Element));
    let kind = match field.data_type() {
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| Arc::new(child(field, Place::Field))).collect())
        }
        DataType::List(inner) => DataType::List(element(inner)),
        DataType::LargeList(inner) => DataType::LargeList(element(inner)),
        DataType::ListView(inner) => DataType::ListView(element(inner)),
        DataType::LargeListView(inner) => DataType::LargeListView(element(inner)),
        DataType::FixedSizeList(inner, length) => DataType::FixedSizeList(element(inner), *length),
        other => other.clone(),
    };
    field.clone().with_data_type(kind)
}

/// `field` as the type of what it means.
fn plain(field: &Field) -> Field {
    let without = |kind: DataType| {
        let mut metadata = field.metadata().clone();
        metadata.retain(|key, _| key != NAME && key != METADATA);
        field.clone().with_metadata(metadata).with_data_type(kind)
    };
    match (name(field), field.data_type()) {
        (Some(UUID), DataType::FixedSizeBinary(16)) => without(DataType::Utf8),
        (Some(BOOL8), DataType::Int8) => without(DataType::Boolean),
        (Some(name), kind) if name.starts_with(ARRAYS) => without(kind.clone()),
        _ => rebuilt(field, |child, _| plain(child)),
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(element: Field) -> DataType {
        DataType::List(Arc::new(element))
    }

    #[test]
    fn types_are_known_at_every_depth_and_by_the_words_of_datasets() {
        let uuid = named(Field::new("key", DataType::FixedSizeBinary(16), true), UUID);
        let array = named(
            Field::new("image", list(Field::new("item", DataType::Int64, true)), true),
            "datasets.features.features.Array2DExtensionType",
        );
        let content = Field::new("content", DataType::LargeUtf8, true);
        let turn = DataType::Struct(vec![content, uuid, array].into());
        let told = json!({"info": {"features": {
            "turns": {"_type": "List", "feature": {"content": {"_type": "Json"}, "key": {"_type": "Value"}}},
            "old": [{"_type": "Json"}],
            "plain": {"_type": "Value", "dtype": "string"},
        }}});
        let schema = Schema::new_with_metadata(
            vec![
                Field::new("turns", list(Field::new("item", turn, true)), true),
                Field::new("old", list(Field::new("item", DataType::Utf8, true)), true),
                Field::new("plain", DataType::Utf8, true),
            ],
            [(DATASETS.to_owned(), told.to_string())].into(),
        );
        let meant = meant(&schema);
        let DataType::List(turn) = meant.field(0).data_type() else { panic!() };
        let DataType::Struct(fields) = turn.data_type() else { panic!() };
        let found: Vec<(Option<&str>, &DataType)> =
            fields.iter().map(|field| (name(field), field.data_type())).collect();
        let numbers = list(Field::new("item", DataType::Int64, true));
        assert_eq!(found, [(Some(JSON), &DataType::LargeUtf8), (None, &DataType::Utf8), (None, &numbers)]);
        let DataType::List(old) = meant.field(1).data_type() else { panic!() };
        assert_eq!((name(old), name(meant.field(2))), (Some(JSON), None));
        assert_eq!(meant.fields().iter().find_map(|field| unknown(field)), None);

        let odd = named(Field::new("b", DataType::Utf8, true), "x.y");
        let odd = Field::new("a", DataType::Struct(vec![odd].into()), true);
        let odd = Field::new("odd", list(odd), true);
        assert_eq!(unknown(&odd), Some(("odd.b".to_owned(), "x.y".to_owned())));
    }
}
