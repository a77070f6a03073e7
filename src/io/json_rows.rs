//! The texts of the rows of a JSON file: its lines, or the elements of its one array.

use std::io::{self, BufRead, Read};

use super::limits::{ROW, row_too_long};
use super::store::Location;
use super::text;
use crate::error::{Error, Place, Result};

/// The text of one row.
pub(super) struct Row {
    /// Line, or place in the array; from 1.
    pub(super) number: u64,
    pub(super) text: String,
}

type Rows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// The rows of `location`. A file that begins with `[` is one array of rows; any other has a row in every line that is
/// not empty.
pub(super) fn rows(location: &Location) -> Result<Rows> {
    let mut reader = text::reader(location)?;
    let start = reader.fill_buf().map_err(|error| Error::data(Place::file(location), error))?;
    let is_array = start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let location = location.clone();
    Ok(if is_array { Box::new(elements(reader, location)) } else { Box::new(lines(reader, location)) })
}

fn lines(mut reader: impl BufRead, location: Location) -> impl Iterator<Item = Result<Row>> {
    let mut number = 1;
    std::iter::from_fn(move || {
        loop {
            let text = skip_empty(&mut reader, &mut number).and_then(|()| line(&mut reader));
            number += 1;
            match text {
                Ok(None) => return None,
                // White space beyond ASCII's.
                Ok(Some(text)) if text.trim().is_empty() => {}
                Ok(Some(mut text)) => {
                    text.truncate(text.trim_end().len());
                    return Some(Ok(Row { number: number - 1, text }));
                }
                Err(error) => return Some(Err(Error::data(Place::file(&location).row(number - 1), error))),
            }
        }
    })
}

/// Goes past white space, whose ends of lines `number` counts.
fn skip_empty(reader: &mut impl BufRead, number: &mut u64) -> io::Result<()> {
    let mut skipped = 0;
    loop {
        let block = reader.fill_buf()?;
        let space = block.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(block.len());
        *number += block[..space].iter().filter(|byte| **byte == b'\n').count() as u64;
        skipped += space;
        if skipped > ROW {
            return Err(invalid(&format!("more than {ROW} bytes of empty lines")));
        }
        let ends = space < block.len() || space == 0;
        reader.consume(space);
        if ends {
            return Ok(());
        }
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let length = reader.take(ROW as u64 + 1).read_until(b'\n', &mut bytes)?;
    if length > ROW {
        return Err(row_too_long());
    }
    let text = String::from_utf8(bytes).map_err(|_| invalid("not UTF-8"))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn elements(mut reader: impl BufRead, location: Location) -> impl Iterator<Item = Result<Row>> {
    let mut number = 0;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        number += 1;
        let row = element(&mut reader, number == 1).and_then(|(text, last)| {
            done = last;
            if last {
                only_space(&mut reader)?;
            }
            String::from_utf8(text).map_err(|_| invalid("not UTF-8"))
        });
        match row {
            Ok(text) if text.trim().is_empty() && number == 1 && done => None,
            Ok(text) => Some(Ok(Row { number, text })),
            Err(error) => {
                done = true;
                Some(Err(Error::data(Place::file(&location).row(number), error)))
            }
        }
    })
}

/// The bytes of the next element, and whether it is the last. Commas and brackets count where they are outside of
/// strings; what lies between them is left to the JSON parser.
fn element(reader: &mut impl BufRead, first: bool) -> io::Result<(Vec<u8>, bool)> {
    let (mut bytes, mut depth) = (Vec::new(), u32::from(!first));
    let (mut in_string, mut escaped) = (false, false);
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Err(invalid("the array has no end (cut short while it was written or copied?)"));
        }
        for (at, &byte) in block.iter().enumerate() {
            let opens = !in_string && matches!(byte, b'[' | b'{');
            let closes = !in_string && matches!(byte, b']' | b'}');
            if depth == 1 && !in_string && (byte == b',' || closes) {
                bytes.extend_from_slice(&block[..at]);
                reader.consume(at + 1);
                // The bracket that opens the array lies in front of its first element.
                let start = if first { bytes.iter().position(|byte| *byte == b'[').map_or(0, |at| at + 1) } else { 0 };
                return Ok((bytes.split_off(start), closes));
            }
            depth = depth + u32::from(opens) - u32::from(closes);
            in_string ^= byte == b'"' && !escaped;
            escaped = in_string && byte == b'\\' && !escaped;
        }
        bytes.extend_from_slice(block);
        if bytes.len() > ROW {
            return Err(row_too_long());
        }
        let length = block.len();
        reader.consume(length);
    }
}

fn only_space(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Ok(());
        }
        if !block.trim_ascii().is_empty() {
            return Err(invalid("text behind the end of the array"));
        }
        let length = block.len();
        reader.consume(length);
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
