//! Whether what a Parquet footer says can be true of its file. The reader takes its word: an offset below zero would end
//! the program, and a count of rows beyond all numbers would be a unit of work.

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// What is wrong with `footer`, which ends a file of `size` bytes.
pub(super) fn check(footer: &ParquetMetaData, size: u64) -> Result<(), String> {
    let mut rows = 0_i64;
    for (index, group) in footer.row_groups().iter().enumerate() {
        let count = Some(group.num_rows()).filter(|count| *count >= 0);
        let sum = count.and_then(|count| rows.checked_add(count));
        rows = sum.ok_or_else(|| format!("row group {index} would have {} rows", group.num_rows()))?;
        if let Some(column) = group.columns().iter().find(|column| end(column).is_none_or(|end| end > size)) {
            let name = column.column_path().string();
            return Err(format!("column `{name}` of row group {index} would lie outside of the file"));
        }
    }
    Ok(())
}

/// Where the bytes of `column` end.
fn end(column: &ColumnChunkMetaData) -> Option<u64> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    u64::try_from(start).ok()?.checked_add(u64::try_from(column.compressed_size()).ok()?)
}
