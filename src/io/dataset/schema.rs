//! The columns that the files of a dataset have in common.

use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::file::File;
use crate::error::{Error, Place, Result};
use crate::io::store::Location;
use crate::io::unify::unify;

/// The columns that all files have: those of the first, as wide as the others need them. Where rows may lack columns,
/// also the others' own.
pub(super) fn common_schema(files: &[(Location, File)]) -> Result<SchemaRef> {
    let Some(((first, file), rest)) = files.split_first() else {
        return Err(Error::data(Place::default(), "a dataset needs at least one file"));
    };
    let lacking = files.iter().all(|(_, file)| file.may_lack_columns());
    let mut fields: Vec<Field> = file.schema().fields().iter().map(|field| Field::clone(field)).collect();
    for (location, file) in rest {
        let differs = |how: String| Error::data(Place::file(location), format!("another schema than {first}: {how}"));
        for field in &mut fields {
            match file.schema().field_with_name(field.name()) {
                Err(_) if file.may_lack_columns() => field.set_nullable(true),
                Err(_) => return Err(differs(format!("column `{}` is missing", field.name()))),
                Ok(found) => {
                    let (known, own) = (field.data_type(), found.data_type());
                    let readable = |common: &DataType| {
                        file.may_lack_columns() || can_cast_types(own, common) && can_cast_types(known, common)
                    };
                    let common = unify(known, own).filter(readable);
                    let how = || differs(format!("column `{}` is {own}, not {known}", field.name()));
                    let common = common.ok_or_else(how)?;
                    *field =
                        field.clone().with_data_type(common).with_nullable(field.is_nullable() || found.is_nullable());
                }
            }
        }
        if lacking {
            let known = |name: &str| fields.iter().any(|field| field.name() == name);
            let own: Vec<Field> = file.schema().fields().iter().map(|field| Field::clone(field)).collect();
            let new: Vec<Field> = own.into_iter().filter(|field| !known(field.name())).collect();
            fields.extend(new);
        }
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, file.schema().metadata().clone())))
}
