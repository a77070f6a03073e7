//! Where an answer ends: at a token, or at a text.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Result;
use crate::text::Tokenizer;

/// What ends an answer.
#[derive(Debug, Default)]
pub struct Stops {
    /// Tokens, such as the end of a turn.
    pub ids: BTreeSet<i32>,
    /// Texts; they need the tokenizer.
    pub texts: Vec<String>,
    /// The tokenizer that decodes answers.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

impl Stops {
    /// Whether the answer `ids` ends with its last token.
    pub(super) fn ends(&self, ids: &[i32]) -> Result<bool> {
        if ids.last().is_some_and(|last| self.ids.contains(last)) {
            return Ok(true);
        }
        let (Some(tokenizer), Some(longest)) = (&self.tokenizer, self.texts.iter().map(String::len).max()) else {
            return Ok(false);
        };
        // A token has at least one byte; the eight tokens before may affect how the first ones decode.
        let tail = tokenizer.decode(&ids[ids.len().saturating_sub(longest + 8)..])?;
        Ok(self.texts.iter().any(|text| tail.contains(text)))
    }

    /// The text of the answer `ids` without the stop token or stop text; `None` without a tokenizer.
    ///
    /// # Errors
    /// A token that the tokenizer cannot decode.
    pub fn text(&self, ids: &[i32]) -> Result<Option<String>> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(None) };
        let words = ids.strip_suffix(&[ids.last().copied().unwrap_or_default()]);
        let words = words.filter(|_| ids.last().is_some_and(|last| self.ids.contains(last))).unwrap_or(ids);
        let mut text = tokenizer.decode(words)?;
        if let Some(end) = self.texts.iter().filter_map(|stop| text.find(stop)).min() {
            text.truncate(end);
        }
        Ok(Some(text))
    }
}
