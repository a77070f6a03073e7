//! The stream as FlashAttention takes it: every segment is a sequence of queries with a sequence of keys, those of its prefix and then
//! its own. With the causal mask aligned to the last query and the last key, that is span attention.

use super::Spans;

/// The lists of a stream. Their numbers fit 32 bits, as FlashAttention wants them.
#[derive(Debug, PartialEq)]
pub(super) struct Gathered {
    /// The row of every key: a prompt's rows once for itself and once for each answer.
    pub(super) keys: Vec<i32>,
    /// Where the queries of each segment end, from 0.
    pub(super) query_ends: Vec<i32>,
    /// Where the keys of each segment end, from 0.
    pub(super) key_ends: Vec<i32>,
    /// The most queries and the most keys of a segment.
    pub(super) longest: [i64; 2],
}

impl Gathered {
    /// The lists of the stream of `spans`.
    pub(super) fn new(spans: &Spans) -> Self {
        let mut gathered = Self { keys: Vec::new(), query_ends: vec![0], key_ends: vec![0], longest: [0; 2] };
        for segment in spans.segments.iter() {
            let before = gathered.keys.len();
            gathered.keys.extend(spans.attended(segment).map(|row| row as i32));
            gathered.query_ends.push((segment.start + segment.rows) as i32);
            gathered.key_ends.push(gathered.keys.len() as i32);
            let [queries, keys] = gathered.longest;
            gathered.longest = [queries.max(segment.rows as i64), keys.max((gathered.keys.len() - before) as i64)];
        }
        gathered
    }
}

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
            longest: [3, 5],
        };
        assert_eq!(gathered, want);
    }
}
