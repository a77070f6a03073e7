//! Whether what an Arrow IPC message says of its batch can be true, before the decoder believes it: it makes room for as
//! many bytes as the prefix of a packed buffer claims, and 2^62 of them end the program.

use arrow::ipc::{CompressionType, Message, RecordBatch};

use crate::io::limits::IPC_BATCH;

/// Bytes that one byte of an LZ4 frame unpacks to at most: a byte lengthens a match by 255.
const LZ4_GROWTH: u64 = 255;
/// The same of a Zstandard frame: a block of 128 KiB takes four bytes.
const ZSTD_GROWTH: u64 = 32 << 10;

/// Values that an array may have beside those that its batch has bits for: columns of nulls take no space.
const FREE_VALUES: u64 = 1 << 20;

/// Bytes from which on it is worth asking the allocator whether it has them.
const LARGE: u64 = 64 << 20;

/// Checks what `message` says of the batch in `body`; messages of other kinds say nothing.
///
/// # Errors
/// What cannot be true, or is more than a batch may have.
pub(super) fn check(message: Message, body: &[u8]) -> Result<(), String> {
    let batch = message.header_as_record_batch();
    let Some(batch) = batch.or_else(|| message.header_as_dictionary_batch()?.data()) else { return Ok(()) };
    let bytes = unpacked(batch, body)?;
    room(bytes)?;
    let most = bytes.saturating_mul(8).saturating_add(FREE_VALUES);
    let lengths = batch.nodes().into_iter().flatten().map(|node| node.length());
    for length in lengths.chain([batch.length()]) {
        if !u64::try_from(length).is_ok_and(|length| length <= most) {
            return Err(format!("an array of {length} values in a batch of {bytes} bytes"));
        }
    }
    Ok(())
}

/// The bytes of all buffers of `batch` once they are unpacked.
fn unpacked(batch: RecordBatch, body: &[u8]) -> Result<u64, String> {
    let growth = match batch.compression().map(|compression| compression.codec()) {
        None => None,
        Some(CompressionType::LZ4_FRAME) => Some(LZ4_GROWTH),
        // The decoder refuses what it does not know.
        Some(_) => Some(ZSTD_GROWTH),
    };
    let mut bytes = 0_u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let (offset, length) = (buffer.offset(), buffer.length());
        let range = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        let held = range.and_then(|(offset, length)| body.get(offset..offset.checked_add(length)?));
        let held = held.ok_or_else(|| {
            format!(
                "a buffer of {length} bytes at byte {offset} would lie outside of its batch of {} bytes",
                body.len()
            )
        })?;
        let size = match growth {
            Some(growth) if !held.is_empty() => claimed(held, growth)?,
            _ => held.len() as u64,
        };
        bytes = bytes.saturating_add(size);
    }
    Ok(bytes)
}

/// The unpacked length that the packed buffer `held` claims.
fn claimed(held: &[u8], growth: u64) -> Result<u64, String> {
    /// Stands for bytes that are not packed.
    const PLAIN: i64 = -1;
    let (prefix, packed) = held.split_first_chunk().ok_or("a packed buffer without its length")?;
    let packed = packed.len() as u64;
    match i64::from_le_bytes(*prefix) {
        PLAIN => Ok(packed),
        length => match u64::try_from(length) {
            Ok(bytes) if bytes <= packed.saturating_mul(growth) => Ok(bytes),
            _ => Err(format!("a buffer of {packed} packed bytes would unpack to {length}")),
        },
    }
}

/// Whether a batch may have `bytes`, and the allocator has them at all: readers end the program where it has not.
pub(super) fn room(bytes: u64) -> Result<(), String> {
    if bytes > IPC_BATCH {
        return Err(format!("a batch of {bytes} bytes; the most is {IPC_BATCH}, so write smaller batches"));
    }
    if bytes < LARGE {
        return Ok(());
    }
    let asked = Vec::<u8>::new().try_reserve_exact(bytes as usize);
    asked.map_err(|_| format!("a batch of {bytes} bytes, for which there is not enough memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_four_gibibytes_at_most() {
        assert_eq!(room(LARGE), Ok(()));
        let error = room(IPC_BATCH + 1).unwrap_err();
        assert_eq!(error, "a batch of 4294967297 bytes; the most is 4294967296, so write smaller batches");
    }

    #[test]
    fn a_packed_buffer_claims_what_its_codec_can_do() {
        let buffer = |length: i64| [&length.to_le_bytes()[..], &[0; 10]].concat();
        assert_eq!(claimed(&buffer(-1), LZ4_GROWTH), Ok(10));
        assert_eq!(claimed(&buffer(2550), LZ4_GROWTH), Ok(2550));
        assert_eq!(claimed(&buffer(2551), LZ4_GROWTH).unwrap_err(), "a buffer of 10 packed bytes would unpack to 2551");
        assert_eq!(claimed(&buffer(327_680), ZSTD_GROWTH), Ok(327_680));
        assert!(claimed(&buffer(327_681), ZSTD_GROWTH).is_err());
        assert_eq!(claimed(&[0; 7], LZ4_GROWTH).unwrap_err(), "a packed buffer without its length");
    }
}
