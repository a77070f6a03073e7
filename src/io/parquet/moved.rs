//! The footer of a file whose pages got checksums on their way: everything lies further back than `ArrowWriter` says.

use std::ops::Range;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};

use super::checksums::LONGER;

/// Where what was written lies now that pages have checksums; pages begin at these bytes without.
pub(super) struct Moved(pub(super) Vec<u64>);

impl Moved {
    fn pages_before(&self, at: u64) -> u64 {
        self.0.partition_point(|start| *start < at) as u64
    }

    /// By how many bytes `range` is longer.
    fn growth(&self, range: Range<u64>) -> i64 {
        (LONGER * (self.pages_before(range.end) - self.pages_before(range.start))) as i64
    }

    fn offset(&self, at: i64) -> i64 {
        at + self.growth(0..at as u64)
    }

    /// `column`, and by how many bytes it is longer.
    fn column(&self, column: &ColumnChunkMetaData) -> Result<(ColumnChunkMetaData, i64), ParquetError> {
        let (start, length) = column.byte_range();
        let growth = self.growth(start..start + length);
        let moved = column.clone().into_builder();
        let moved = moved
            .set_dictionary_page_offset(column.dictionary_page_offset().map(|at| self.offset(at)))
            .set_data_page_offset(self.offset(column.data_page_offset()))
            .set_total_compressed_size(column.compressed_size() + growth)
            .set_total_uncompressed_size(column.uncompressed_size() + growth);
        Ok((moved.build()?, growth))
    }

    fn group(&self, group: &RowGroupMetaData) -> Result<RowGroupMetaData, ParquetError> {
        let columns: Vec<_> =
            group.columns().iter().map(|column| self.column(column)).collect::<Result<_, ParquetError>>()?;
        let growth: i64 = columns.iter().map(|(_, growth)| growth).sum();
        let mut moved = group.clone().into_builder().set_total_byte_size(group.total_byte_size() + growth);
        if let Some(at) = group.file_offset() {
            moved = moved.set_file_offset(self.offset(at));
        }
        moved.set_column_metadata(columns.into_iter().map(|(column, _)| column).collect()).build()
    }
}

/// The indexes of pages, which will lie at byte `begin`, and all from the footer on.
pub(super) fn end(moved: &Moved, metadata: ParquetMetaData, begin: u64) -> Result<(Vec<u8>, Vec<u8>), ParquetError> {
    let groups: Vec<_> = metadata.row_groups().iter().map(|group| moved.group(group)).collect::<Result<_, _>>()?;
    let mut pages = metadata.offset_index().cloned();
    for page in pages.iter_mut().flatten().flatten().flat_map(|pages| &mut pages.page_locations) {
        page.offset = moved.offset(page.offset);
        page.compressed_page_size += LONGER as i32;
    }
    let mut metadata = metadata.into_builder().set_row_groups(groups).set_offset_index(pages).build();

    // The writer of the footer takes the indexes to begin with the file.
    let mut indexes = Vec::new();
    ParquetMetaDataWriter::new(&mut indexes, &metadata).finish()?;
    let first = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(indexes.clone()))?;
    let footer = indexes.last_chunk::<8>().map_or(0, |end| u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    indexes.truncate(indexes.len() - 8 - footer as usize);

    let mut builder = metadata.into_builder().set_column_index(None).set_offset_index(None);
    let mut groups = builder.take_row_groups();
    for (group, first) in groups.iter_mut().zip(first.row_groups()) {
        for (column, first) in group.columns_mut().iter_mut().zip(first.columns()) {
            let behind = |at: Option<i64>| at.map(|at| at + begin as i64);
            let placed = column.clone().into_builder();
            *column = placed
                .set_column_index_offset(behind(first.column_index_offset()))
                .set_column_index_length(first.column_index_length())
                .set_offset_index_offset(behind(first.offset_index_offset()))
                .set_offset_index_length(first.offset_index_length())
                .build()?;
        }
    }
    metadata = builder.set_row_groups(groups).build();
    let mut footer = Vec::new();
    ParquetMetaDataWriter::new(&mut footer, &metadata).finish()?;
    Ok((indexes, footer))
}
