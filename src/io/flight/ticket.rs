//! What names a piece of rows: a file and some of its row groups, as JSON that a client may keep, cut and send again.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// `{"file": "train-00000-of-00002.parquet", "groups": {"start": 0, "end": 4}}`. A client resumes by the tickets that it did not
/// take to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The file's path below what is served, with `/` between names.
    pub file: String,
    /// Row groups, from 0; all of them where they are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Groups>,
}

/// Consecutive row groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// The first.
    pub start: usize,
    /// The one behind the last.
    pub end: usize,
}

impl Ticket {
    /// Row groups `groups` of `file`.
    pub fn new(file: impl Into<String>, groups: Range<usize>) -> Self {
        Self { file: file.into(), groups: Some(Groups { start: groups.start, end: groups.end }) }
    }

    /// All of `file`.
    pub fn whole(file: impl Into<String>) -> Self {
        Self { file: file.into(), groups: None }
    }

    /// As bytes that a client sends back.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a ticket is plain data")
    }

    /// What a client sent.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| {
            format!("not a ticket ({error}); a ticket is {{\"file\": NAME, \"groups\": {{\"start\": 0, \"end\": 1}}}}")
        })
    }

    /// The groups that it names of a file with `count`, or what is wrong with them.
    ///
    /// # Errors
    /// Groups that the file does not have, and none at all.
    pub fn of(&self, count: usize) -> Result<Range<usize>, String> {
        match self.groups {
            None => Ok(0..count),
            Some(Groups { start, end }) if start < end && end <= count => Ok(start..end),
            Some(Groups { start, end }) => {
                Err(format!("`{}` has row groups 0 to {count}, and not {start} to {end}", self.file))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_comes_back_and_nothing_else_is_one() {
        let ticket = Ticket::new("sub/x.parquet", 2..5);
        assert_eq!(Ticket::parse(&ticket.to_bytes()), Ok(ticket.clone()));
        assert_eq!(Ticket::parse(b"{\"file\": \"x\"}"), Ok(Ticket::whole("x")));
        // serde reads a struct from a list, too.
        assert_eq!(Ticket::parse(b"{\"file\": \"x\", \"groups\": [0, 1]}"), Ok(Ticket::new("x", 0..1)));
        for wrong in
            [&b""[..], b"x", b"{}", b"{\"file\": \"x\", \"path\": \"/etc\"}", b"{\"file\": \"x\", \"groups\": [0]}"]
        {
            assert!(Ticket::parse(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(ticket.of(5), Ok(2..5));
        assert_eq!(Ticket::whole("x").of(3), Ok(0..3));
        assert_eq!(ticket.of(4), Err("`sub/x.parquet` has row groups 0 to 4, and not 2 to 5".into()));
        assert!(Ticket::new("x", 3..3).of(5).is_err());
        assert!(Ticket { file: "x".into(), groups: Some(Groups { start: 3, end: 2 }) }.of(5).is_err());
    }
}
