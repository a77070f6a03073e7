//! How much of a file a reader has in memory at a time: much, so that there are few requests and long batches, or little, so
//! that many readers run side by side.

use parquet::arrow::ProjectionMask;
use parquet::basic::Type;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use super::windows::WINDOW;

/// What a reader takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// The most rows of a batch.
    pub rows: usize,
    /// Bytes that a batch of a Parquet file takes, about, unless one row alone takes more.
    pub bytes: u64,
    /// The most packed bytes that are held of a column of a Parquet file on this machine, where a read costs little.
    pub window: u64,
    /// The same of a file in a store, where every request is waited for.
    pub store_window: u64,
}

impl Portion {
    /// Batches of `rows` rows, however long these are.
    pub const fn of_rows(rows: usize) -> Self {
        Self { rows, bytes: u64::MAX, window: WINDOW, store_window: WINDOW }
    }

    /// Bytes that are held of a column.
    pub(super) fn window(&self, is_local: bool) -> u64 {
        if is_local { self.window } else { self.store_window }
    }

    /// Rows of a batch of the leaves of `group` that are in `mask`.
    pub(super) fn batch_rows(&self, group: &RowGroupMetaData, mask: &ProjectionMask) -> usize {
        let leaves = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes = leaves.fold(0_u64, |bytes, (_, column)| bytes.saturating_add(decoded(column)));
        let row = bytes / u64::try_from(group.num_rows()).unwrap_or(0).max(1);
        usize::try_from(self.bytes / row.max(1)).map_or(self.rows, |rows| rows.clamp(1, self.rows.max(1)))
    }
}

/// Bytes that the values of `column` take in memory, about: what the footer says is not checked here.
fn decoded(column: &ColumnChunkMetaData) -> u64 {
    let of = |number: i64| u64::try_from(number).unwrap_or(0);
    let (width, texts) = match column.column_type() {
        Type::BOOLEAN => (1, 0),
        Type::INT32 | Type::FLOAT => (4, 0),
        Type::INT64 | Type::DOUBLE | Type::INT96 => (8, 0),
        Type::FIXED_LEN_BYTE_ARRAY => (of(column.column_descr().type_length().into()), 0),
        // Without that number texts that a dictionary shares count once.
        Type::BYTE_ARRAY => {
            (4, of(column.unencoded_byte_array_data_bytes().unwrap_or_else(|| column.uncompressed_size())))
        }
    };
    of(column.num_values()).saturating_mul(width).saturating_add(texts)
}
