//! Other names for a source's columns, given before anything else in `read` looks at them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::form::listed;
use crate::error::Problem;

/// New names by the source's own.
pub type Rename = BTreeMap<String, String>;

/// What the source calls the column `name`.
pub(super) fn original<'a>(rename: &'a Rename, name: &'a str) -> &'a str {
    rename.iter().find(|(_, new)| *new == name).map_or(name, |(old, _)| old)
}

/// `schema` with the new names.
pub(super) fn renamed(rename: &Rename, schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| match rename.get(field.name()) {
        Some(new) => Arc::new(Field::clone(field).with_name(new)),
        None => field.clone(),
    };
    let fields: Vec<Arc<Field>> = schema.fields().iter().map(field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The rows of `batch` with the new names.
pub(super) fn rows(rename: &Rename, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new(renamed(rename, &batch.schema()), batch.columns().to_vec())
}

/// Names that are not there, and names that two columns would have.
pub(super) fn problems(rename: &Rename, schema: &Schema) -> Vec<Problem> {
    let problem = |(old, new): (&String, &String)| {
        let stays = schema.field_with_name(new).is_ok() && !rename.contains_key(new);
        let twice = rename.iter().filter(|(_, other)| *other == new).count() > 1;
        let message = match () {
            () if schema.field_with_name(old).is_err() => format!("no column `{old}`; there are {}", listed(schema)),
            () if old == new => format!("column `{old}` has this name already"),
            () if new.is_empty() => format!("column `{old}` needs a name"),
            () if stays || twice => format!("two columns would be called `{new}`"),
            () => return None,
        };
        Some(Problem::at(old, message).within(&["rename"]))
    };
    rename.iter().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::DataType;

    fn rename(names: &[(&str, &str)]) -> Rename {
        names.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect()
    }

    #[test]
    fn columns_may_change_places_and_none_gets_lost() {
        let schema = Schema::new(["a", "b", "c"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec());
        let names = |rename: &Rename| listed(&renamed(rename, &schema));
        let swapped = rename(&[("a", "b"), ("b", "a")]);
        assert_eq!((problems(&swapped, &schema), names(&swapped)), (Vec::new(), "b, a, c".to_owned()));
        assert_eq!((original(&swapped, "a"), original(&swapped, "c")), ("b", "c"));
        for (wrong, expected) in [
            (rename(&[("d", "e")]), "no column `d`; there are a, b, c"),
            (rename(&[("a", "b")]), "two columns would be called `b`"),
            (rename(&[("a", "x"), ("b", "x")]), "two columns would be called `x`"),
            (rename(&[("a", "a")]), "column `a` has this name already"),
            (rename(&[("a", "")]), "column `a` needs a name"),
        ] {
            let found = problems(&wrong, &schema);
            assert!(!found.is_empty() && found.iter().all(|problem| problem.message == expected), "{found:?}");
        }
    }
}
