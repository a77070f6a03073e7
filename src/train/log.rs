//! Metrics of a run as JSON Lines and as TensorBoard events, side by side in one folder.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::io::{Claim, Location, faults, mirror, nonce};

/// An open log.
pub struct Log {
    folder: String,
    lines: File,
    events: File,
    /// The files on this machine and, where the folder lies in a store, their places there.
    copies: Vec<(PathBuf, Location)>,
}

const METRICS: &str = "metrics.jsonl";

impl Log {
    /// Opens `metrics.jsonl` and an event file in the folder of `claim`, for a training that took `step` steps so far.
    /// Lines of later steps are of a training that was killed there; they are dropped. The files of an earlier training
    /// are replaced whole.
    ///
    /// # Errors
    /// A folder or a log that is not this training's; a store that fails.
    pub fn open(claim: &Claim, step: u64) -> Result<Self> {
        let mut owned = claim.open()?;
        let at = claim.folder.clone();
        let name = at.to_string();
        let here = || mirror::cache().join("logs").join(&blake3::hash(name.as_bytes()).to_hex()[..16]);
        let folder = at.local().map_or_else(here, PathBuf::from);
        let earlier = if step > 0 { at.join(METRICS).read()?.unwrap_or_default() } else { Bytes::new() };
        if step == 0 {
            let events: Vec<String> =
                owned.files().map(|(file, _)| file.to_owned()).filter(|file| file != METRICS).collect();
            events.iter().try_for_each(|file| owned.discard(file))?;
        }
        let event_file = format!("events.out.tfevents.{}.{}.sepo", now() as u64, nonce());
        for file in [METRICS, &event_file] {
            owned.expect(file)?;
        }
        let lines = begin(&folder.join(METRICS), &lines_until(&earlier, step))?;
        // Event.file_version = 3
        let version = message(&[(1, Field::Double(now())), (3, Field::Bytes(b"brain.Event:2"))]);
        let events = begin(&folder.join(&event_file), &record(&version))?;
        let in_store = [METRICS, &event_file].map(|file| (folder.join(file), at.join(file)));
        let copies = if at.local().is_some() { Vec::new() } else { in_store.into() };
        Ok(Self { folder: name, lines, events, copies })
    }

    /// The numbers of `metrics` at `step`, under `part` (`train`, `eval`).
    ///
    /// # Errors
    /// A disk that fails.
    pub fn write(&mut self, step: u64, part: &str, metrics: &Map<String, Value>) -> Result<()> {
        let mut line = Map::from_iter([("step".to_owned(), json!(step)), ("part".to_owned(), json!(part))]);
        line.extend(metrics.clone());
        let lines = faults::pass(&self.folder).and_then(|()| writeln!(self.lines, "{}", Value::Object(line)));
        let values = metrics.iter().filter_map(|(name, value)| {
            let tag = format!("{part}/{name}");
            // Summary.Value: tag = 1, simple_value = 2
            Some(message(&[(1, Field::Bytes(tag.as_bytes())), (2, Field::Float(value.as_f64()? as f32))]))
        });
        let values: Vec<Vec<u8>> = values.collect();
        let summary: Vec<(u32, Field)> = values.iter().map(|value| (1, Field::Bytes(value))).collect();
        let summary = message(&summary);
        // Event: wall_time = 1, step = 2, summary = 5
        let event = message(&[(1, Field::Double(now())), (2, Field::Varint(step)), (5, Field::Bytes(&summary))]);
        let events = self.events.write_all(&record(&event));
        lines.and(events).map_err(|error| failed(&self.folder, &error))
    }

    /// Brings what was written to the store that the folder lies in, if it does.
    ///
    /// # Errors
    /// A store that fails.
    pub fn publish(&self) -> Result<()> {
        self.copies.iter().try_for_each(|(file, to)| mirror::copy(file, to))
    }
}

/// The lines of `metrics` up to `step`.
fn lines_until(metrics: &[u8], step: u64) -> Vec<u8> {
    let is_earlier = |line: &&str| {
        let at = serde_json::from_str::<Value>(line).ok().and_then(|line| line.get("step")?.as_u64());
        at.is_some_and(|at| at <= step)
    };
    let text = String::from_utf8_lossy(metrics);
    text.lines().filter(is_earlier).flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// A file at `path` that begins with `bytes`, open for more.
fn begin(path: &Path, bytes: &[u8]) -> Result<File> {
    let name = path.display().to_string();
    Location::parse(&name)?.write(bytes.to_vec())?;
    File::options().append(true).open(path).map_err(|error| failed(&name, &error))
}

fn failed(folder: &str, error: &std::io::Error) -> Error {
    Error::Store { path: folder.to_owned(), message: error.to_string(), retryable: false }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A protocol buffer field.
enum Field<'a> {
    Varint(u64),
    Double(f64),
    Float(f32),
    Bytes(&'a [u8]),
}

fn message(fields: &[(u32, Field)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, field) in fields {
        let key = |wire: u32| u64::from(number << 3 | wire);
        match field {
            Field::Varint(value) => {
                varint(&mut out, key(0));
                varint(&mut out, *value);
            }
            Field::Double(value) => {
                varint(&mut out, key(1));
                out.extend(value.to_le_bytes());
            }
            Field::Bytes(bytes) => {
                varint(&mut out, key(2));
                varint(&mut out, bytes.len() as u64);
                out.extend(*bytes);
            }
            Field::Float(value) => {
                varint(&mut out, key(5));
                out.extend(value.to_le_bytes());
            }
        }
    }
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A TFRecord: length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    // tensorboard 2.20 wrote, for Event(wall_time=1.5, step=300, summary=Summary(value=[Value(tag="t", simple_value=0.5)])):
    // 09000000000000f83f10ac022a0a0a080a0174150000003f
    #[test]
    fn events_are_protocol_buffers() {
        let value = message(&[(1, Field::Bytes(b"t")), (2, Field::Float(0.5))]);
        let summary = message(&[(1, Field::Bytes(&value))]);
        let event = message(&[(1, Field::Double(1.5)), (2, Field::Varint(300)), (5, Field::Bytes(&summary))]);
        let hex: String = event.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "09000000000000f83f10ac022a0a0a080a0174150000003f");
        assert_eq!(record(&event).len(), 16 + event.len());
    }
}
