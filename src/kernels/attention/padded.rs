//! The stream as padded batches, for devices on which a few large operations are faster than many small ones: segments of similar size
//! form a group, and rows are gathered and scattered by index.

use std::ops::Range;

use super::{Segment, Spans};

/// The largest number of scores, over all heads, in a padded batch of several segments: 256 MiB in f32.
const SCORES: usize = 64 << 20;
/// The number of scores, over all heads, up to which padding costs nothing, because fewer do not fill a device.
const FEW: usize = 32 << 20;

/// The indices of all rows in the padded batches. They are in one list, which is copied to the device at once.
#[derive(Debug, Default)]
pub(super) struct Padded {
    /// The list of indices.
    pub(super) indices: Vec<i32>,
    /// The padded batches.
    pub(super) groups: Vec<Group>,
    /// For every row of the stream, its index in the padded queries of all groups.
    pub(super) queries: Range<usize>,
    /// For every row of the stream, its indices in the padded keys of all groups: lists of the length of the stream, as many as needed
    /// to have every index once. Unused entries have the index after the last one.
    pub(super) keys: Vec<Range<usize>>,
}

/// Segments in one batch, each padded to the rows and keys of the longest. Padding has the index after the last row of the stream.
#[derive(Debug)]
pub(super) struct Group {
    /// Number of segments.
    pub(super) segments: usize,
    /// Rows per segment.
    pub(super) rows: usize,
    /// Keys per segment: those of its prefix, then its own.
    pub(super) keys: usize,
    /// `[segments, rows]`: the row of every query in the stream.
    pub(super) queries: Range<usize>,
    /// `[segments, keys]`: the row of every key in the stream.
    pub(super) key_rows: Range<usize>,
    /// `[segments, rows]`: the last key that the query attends to.
    pub(super) last: Range<usize>,
    /// `[keys]`: 0, 1, 2, …
    pub(super) key_positions: Range<usize>,
}

impl Padded {
    /// The layout of a stream.
    pub(super) fn new(spans: &Spans) -> Self {
        let mut padded = Self::default();
        let stream = spans.segments.last().map_or(0, |last| last.start + last.rows);
        let mut of_queries = vec![0; stream];
        let mut of_keys: Vec<Vec<i32>> = Vec::new();
        let mut taken = vec![0; stream];
        let [mut queries, mut keys] = [0; 2];
        for members in groups(spans) {
            let rows = members.iter().map(|segment| segment.rows).max().unwrap_or_default();
            let keys_each = members.iter().map(|segment| spans.attended(segment).count()).max().unwrap_or_default();
            for (index, segment) in members.iter().enumerate() {
                for (place, row) in (queries + index * rows..).zip(segment.start..segment.start + segment.rows) {
                    of_queries[row] = place as i32;
                }
                for (place, row) in (keys + index * keys_each..).zip(spans.attended(segment)) {
                    if taken[row] == of_keys.len() {
                        of_keys.push(vec![-1; stream]);
                    }
                    of_keys[taken[row]][row] = place as i32;
                    taken[row] += 1;
                }
            }
            let group = padded.group(spans, &members, [rows, keys_each, stream]);
            padded.groups.push(group);
            queries += members.len() * rows;
            keys += members.len() * keys_each;
        }
        padded.queries = padded.add(of_queries);
        let left_over = keys as i32;
        for list in of_keys {
            let list = padded.add(list.into_iter().map(|place| if place < 0 { left_over } else { place }));
            padded.keys.push(list);
        }
        padded
    }

    fn group(&mut self, spans: &Spans, members: &[Segment], [rows, keys, padding]: [usize; 3]) -> Group {
        let padded = |own: Vec<usize>, count: usize| {
            let padding = std::iter::repeat_n(padding, count - own.len());
            own.into_iter().chain(padding).map(|row| row as i32)
        };
        let own = |segment: &Segment| (segment.start..segment.start + segment.rows).collect();
        Group {
            segments: members.len(),
            rows,
            keys,
            queries: self.add(members.iter().flat_map(|segment| padded(own(segment), rows))),
            key_rows: self.add(members.iter().flat_map(|segment| padded(spans.attended(segment).collect(), keys))),
            last: self.add(members.iter().flat_map(|segment| {
                let before = spans.prefix(segment).map_or(0, |prefix| prefix.rows);
                (before..before + rows).map(|key| key as i32)
            })),
            key_positions: self.add(0..keys as i32),
        }
    }

