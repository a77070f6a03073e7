//! Which pages of a row group are read, and where in the file they lie.

use std::ops::Range;

use parquet::arrow::ProjectionMask;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use crate::io::bounds::Bound;

/// What is wrong with the page index of a file of `size` bytes, whose word all below takes.
pub(super) fn check(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    let (Some(indexes), Some(offsets)) = (metadata.column_index(), metadata.offset_index()) else { return Ok(()) };
    for (group, content) in metadata.row_groups().iter().enumerate() {
        for (leaf, column) in content.columns().iter().enumerate() {
            let pages = offsets[group].get(leaf).map_or(&[][..], |pages| pages.page_locations());
            let rows = pages.iter().map(|page| page.first_row_index);
            let in_order =
                rows.clone().chain([content.num_rows()]).is_sorted() && rows.min().is_none_or(|row| row == 0);
            let inside = pages.iter().all(|page| {
                let ends = page.offset.checked_add(i64::from(page.compressed_page_size));
                page.offset >= 0 && page.compressed_page_size >= 0 && ends.is_some_and(|end| end as u64 <= size)
            });
            let has_values = |index: &ColumnIndexMetaData| {
                matches!(index, ColumnIndexMetaData::NONE) || index.num_pages() == pages.len() as u64
            };
            if !(in_order && inside && indexes[group].get(leaf).is_none_or(has_values)) {
                let name = column.column_path().string();
                return Err(format!("the page index of column `{name}` of row group {group} cannot be true"));
            }
        }
    }
    Ok(())
}

/// The rows of `group`, from 0, outside of pages of which no row can fulfil all of `bounds`.
pub(super) fn rows_left(metadata: &ParquetMetaData, group: usize, bounds: &[&Bound]) -> Vec<Range<usize>> {
    let rows = metadata.row_group(group).num_rows() as usize;
    let mut left: Vec<Range<usize>> = std::iter::once(0..rows).collect();
    let (Some(indexes), Some(offsets)) = (metadata.column_index(), metadata.offset_index()) else { return left };
    for bound in bounds {
        let Some(leaf) = bound.leaf(metadata.row_group(group)) else { continue };
        let (Some(index), Some(pages)) = (indexes[group].get(leaf), offsets[group].get(leaf)) else { continue };
        let starts: Vec<usize> = pages.page_locations().iter().map(|page| page.first_row_index as usize).collect();
        let ends = starts.iter().skip(1).copied().chain([rows]);
        let kept = starts.iter().zip(ends).enumerate().filter(|(page, _)| bound.may_hold_in_page(index, *page));
        left = common(&left, kept.map(|(_, (start, end))| *start..end));
    }
    left
}

/// What lies in both; each is in order.
fn common(left: &[Range<usize>], kept: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for kept in kept {
        for piece in left {
            let both = piece.start.max(kept.start)..piece.end.min(kept.end);
            match out.last_mut() {
                _ if both.is_empty() => {}
                Some(last) if last.end == both.start => last.end = both.end,
                _ => out.push(both),
            }
        }
    }
    out
}

/// Where the leaves of `group` in `mask` lie, in the file's order.
pub(super) fn columns(group: &RowGroupMetaData, mask: &ProjectionMask) -> Vec<Range<u64>> {
    let leaves = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
    let ranges = leaves.map(|(_, column)| column.byte_range());
    let mut ranges: Vec<Range<u64>> = ranges.map(|(start, length)| start..start.saturating_add(length)).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// Where the pages lie that hold the rows `left` of the leaves in `mask`, dictionaries among them, in the file's order.
pub(super) fn spans(
    metadata: &ParquetMetaData,
    group: usize,
    mask: &ProjectionMask,
    left: &[Range<usize>],
) -> Vec<Range<u64>> {
    let (content, mut spans) = (metadata.row_group(group), Vec::new());
    for (leaf, column) in content.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf)) {
        let (start, length) = column.byte_range();
        let whole = start..start.saturating_add(length);
        let Some(pages) = metadata.offset_index().and_then(|offsets| offsets[group].get(leaf)) else {
            spans.push(whole);
            continue;
        };
        let pages = pages.page_locations();
        let first = pages.first().map_or(whole.end, |page| page.offset as u64);
        if whole.start < first {
            spans.push(whole.start..first);
        }
        let ends = pages.iter().skip(1).map(|page| page.first_row_index as usize).chain([content.num_rows() as usize]);
        let is_read = |rows: Range<usize>| left.iter().any(|left| left.start < rows.end && rows.start < left.end);
        let read = pages.iter().zip(ends).filter(|(page, end)| is_read(page.first_row_index as usize..*end));
        spans.extend(read.map(|(page, _)| {
            let start = page.offset as u64;
            start..start.saturating_add(page.compressed_page_size as u64)
        }));
    }
    spans.sort_by_key(|span| span.start);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_bounds_leave_is_read() {
        let left = [0..10, 20..30];
        assert_eq!(common(&left, [0..5, 5..25, 28..40].into_iter()), [0..10, 20..25, 28..30]);
        assert!(common(&left, std::iter::once(10..20)).is_empty());
    }
}
