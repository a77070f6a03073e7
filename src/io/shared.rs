//! How much room rows take once texts that they share are written out. A view, a dictionary's key, a span of a list view take a few
//! bytes, and a million of them may name the same megabyte.

use std::ops::Range;

use arrow::array::{Array, AsArray, GenericListViewArray, OffsetSizeTrait, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;

/// Bytes that the rows of a batch take at most when nothing is shared any more.
const BATCH: u64 = 1 << 30;

/// Refuses a batch whose rows take too much room by themselves.
pub(super) fn check(batch: &RecordBatch) -> Result<(), String> {
    let mut room = Room(BATCH);
    for (column, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
        if is_shared(column.data_type()) && room.hold(column, 0..column.len()).is_none() {
            let (name, rows) = (field.name(), batch.num_rows());
            return Err(format!(
                "column `{name}`: the {rows} rows share texts and take more than {BATCH} bytes without that"
            ));
        }
    }
    Ok(())
}

fn is_shared(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(..) => true,
        DataType::ListView(_) | DataType::LargeListView(_) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => is_shared(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_shared(field.data_type())),
        _ => false,
    }
}

/// Bytes that are left.
struct Room(u64);

impl Room {
    fn take(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.checked_sub(bytes)?;
        Some(())
    }

    /// Takes what the values `range` of `array` take, about; none where that is not left. Every value that is visited costs
    /// something, so that there is an end.
    fn hold(&mut self, array: &dyn Array, range: Range<usize>) -> Option<()> {
        /// Of numbers and times, no more than that.
        const FIXED: u64 = 16;
        let count = range.len() as u64;
        match array.data_type() {
            DataType::Utf8 => self.take(count + between(array.as_string::<i32>().offsets(), &range)),
            DataType::LargeUtf8 => self.take(count + between(array.as_string::<i64>().offsets(), &range)),
            DataType::Binary => self.take(count + between(array.as_binary::<i32>().offsets(), &range)),
            DataType::LargeBinary => self.take(count + between(array.as_binary::<i64>().offsets(), &range)),
            DataType::Utf8View => self.views(&array.as_string_view().views()[range]),
            DataType::BinaryView => self.views(&array.as_binary_view().views()[range]),
            DataType::Dictionary(..) => {
                let keys = array.slice(range.start, range.len());
                let dictionary = keys.as_any_dictionary();
                let values = dictionary.values();
                if values.is_empty() {
                    return Some(());
                }
                dictionary.normalized_keys().into_iter().try_for_each(|key| self.hold(values, key..key + 1))
            }
            DataType::List(_) => self.lists(array.as_list::<i32>().values(), array.as_list::<i32>().offsets(), range),
            DataType::LargeList(_) => {
                self.lists(array.as_list::<i64>().values(), array.as_list::<i64>().offsets(), range)
            }
            DataType::Map(..) => self.lists(array.as_map().entries(), array.as_map().offsets(), range),
            DataType::ListView(_) => self.list_views(array.as_list_view::<i32>(), range),
            DataType::LargeListView(_) => self.list_views(array.as_list_view::<i64>(), range),
            DataType::FixedSizeList(_, length) => {
                let length = usize::try_from(*length).ok()?;
                self.take(count)?;
                self.hold(array.as_fixed_size_list().values(), range.start * length..range.end * length)
            }
            DataType::Struct(_) => {
                self.take(count)?;
                array.as_struct().columns().iter().try_for_each(|column| self.hold(column, range.clone()))
            }
            _ => self.take(count.saturating_mul(FIXED)),
        }
    }

    /// The length of a view is its lower half.
    fn views(&mut self, views: &[u128]) -> Option<()> {
        views.iter().try_for_each(|view| self.take(1 + u64::from(*view as u32)))
    }

    fn lists<O: OffsetSizeTrait>(
        &mut self,
        values: &dyn Array,
        offsets: &OffsetBuffer<O>,
        rows: Range<usize>,
    ) -> Option<()> {
        self.take(rows.len() as u64)?;
        self.hold(values, offsets[rows.start].as_usize()..offsets[rows.end].as_usize())
    }

    fn list_views<O: OffsetSizeTrait>(&mut self, lists: &GenericListViewArray<O>, rows: Range<usize>) -> Option<()> {
        let mut spans = lists.offsets()[rows.clone()].iter().zip(&lists.sizes()[rows]);
        spans.try_for_each(|(start, length)| {
            self.take(1)?;
            self.hold(lists.values(), start.as_usize()..start.as_usize() + length.as_usize())
        })
    }
}

fn between<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, range: &Range<usize>) -> u64 {
    (offsets[range.end].as_usize() - offsets[range.start].as_usize()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, DictionaryArray, Int32Array, ListArray, ListViewArray, StringArray, StringViewArray, StructArray,
    };
    use arrow::datatypes::Field;
    use std::sync::Arc;

    fn repeated(text: &str) -> ArrayRef {
        let keys = Int32Array::from(vec![Some(0), None, Some(1), Some(0)]);
        Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec![text, "bc"]))))
    }

    fn size(array: &dyn Array) -> u64 {
        let mut room = Room(1000);
        room.hold(array, 0..array.len()).unwrap();
        1000 - room.0
    }

    /// A byte for every value, and the texts.
    #[test]
    fn what_is_shared_counts_for_every_row() {
        // The missing key is taken for the first.
        assert_eq!(size(&repeated("abcde")), 6 + 6 + 3 + 6);
        assert_eq!(size(&repeated("abcde").slice(2, 2)), 3 + 6);
        assert_eq!(size(&StringViewArray::from(vec![Some("x".repeat(30)), None])), 31 + 1);
        let field = Arc::new(Field::new("element", repeated("").data_type().clone(), true));
        let views = ListViewArray::new(field.clone(), vec![0, 0].into(), vec![4, 2].into(), repeated("abcde"), None);
        assert_eq!(size(&views), 1 + 21 + 1 + 12);
        let lists = ListArray::new(field, OffsetBuffer::from_lengths([1, 3]), repeated("abcde"), None);
        assert_eq!((size(&lists), size(&lists.slice(1, 1))), (2 + 21, 1 + 15));
        let parts = vec![(Arc::new(Field::new("a", repeated("").data_type().clone(), true)), repeated("abcde")); 2];
        assert_eq!(size(&StructArray::from(parts)), 4 + 2 * 21);
    }

    #[test]
    fn a_batch_that_would_take_too_much_is_named() {
        let text = "x".repeat(1 << 20);
        let keys = Int32Array::from(vec![0; 1025]);
        let column = Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec![text])))) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("prompt", column)]).unwrap();
        assert!(check(&batch.slice(0, 1024)).is_ok());
        let error = check(&batch).unwrap_err();
        assert_eq!(
            error,
            "column `prompt` shares its texts, and 1025 rows would take 1074790400 bytes; the most is 1073741824"
        );
    }
}
