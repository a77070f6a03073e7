//! The texts of the rows of a CSV file. Where a row ends depends on its quotes, and without a bound on a row a file of a few
//! megabytes can hold a field of gigabytes.
//!
//! Quotes, commas and ends of lines are read as `csv` and Python's `csv` read them: a quote opens a field only at its start,
//! two quotes inside of quotes are one, and what follows a closing quote belongs to the field.

use std::io::{self, BufRead};

use super::limits::{ROW, row_too_long};
use super::store::Location;
use super::text;
use crate::error::{Error, Place, Result};

/// The text of one row, with its end of line.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Place below the header, from 1; of the header 0.
    pub(super) number: u64,
    pub(super) text: String,
    pub(super) fields: usize,
}

/// Where in a row a byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first byte of a row: empty lines are no rows.
    RowStart,
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote inside of quotes: the first of two, or the closing one.
    Quote,
}

/// The header and the rows of `location`.
pub(super) fn rows(location: &Location) -> Result<impl Iterator<Item = Result<Row>> + Send + use<>> {
    let (mut reader, location) = (text::reader(location)?, location.clone());
    let mut number = 0;
    let mut done = false;
    Ok(std::iter::from_fn(move || {
        if done {
            return None;
        }
        let row = row(&mut reader).map_err(|error| Error::data(Place::file(&location).row(number), error));
        done = !matches!(row, Ok(Some(_)));
        let row = row.transpose()?.map(|(text, fields)| Row { number, text, fields });
        number += 1;
        Some(row)
    }))
}

/// The next row and its number of fields; none at the end.
fn row(reader: &mut impl BufRead) -> io::Result<Option<(String, usize)>> {
    let (mut text, mut state, mut fields, mut skipped) = (Vec::new(), State::RowStart, 1, 0);
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            match state {
                State::Quoted => {
                    return Err(invalid("a field in quotes has no end (cut short while it was written or copied?)"));
                }
                State::RowStart => {}
                _ => text.push(b'\n'),
            }
            break;
        }
        let mut end = None;
        for (at, &byte) in block.iter().enumerate() {
            let quoted = state == State::Quoted;
            state = match (state, byte) {
                (State::RowStart, b'\n' | b'\r') => State::RowStart,
                (State::Quoted, b'"') => State::Quote,
                (State::Quoted, _) => State::Quoted,
                (State::Quote, b'"') => State::Quoted,
                (_, b'\n' | b'\r') => {
                    end = Some(at + 1);
                    break;
                }
                (_, b',') => State::FieldStart,
                (State::RowStart | State::FieldStart, b'"') => State::Quoted,
                _ => State::Plain,
            };
            fields += usize::from(byte == b',' && !quoted);
        }
        let length = end.unwrap_or(block.len());
        if text.is_empty() && state == State::RowStart {
            skipped += length;
        } else {
            text.extend_from_slice(&block[..length]);
        }
        reader.consume(length);
        if text.len() > ROW {
            return Err(row_too_long());
        }
        if skipped > ROW {
            return Err(invalid(&format!("more than {ROW} bytes of empty lines")));
        }
        if end.is_some() {
            break;
        }
    }
    let empty = text.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let text = String::from_utf8(text.split_off(empty));
    let text = text.map_err(|_| invalid("not UTF-8"))?;
    Ok((!text.is_empty()).then_some((text, fields)))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, block: usize) -> Vec<(String, usize)> {
        let mut reader = io::BufReader::with_capacity(block, text.as_bytes());
        std::iter::from_fn(|| row(&mut reader).unwrap()).collect()
    }

    #[test]
    fn rows_end_where_csv_readers_end_them() {
        let text = "a,b\r\n\n\"x,\n\"\"y\"\"\",7\n\r\rin\"side,\"\"\n\"q\"tail,\rlast";
        let expected =
            [("a,b\r", 2), ("\"x,\n\"\"y\"\"\",7\n", 2), ("in\"side,\"\"\n", 2), ("\"q\"tail,\r", 2), ("last\n", 1)];
        for block in [1, 2, 5, 100] {
            let rows = rows(text, block);
            let rows: Vec<(&str, usize)> = rows.iter().map(|(text, fields)| (text.as_str(), *fields)).collect();
            assert_eq!(rows, expected, "{block}");
        }
        assert!(rows("\n\r\n", 2).is_empty());
    }

    #[test]
    fn a_quote_without_end_is_an_error() {
        let error = row(&mut "a,\"b\nc\n".as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("a field in quotes has no end"), "{error}");
    }
}
