//! What every token adds to a text: ids are decoded behind those before them, because a tokenizer may write a token in another
//! way at the beginning of a text, and because several tokens may only together make one character.

use super::Tokenizer;
use crate::error::Result;

/// What a token adds to the text of the tokens before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The text. Where several tokens only together make whole characters, the first of them has the text and the others
    /// are empty: the pieces of a text one behind the other are the text.
    pub text: String,
    /// The characters that it covers in the text, from and to. Tokens that only together make whole characters cover the same.
    pub span: (usize, usize),
}

/// Bytes of the longest character: that many tokens at most wait for one another.
const LONGEST_CHARACTER: usize = 4;

/// What stands for bytes that are no whole character.
const BROKEN: char = '\u{fffd}';

impl Tokenizer {
    /// What each of `ids` adds to their text. Special tokens are written out; ids outside the vocabulary are empty.
    ///
    /// # Errors
    /// As for [`Tokenizer::decode`].
    pub fn pieces(&self, ids: &[i32]) -> Result<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(ids.len());
        // Tokens from `read` on have no piece yet; those from `from` on are decoded before them.
        let (mut from, mut read, mut at) = (0, 0, 0);
        for end in 1..=ids.len() {
            let text = self.decode(&ids[from..end])?;
            let waits = text.ends_with(BROKEN) && end - read < LONGEST_CHARACTER && end < ids.len();
            if waits {
                continue;
            }
            let before = self.decode(&ids[from..read])?;
            let added = match text.strip_prefix(&before) {
                Some(added) => added.to_owned(),
                None => self.decode(&ids[read..end])?,
            };
            let span = (at, at + added.chars().count());
            let rest = (read + 1..end).map(|_| Piece { text: String::new(), span });
            pieces.push(Piece { text: added, span });
            pieces.extend(rest);
            (from, read, at) = (read, end, span.1);
        }
        Ok(pieces)
    }
}
