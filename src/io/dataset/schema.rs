//! The columns that the files of a dataset have in common.

use std::sync::Arc;

use arrow::datatypes::{Field, Fields, Schema, SchemaRef};

use super::file::File;
use super::said;
use crate::error::{Error, Place, Result};
use crate::io::extension::meant;
use crate::io::store::Location;
use crate::io::unify::unify_fields;

/// The columns of all files by their names, at every depth, as wide as any of them needs; where one lacks a column its rows
/// are null there. What the files say of themselves must agree.
pub(super) fn common_schema(files: &[(Location, File)]) -> Result<SchemaRef> {
    let Some(((first, file), rest)) = files.split_first() else {
        return Err(Error::data(Place::default(), "a dataset needs at least one file"));
    };
    let mut fields = meant_fields(file);
    for (location, file) in rest {
        let own = meant_fields(file);
        if own != fields {
            fields = unify_fields(&fields, &own).map_err(|misfit| {
                Error::data(Place::file(location), format!("another schema than {first}: {misfit}"))
            })?;
        }
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, said::agreed(files)?)))
}

/// The columns of `file` as they are meant. One that holds no null, as far as the file says, is not nullable.
fn meant_fields(file: &File) -> Fields {
    let fields = meant(file.schema()).fields;
    let field = |field: &Arc<Field>| match field.is_nullable() && file.has_no_null(field.name()) {
        true => Arc::new(Field::clone(field).with_nullable(false)),
        false => field.clone(),
    };
    fields.iter().map(field).collect()
}
