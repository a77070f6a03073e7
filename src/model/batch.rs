//! The packed batch: a flat stream of tokens in which nothing is padded and every prompt is computed once.
//!
//! ```text
//! pair:       prompt            chosen        rejected
//! positions:  0 1 2 … p-1       p p+1 …       p p+1 …
//! attends to: itself           prompt+itself prompt+itself
//! ```
//!
//! The same batch serves scoring and training; SFT is the case with one response. The rows of a response end before its last
//! needed token: later rows predict no needed token.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::kernels::attention::{Segment, Stream};
use crate::kernels::indices::Indices;

/// A prompt and its two responses, as token ids.
#[derive(Debug, Clone, Copy)]
pub struct PairIds<'a> {
    /// The prompt; never empty.
    pub prompt: &'a [i32],
    /// Chosen and rejected response.
    pub responses: [&'a [i32]; 2],
}

impl<'a> PairIds<'a> {
    /// A prompt with one response; the second one has no token.
    pub fn alone(prompt: &'a [i32], response: &'a [i32]) -> Self {
        Self { prompt, responses: [response, &[]] }
    }
}

/// Which tokens of a response need a log-probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed<'a> {
    /// Every token.
    All,
    /// Where the mask is true; it has the response's length.
    Mask(&'a [bool]),
    /// No token.
    Nothing,
}

/// One answer to a prompt.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// Token ids.
    pub ids: &'a [i32],
    /// Which of them need a log-probability.
    pub needed: Needed<'a>,
}

impl Response<'_> {
    fn needs(&self, index: usize) -> bool {
        match self.needed {
            Needed::All => true,
            Needed::Mask(mask) => mask[index],
            Needed::Nothing => false,
        }
    }

    /// Tokens that go through the model: all before the last needed one.
    fn rows(&self) -> usize {
        (0..self.ids.len()).rev().find(|index| self.needs(*index)).unwrap_or(0)
    }
}

/// Prompts with their responses, as a model takes them.
#[derive(Debug, Clone, Default)]
pub struct PackedBatch {
    /// Token ids of the stream, `[rows]`.
    pub ids: Vec<i32>,
    /// Position of every token in its sequence, `[rows]`.
    pub positions: Vec<u32>,
    /// The segments of the stream, which determine the rows that each row attends to.
    pub segments: Vec<Segment>,
    /// Rows whose hidden state predicts a needed token, `[needed]`.
    pub rows: Vec<i32>,
    /// The needed tokens, `[needed]`.
    pub targets: Vec<i32>,
    /// The range of every response, in the order of `push`, in `rows`, `targets` and the log-probabilities.
    pub responses: Vec<Range<usize>>,
    /// Made by the first pass over the batch, for all passes and layers.
    staged: OnceLock<Staged>,
}

/// What kernels read of a batch. The lists reach a device in one copy.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) ids: Indices,
    pub(super) positions: Indices,
    pub(super) rows: Indices,
    pub(super) targets: Indices,
    pub(super) stream: Arc<Stream>,
}

impl PackedBatch {
    /// Rows that [`Self::push`] would add: what a token budget counts.
    pub fn cost(prompt: &[i32], responses: &[Response]) -> usize {
        prompt.len() + responses.iter().map(Response::rows).sum::<usize>()
    }

    /// Adds a prompt, which must not be empty, and its responses.
    pub fn push(&mut self, prompt: &[i32], responses: &[Response]) {
        assert!(!prompt.is_empty(), "a prompt has at least one token");
        self.staged = OnceLock::new();
        let index = self.segments.len();
        let last = self.extend(prompt, 0, None) + prompt.len() - 1;
        for response in responses {
            let input = &response.ids[..response.rows()];
            let start = self.extend(input, prompt.len(), Some(index));
            let first = self.targets.len();
            for (token, &id) in response.ids.iter().enumerate().filter(|(token, _)| response.needs(*token)) {
                self.rows.push(if token == 0 { last } else { start + token - 1 } as i32);
                self.targets.push(id);
            }
            self.responses.push(first..self.targets.len());
        }
    }

    /// Appends a segment; returns its first row.
    fn extend(&mut self, ids: &[i32], position: usize, prefix: Option<usize>) -> usize {
        let start = self.ids.len();
        if !ids.is_empty() {
            self.segments.push(Segment { start, rows: ids.len(), prefix });
            self.ids.extend_from_slice(ids);
            self.positions.extend((position..position + ids.len()).map(|position| position as u32));
        }
        start
    }

    /// What kernels read of the batch, which is complete.
    pub(super) fn staged(&self) -> &Staged {
        self.staged.get_or_init(|| {
            let positions: Vec<i32> = self.positions.iter().map(|position| *position as i32).collect();
            let lists = Indices::together([&self.ids, &positions, &self.rows, &self.targets]);
            let [ids, positions, rows, targets] = lists;
            Staged { ids, positions, rows, targets, stream: Arc::new(self.segments.clone().into()) }
        })
    }

    /// Rows of the stream.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True before the first push.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_shares_its_prompt() {
        let mut batch = PackedBatch::default();
        let mask = [false, true, false];
        let responses = [
            Response { ids: &[5, 6, 7], needed: Needed::All },
            Response { ids: &[8, 9, 10], needed: Needed::Mask(&mask) },
        ];
        assert_eq!(PackedBatch::cost(&[1, 2], &responses), 5);
        batch.push(&[1, 2], &responses);
        assert_eq!(batch.ids, [1, 2, 5, 6, 8]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 2]);
        assert_eq!(batch.rows, [1, 2, 3, 4]);
        assert_eq!(batch.targets, [5, 6, 7, 9]);
        assert_eq!(batch.responses, [0..3, 3..4]);
        let segment = |start, rows, prefix| Segment { start, rows, prefix };
        assert_eq!(batch.segments, [segment(0, 2, None), segment(2, 2, Some(0)), segment(4, 1, Some(0))]);
    }

    #[test]
    fn a_response_of_one_token_has_no_rows() {
        let mut batch = PackedBatch::default();
        let only = [Response { ids: &[5], needed: Needed::All }, Response { ids: &[6, 7], needed: Needed::Nothing }];
        batch.push(&[1], &only);
        assert_eq!((batch.len(), batch.segments.len()), (1, 1));
        assert_eq!((batch.rows, batch.targets, batch.responses), (vec![0], vec![5], vec![0..1, 1..1]));
    }
}
