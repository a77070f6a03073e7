//! Sequences as FlashAttention takes them: each has queries and keys, the causal mask is aligned to the last query and the last key. With
//! every segment of a stream as a sequence, whose keys are those of its prefix and then its own, that is span attention.

#[cfg(feature = "tch")]
use super::Spans;

/// The lists of some sequences. Their numbers fit 32 bits, as FlashAttention wants them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gathered {
    /// The row of every key: a prompt's rows once for itself and once for each answer.
    pub(super) keys: Vec<i32>,
    /// Where the queries of each sequence end, from 0.
    pub(super) query_ends: Vec<i32>,
    /// Where the keys of each sequence end, from 0.
    pub(super) key_ends: Vec<i32>,
}

impl Default for Gathered {
    fn default() -> Self {
        Self { keys: Vec::new(), query_ends: vec![0], key_ends: vec![0] }
    }
}

impl Gathered {
    /// Adds a sequence of `queries` queries and the `keys`.
    pub(super) fn push(&mut self, queries: usize, keys: impl Iterator<Item = i32>) {
        self.keys.extend(keys);
        let before = self.query_ends.last().copied().unwrap_or_default();
        self.query_ends.push(before + queries as i32);
        self.key_ends.push(self.keys.len() as i32);
    }
}

#[cfg(feature = "tch")]
impl Gathered {
    /// The lists of the stream of `spans`.
    pub(super) fn new(spans: &Spans) -> Self {
        let mut gathered = Self::default();
        for segment in spans.segments.iter() {
            gathered.push(segment.rows, spans.attended(segment).map(|row| row as i32));
        }
        gathered
    }

    /// How many sequences of a single query come first.
    pub(super) fn alone(&self) -> usize {
        self.query_ends.windows(2).take_while(|ends| ends[1] - ends[0] == 1).count()
    }

    /// The lists without the first `count` sequences.
    pub(super) fn after(&self, count: usize) -> Self {
        let from = |ends: &[i32]| ends[count..].iter().map(|end| end - ends[count]).collect();
        let (query_ends, key_ends) = (from(&self.query_ends), from(&self.key_ends));
        Self { keys: self.keys[self.key_ends[count] as usize..].to_vec(), query_ends, key_ends }
    }

    /// The most queries and the most keys of a sequence.
    pub(super) fn longest(&self) -> [i64; 2] {
        [&self.query_ends, &self.key_ends].map(|ends| {
            let lengths = ends.windows(2).map(|ends| i64::from(ends[1] - ends[0]));
            lengths.max().unwrap_or_default()
        })
    }
}

#[cfg(feature = "tch")]
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Segment, Stream};
    use super::*;

    #[test]
    fn an_answer_sees_its_prompt_and_itself() {
        let segment = |start, rows, prefix| Segment { start, rows, prefix };
        let segments = vec![segment(0, 2, None), segment(2, 1, Some(0)), segment(3, 3, Some(0)), segment(6, 1, None)];
        let gathered = Gathered::new(&Spans::new(Arc::new(Stream::from(segments)), 2, 1, 4));
        let want = Gathered {
            keys: vec![0, 1, 0, 1, 2, 0, 1, 3, 4, 5, 6],
            query_ends: vec![0, 2, 3, 6, 7],
            key_ends: vec![0, 2, 5, 10, 11],
        };
        assert_eq!(gathered, want);
        assert_eq!(gathered.longest(), [3, 5]);
        assert_eq!([gathered.alone(), gathered.after(1).alone(), gathered.after(3).alone()], [0, 1, 1]);
        let last = Gathered { keys: vec![0, 1, 3, 4, 5, 6], query_ends: vec![0, 3, 4], key_ends: vec![0, 5, 6] };
        assert_eq!(gathered.after(2), last);
    }
}
