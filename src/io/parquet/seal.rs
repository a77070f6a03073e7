//! The seal of a file: checksums of the indexes of pages and of the footer, for which Parquet has no field. It lies between
//! them, where readers that do not know it do not look:
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | how many bytes before the seal are indexes of pages |
//! | 4 | CRC32 of those |
//! | 4 | CRC32 of all bytes behind the seal |
//! | 8 | `SEPOCRC1` |
//!
//! Numbers are little-endian.

use std::ops::Range;

use super::checksums::checksum;

/// The bytes of a seal.
pub(super) const BYTES: usize = 24;

const MARK: &[u8; 8] = b"SEPOCRC1";

/// The seal between `indexes` and `footer`.
pub(super) fn of(indexes: &[u8], footer: &[u8]) -> Vec<u8> {
    let (length, sums) = (indexes.len() as u64, [indexes, footer].map(|bytes| checksum(bytes).to_le_bytes()));
    [&length.to_le_bytes()[..], &sums.concat(), MARK].concat()
}

/// What a seal says of the indexes of pages: where they lie, and their checksum.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    indexes: Range<u64>,
    checksum: u32,
}

impl Sealed {
    /// The seal at the beginning of `end`, the last bytes of a file of `size` bytes, if there is one.
    ///
    /// # Errors
    /// What is wrong with the bytes behind it.
    pub(super) fn read(end: &[u8], size: u64) -> Result<Option<Self>, String> {
        let Some((seal, footer)) = end.split_first_chunk::<BYTES>().filter(|(seal, _)| seal.ends_with(MARK)) else {
            return Ok(None);
        };
        let number =
            |at: Range<usize>| seal[at].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        if number(12..16) != u64::from(checksum(footer)) {
            return Err(format!("{} (unless another program changed its metadata in place)", damaged("its footer")));
        }
        let behind = size - end.len() as u64;
        let before = behind.checked_sub(number(0..8)).ok_or_else(|| damaged("its seal"))?;
        Ok(Some(Self { indexes: before..behind, checksum: number(8..12) as u32 }))
    }

    /// Where the indexes of pages lie.
    pub(super) fn indexes(&self) -> Range<u64> {
        self.indexes.clone()
    }

    /// # Errors
    /// What is wrong with `indexes`.
    pub(super) fn check(&self, indexes: &[u8]) -> Result<(), String> {
        if checksum(indexes) == self.checksum { Ok(()) } else { Err(damaged("its index of pages")) }
    }
}

/// What is said of `what` with a checksum that is wrong.
pub(super) fn damaged(what: &str) -> String {
    format!(
        "{what} has another checksum than when it was written: the file was damaged; copy it again, or make it again"
    )
}