    fn add(&mut self, indices: impl IntoIterator<Item = i32>) -> Range<usize> {
        let start = self.indices.len();
        self.indices.extend(indices);
        start..self.indices.len()
    }
}

/// The segments by size, in groups within which padding costs less than it saves.
fn groups(spans: &Spans) -> Vec<Vec<Segment>> {
    let size = |segment: &Segment| [spans.attended(segment).count(), segment.rows];
    let mut segments = spans.segments.segments.clone();
    segments.sort_by_key(size);
    let mut groups: Vec<Vec<Segment>> = Vec::new();
    let (mut most_rows, mut exact) = (0, 0);
    for segment in segments {
        let [keys_each, rows] = size(&segment);
        let fits = |group: &Vec<Segment>| {
            let padded = spans.heads * (group.len() + 1) * keys_each * rows.max(most_rows);
            padded <= SCORES && (padded <= FEW || padded <= 2 * spans.heads * (exact + keys_each * rows))
        };
        match groups.last_mut() {
            Some(group) if fits(group) => {
                group.push(segment);
                (most_rows, exact) = (rows.max(most_rows), exact + keys_each * rows);
            }
            _ => {
                groups.push(vec![segment]);
                (most_rows, exact) = (rows, keys_each * rows);
            }
        }
    }
    groups
}

impl Spans {
    /// The rows of the stream that the last row of `segment` attends to without a window: those of its prefix, then its own.
    pub(super) fn attended(&self, segment: &Segment) -> impl Iterator<Item = usize> + use<> {
        let prefix = self.prefix(segment).map_or(0..0, |prefix| prefix.start..prefix.start + prefix.rows);
        prefix.chain(segment.start..segment.start + segment.rows)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Stream;
    use super::*;

    fn spans(segments: Vec<Segment>, [heads, kv_heads, head_dim]: [usize; 3]) -> Spans {
        Spans::new(Arc::new(Stream::from(segments)), heads, kv_heads, head_dim)
    }

    #[test]
    fn every_row_finds_its_places() {
        let segment = |start, rows, prefix| Segment { start, rows, prefix };
        let segments = [segment(0, 2, None), segment(2, 1, Some(0)), segment(3, 2, Some(0))];
        let padded = Padded::new(&spans(segments.to_vec(), [2, 1, 4]));
        let at = |range: &Range<usize>| &padded.indices[range.clone()];
        let [group] = &padded.groups[..] else { panic!("{padded:?}") };
        assert_eq!((group.segments, group.rows, group.keys), (3, 2, 4));
        assert_eq!(at(&group.queries), [0, 1, 2, 5, 3, 4]);
        assert_eq!(at(&group.key_rows), [0, 1, 5, 5, 0, 1, 2, 5, 0, 1, 3, 4]);
        assert_eq!(at(&group.last), [0, 1, 2, 3, 2, 3]);
        assert_eq!(at(&padded.queries), [0, 1, 2, 4, 5]);
        let keys: Vec<_> = padded.keys.iter().map(at).collect();
        assert_eq!(keys, [[0, 1, 6, 10, 11], [4, 5, 12, 12, 12], [8, 9, 12, 12, 12]]);
    }

    #[test]
    fn a_long_segment_stays_alone() {
        let segment = |start, rows| Segment { start, rows, prefix: None };
        let segments = [segment(0, 10), segment(10, 3000), segment(3010, 12)];
        let padded = Padded::new(&spans(segments.to_vec(), [4, 4, 8]));
        let sizes: Vec<_> = padded.groups.iter().map(|group| (group.segments, group.rows)).collect();
        assert_eq!(sizes, [(2, 12), (1, 3000)]);
    }
}
