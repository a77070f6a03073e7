//! How long the texts of views are together, before the decoder looks at each of them: views take 16 bytes, and a million of
//! them may name the same megabyte, which it would go through a million times.

use std::collections::VecDeque;
use std::io::Read;
use std::slice::Iter;

use arrow::datatypes::{DataType, FieldRef, UnionMode};
use arrow::ipc::{CompressionType, MetadataVersion, RecordBatch};

/// Bytes of the texts that a batch's views name, and how many for each byte of the batch.
const TEXTS: u64 = 1 << 30;
const GROWTH: u64 = 1000;

/// Checks the views in columns `fields` of `batch`, whose buffers lie in `body`.
///
/// # Errors
/// Texts that are longer than they may be.
pub(super) fn check(
    fields: &[FieldRef],
    batch: RecordBatch,
    version: MetadataVersion,
    body: &[u8],
) -> Result<(), String> {
    let buffers = batch.buffers().into_iter().flatten();
    let held = buffers
        .map(|buffer| body.get(buffer.offset() as usize..).and_then(|held| held.get(..buffer.length() as usize)));
    let held: Vec<&[u8]> = held.map(Option::unwrap_or_default).collect();
    let counts = batch.variadicBufferCounts().into_iter().flatten().collect();
    let mut walk = Walk { buffers: held.iter(), counts, version, views: Vec::new() };
    fields.iter().for_each(|field| walk.field(field.data_type()));
    let codec = batch.compression().map(|compression| compression.codec());
    let mut bytes = 0_u64;
    for views in walk.views {
        bytes = bytes.saturating_add(texts(views, codec)?);
    }
    let most = (body.len() as u64).saturating_mul(GROWTH).max(TEXTS);
    if bytes > most {
        return Err(format!("views of texts of {bytes} bytes; the most is {most}"));
    }
    Ok(())
}

/// Goes over the buffers of a batch in the order of its columns, as the decoder does.
struct Walk<'a> {
    buffers: Iter<'a, &'a [u8]>,
    /// Of every column of views the number of buffers with texts.
    counts: VecDeque<i64>,
    version: MetadataVersion,
    views: Vec<&'a [u8]>,
}

impl Walk<'_> {
    fn field(&mut self, kind: &DataType) {
        match kind {
            DataType::Null => {}
            DataType::Utf8View | DataType::BinaryView => {
                self.skip(1);
                self.views.extend(self.buffers.next());
                let texts = self.counts.pop_front().unwrap_or_default();
                self.skip(usize::try_from(texts).unwrap_or(usize::MAX));
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => self.skip(3),
            DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => {
                self.skip(2);
                self.field(field.data_type());
            }
            DataType::ListView(field) | DataType::LargeListView(field) => {
                self.skip(3);
                self.field(field.data_type());
            }
            DataType::FixedSizeList(field, _) => {
                self.skip(1);
                self.field(field.data_type());
            }
            DataType::Struct(fields) => {
                self.skip(1);
                fields.iter().for_each(|field| self.field(field.data_type()));
            }
            DataType::RunEndEncoded(ends, values) => {
                [ends, values].into_iter().for_each(|field| self.field(field.data_type()))
            }
            DataType::Union(fields, mode) => {
                let nulls = usize::from(self.version < MetadataVersion::V5);
                self.skip(nulls + if *mode == UnionMode::Dense { 2 } else { 1 });
                fields.iter().for_each(|(_, field)| self.field(field.data_type()));
            }
            // Nulls, and values or keys.
            _ => self.skip(2),
        }
    }

    fn skip(&mut self, count: usize) {
        if let Some(last) = count.checked_sub(1) {
            self.buffers.nth(last);
        }
    }
}

/// Bytes of the texts of `views`, unpacked if a codec packed them.
fn texts(views: &[u8], codec: Option<CompressionType>) -> Result<u64, String> {
    /// A view begins with the length of its text.
    const VIEW: usize = 16;
    let count = |views: &[u8]| {
        let lengths = views.chunks_exact(VIEW).filter_map(|view| view.first_chunk());
        lengths.fold(0_u64, |sum, length| sum.saturating_add(u64::from(u32::from_le_bytes(*length))))
    };
    let (Some(codec), Some((prefix, packed))) = (codec, views.split_first_chunk()) else { return Ok(count(views)) };
    let Ok(length) = usize::try_from(i64::from_le_bytes(*prefix)) else { return Ok(count(packed)) };
    let mut unpacked = Vec::new();
    let read = match codec {
        CompressionType::LZ4_FRAME => {
            lz4_flex::frame::FrameDecoder::new(packed).take(length as u64).read_to_end(&mut unpacked)
        }
        _ => zstd::Decoder::new(packed).and_then(|decoder| decoder.take(length as u64).read_to_end(&mut unpacked)),
    };
    read.map_err(|error| error.to_string())?;
    Ok(count(&unpacked))
}
