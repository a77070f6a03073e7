//! Arrow IPC files and streams whose headers claim more than they hold. The decoder makes room for what it is told, and an
//! allocation that fails ends the program, so all of it runs with little address space.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, ByteView, NullArray, RecordBatch, StringArray, StringViewArray};
use arrow::buffer::Buffer;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, root_as_footer};
use sepo::io::{Dataset, Stores};

use crate::harness::Folder;

const SPACE: u64 = 3_000_000;

/// The words that all buffers of the packed column hold.
const TEXT: &str = "yes it is fine ";

fn batch() -> RecordBatch {
    let column = Arc::new(StringArray::from(vec![TEXT.repeat(20); 50])) as ArrayRef;
    RecordBatch::try_from_iter([("chosen", column)]).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    File,
    Stream,
}

fn written(form: Form, batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut bytes = Vec::new();
    match form {
        Form::File => {
            let mut writer = FileWriter::try_new_with_options(&mut bytes, &batch.schema(), options).unwrap();
            writer.write(batch).unwrap();
            writer.finish().unwrap();
        }
        Form::Stream => {
            let mut writer = StreamWriter::try_new_with_options(&mut bytes, &batch.schema(), options).unwrap();
            writer.write(batch).unwrap();
            writer.finish().unwrap();
        }
    }
    bytes
}

/// Where the only number `value` of eight bytes stands.
fn position(bytes: &[u8], value: i64, before: &[u8]) -> usize {
    let number = [&value.to_le_bytes()[..], before].concat();
    bytes.windows(number.len()).position(|window| window == number).unwrap()
}

fn rows(path: &Path) -> sepo::Result<usize> {
    let dataset = Dataset::open(&[path.display().to_string()], &Stores::default())?;
    let chunks = dataset.units().into_iter().flat_map(|unit| dataset.read(&unit, 10).unwrap());
    chunks.map(|chunk| chunk.map(|chunk| chunk.batch.num_rows())).sum()
}

#[test]
fn packed_buffers_that_claim_too_much_are_refused() {
    let magic =
        [(CompressionType::LZ4_FRAME, [0x04, 0x22, 0x4d, 0x18]), (CompressionType::ZSTD, [0x28, 0xb5, 0x2f, 0xfd])];
    for form in [Form::File, Form::Stream] {
        for (compression, magic) in magic {
            let folder = Folder::new();
            let good = written(form, &batch(), Some(compression));
            let path = folder.path("x.arrow");
            std::fs::write(&path, &good).unwrap();
            assert_eq!(rows(&path).unwrap(), 50);
            let at = position(&good, (TEXT.len() * 20 * 50) as i64, &magic);
            for claim in [40 << 30, 8 << 40, 1 << 62, i64::MAX, -5, i64::MIN] {
                let mut bytes = good.clone();
                bytes[at..at + 8].copy_from_slice(&i64::to_le_bytes(claim));
                std::fs::write(&path, &bytes).unwrap();
                let error = folder.fails_within(SPACE, &["inspect", "x.arrow"]);
                let wanted = format!("packed bytes would unpack to {claim}");
                assert!(error.contains("x.arrow, row group 0: a buffer of ") && error.contains(&wanted), "{error}");
            }
        }
    }
}

/// The header says where the buffers of a batch lie, and how many values they have.
#[test]
fn batches_that_claim_what_is_not_there_are_refused() {
    for form in [Form::File, Form::Stream] {
        let folder = Folder::new();
        let good = written(form, &batch(), None);
        let at = position(&good, (TEXT.len() * 20 * 50) as i64, &[]);
        let path = folder.path("x.arrow");
        for claim in [1_i64 << 62, 1 << 40, -1] {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let error = folder.fails_within(SPACE, &["inspect", "x.arrow"]);
            assert!(error.contains(&format!("x.arrow, row group 0: a buffer of {claim} bytes")), "{error}");
        }
        // The length and the number of nulls of the only array.
        let at = position(&good, 50, &0_i64.to_le_bytes());
        for claim in [1_i64 << 62, 1 << 40, -1] {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let error = folder.fails_within(SPACE, &["inspect", "x.arrow"]);
            assert!(error.contains(&format!("x.arrow, row group 0: an array of {claim} values")), "{error}");
        }
    }
}

/// A column of nulls has no bytes, so that any number of rows costs nothing to write.
#[test]
fn rows_without_bytes_have_a_bound() {
    for form in [Form::File, Form::Stream] {
        let folder = Folder::new();
        let nulls = |rows: usize| {
            let column = Arc::new(NullArray::new(rows)) as ArrayRef;
            written(form, &RecordBatch::try_from_iter([("x", column)]).unwrap(), None)
        };
        let path = folder.path("x.arrow");
        std::fs::write(&path, nulls(1 << 20)).unwrap();
        assert_eq!(rows(&path).unwrap(), 1 << 20);
        for count in [(1 << 20) + 1, 1 << 40, usize::MAX / 2] {
            std::fs::write(&path, nulls(count)).unwrap();
            let error = rows(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("x.arrow, row group 0: an array of {count} values")), "{error}");
        }
    }
}

/// A footer may name one batch any number of times, or one that is not there.
#[test]
fn footers_that_name_batches_twice_are_refused() {
    let folder = Folder::new();
    let mut bytes = Vec::new();
    let batch = batch();
    let mut writer = FileWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    (0..2).for_each(|_| writer.write(&batch).unwrap());
    writer.finish().unwrap();
    let path = folder.path("x.arrow");
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(rows(&path).unwrap(), 100);
    let length = u32::from_le_bytes(*bytes[bytes.len() - 10..].first_chunk().unwrap()) as usize;
    let footer = root_as_footer(&bytes[bytes.len() - 10 - length..bytes.len() - 10]).unwrap();
    // A block is its offset, the header's length and the body's, in 8 bytes each.
    let block = *footer.recordBatches().unwrap().get(1);
    let numbers = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
    let numbers = numbers.map(i64::to_le_bytes).concat();
    let body = bytes.windows(24).rposition(|window| window == numbers).unwrap() + 16;
    let lies: [(usize, i64); 4] = [(body, 1 << 62), (body, -1), (body - 16, 1 << 40), (body - 16, -8)];
    for (at, claim) in lies {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let error = folder.fails_within(SPACE, &["inspect", "x.arrow"]);
        assert!(error.contains("x.arrow: its footer lists batches outside of the file, or over each other"), "{error}");
    }
}

/// A view takes 16 bytes, and its text is looked at for every view.
#[test]
fn views_of_one_long_text_have_a_bound() {
    const LENGTH: usize = 1 << 20;
    let views = |count: usize| {
        let text = Buffer::from(vec![b'x'; LENGTH]);
        let view = u128::from(ByteView::new(LENGTH as u32, b"xxxx"));
        let array = StringViewArray::new(vec![view; count].into(), vec![text], None);
        RecordBatch::try_from_iter([("x", Arc::new(array) as ArrayRef)]).unwrap()
    };
    for form in [Form::File, Form::Stream] {
        for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            let folder = Folder::new();
            let path = folder.path("x.arrow");
            std::fs::write(&path, written(form, &views(100), compression)).unwrap();
            assert_eq!(rows(&path).unwrap(), 100);
            std::fs::write(&path, written(form, &views(1100), compression)).unwrap();
            let error = rows(&path).unwrap_err().to_string();
            assert!(
                error.contains("x.arrow, row group 0: views of texts of 1153433600 bytes; the most is "),
                "{error}"
            );
        }
    }
}
