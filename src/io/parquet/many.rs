//! Footers of more than 2^15 row groups. The reader numbers row groups with 16 bits, which only encryption needs, and
//! refuses more; it is given such a footer in pieces.

use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::thrift::{Cursor, LIST, STRUCT};

/// The most row groups of a footer that the reader takes.
const MOST: u64 = 1 << 15;

/// The content of the footer that `end`, the last bytes of a file, begins with; none where the reader can take it whole, or
/// will say what is wrong with it.
pub(super) fn read(end: &[u8]) -> Option<Result<ParquetMetaData, ParquetError>> {
    let footer = end.strip_suffix(b"PAR1")?.split_last_chunk::<4>()?.0;
    let mut cursor = Cursor(footer);
    let mut field = 0;
    // The fourth field of a footer is the list of its row groups (parquet.thrift).
    loop {
        match (cursor.field(&mut field)??, field) {
            (LIST, 4) => break,
            (kind, 1..=3) => cursor.skip(kind, 0)?,
            _ => return None,
        }
    }
    let before = &footer[..footer.len() - cursor.0.len()];
    let (count, kind) = cursor.list()?;
    (kind == STRUCT && count > MOST).then(|| join(before, count, cursor))
}

/// The content of a footer of `before`, `count` row groups, and what lies behind them, both of which `left` has.
fn join(before: &[u8], count: u64, mut left: Cursor) -> Result<ParquetMetaData, ParquetError> {
    let mut groups = Vec::new();
    for first in (0..count).step_by(MOST as usize) {
        let (piece, start) = (MOST.min(count - first), left.0);
        let followed = (0..piece).try_for_each(|_| left.skip(STRUCT, 0));
        followed.ok_or_else(|| ParquetError::EOF(format!("{count} row groups are not there")))?;
        let list = [0xf0 | STRUCT, piece as u8 | 0x80, (piece >> 7) as u8 | 0x80, (piece >> 14) as u8];
        let footer = [before, &list, &start[..start.len() - left.0.len()], &[0]].concat();
        groups.extend_from_slice(ParquetMetaDataReader::decode_metadata(&footer)?.row_groups());
    }
    let without = [before, &[STRUCT], left.0].concat();
    let builder = ParquetMetaDataReader::decode_metadata(&without)?.into_builder();
    Ok(builder.set_row_groups(groups).build())
}
