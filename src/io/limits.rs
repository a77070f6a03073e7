//! Bounds that several readers share. A file of a few kilobytes can claim, or unpack to, more than any machine has;
//! docs/reliability.md lists every bound with its message and its test.

use std::io;

use arrow::datatypes::{DataType, Fields};

/// Most columns of a file, the fields of structs counted one by one.
pub(super) const COLUMNS: usize = 10_000;

/// Longest row of a text file, and longest run of empty lines, in bytes.
pub(super) const ROW: usize = 256 << 20;

/// A batch of a text file ends before a row that would bring it above this many bytes.
pub(super) const BATCH: usize = 32 << 20;

/// A batch of a text file has at most this many values, unless one row alone has more.
pub(super) const VALUES: u64 = 1 << 24;

/// Bytes that an Arrow IPC batch takes at most, packed or unpacked.
pub(super) const IPC_BATCH: u64 = 4 << 30;

/// Deepest nesting of a column's type.
const DEPTH: usize = 64;

/// Refuses a schema of too many columns or too deep a nesting.
pub(super) fn check_columns(fields: &Fields) -> Result<(), String> {
    let mut left = COLUMNS;
    count(fields, DEPTH, &mut left)
}

/// Leaf columns of a schema.
pub(super) fn leaves(fields: &Fields) -> u64 {
    fields.iter().map(|field| children(field.data_type()).map_or(1, |fields| leaves(&fields).max(1))).sum()
}

fn count(fields: &Fields, depth: usize, left: &mut usize) -> Result<(), String> {
    for field in fields {
        *left =
            left.checked_sub(1).ok_or_else(|| format!("more than {COLUMNS} columns, fields of structs included"))?;
        let Some(inner) = children(field.data_type()) else { continue };
        let deeper = depth.checked_sub(1);
        let deeper = deeper.ok_or_else(|| format!("column `{}` is nested more than {DEPTH} deep", field.name()))?;
        count(&inner, deeper, left)?;
    }
    Ok(())
}

fn children(kind: &DataType) -> Option<Fields> {
    match kind {
        DataType::Struct(fields) => Some(fields.clone()),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => Some(vec![field.clone()].into()),
        DataType::Union(fields, _) => Some(fields.iter().map(|(_, field)| field.clone()).collect()),
        _ => None,
    }
}

/// The error of a row that is longer than [`ROW`].
pub(super) fn row_too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a row of more than {ROW} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;

    fn fields(count: usize) -> Fields {
        (0..count).map(|index| Field::new(format!("c{index}"), DataType::Int32, true)).collect()
    }

    #[test]
    fn columns_are_counted_through_structs_and_lists() {
        assert_eq!(check_columns(&fields(COLUMNS)), Ok(()));
        assert_eq!(
            check_columns(&fields(COLUMNS + 1)).unwrap_err(),
            "more than 10000 columns, fields of structs included"
        );
        let inner = Field::new("element", DataType::Struct(fields(COLUMNS - 2)), true);
        let list = |inner: Field| Fields::from(vec![Field::new("list", DataType::List(inner.into()), true)]);
        assert_eq!(check_columns(&list(inner.clone())), Ok(()));
        assert_eq!(leaves(&list(inner)), COLUMNS as u64 - 2);
        let inner = Field::new("element", DataType::Struct(fields(COLUMNS - 1)), true);
        assert!(check_columns(&list(inner)).is_err());
        let deep = (0..70).fold(DataType::Int32, |kind, _| DataType::List(Field::new("element", kind, true).into()));
        let error = check_columns(&vec![Field::new("deep", deep, true)].into()).unwrap_err();
        assert_eq!(error, "column `element` is nested more than 64 deep");
    }
}
