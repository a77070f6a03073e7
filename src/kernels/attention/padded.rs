//! The stream as padded batches, for devices that want a few large operations instead of many small ones: segments of
//! similar size lie side by side in one group, and rows travel there and back by index.

use std::ops::Range;

use super::{Segment, Spans};

/// Most scores, over all heads, that the padded batch of several segments may have: 256 MiB in f32.
const SCORES: usize = 64 << 20;
/// Scores, over all heads, up to which nobody minds padding: fewer do not fill a device.
const FEW: usize = 32 << 20;

/// Where every row goes and comes from. All indices lie in one list, which a device gets in one piece.
#[derive(Debug, Default)]
pub(super) struct Padded {
    /// The list.
    pub(super) indices: Vec<i32>,
    /// The padded batches.
    pub(super) groups: Vec<Group>,
    /// Of every row of the stream, its place among the groups' padded queries, group after group.
    pub(super) queries: Range<usize>,
    /// Of every row of the stream, places among the groups' padded keys: lists of the stream's length, as many as it
    /// takes to name every place once. What is left over names the place behind the last one.
    pub(super) keys: Vec<Range<usize>>,
}

/// Segments side by side, each padded to as many rows and keys as the longest has. Padding names the row behind the
/// stream's last one.
#[derive(Debug)]
pub(super) struct Group {
    /// How many segments.
    pub(super) segments: usize,
    /// Rows of each.
    pub(super) rows: usize,
    /// Keys that each sees at most: those of its prefix, then its own.
    pub(super) keys: usize,
    /// `[segments, rows]`: the stream's row of every query.
    pub(super) queries: Range<usize>,
    /// `[segments, keys]`: the stream's row of every key.
    pub(super) seen: Range<usize>,
    /// `[segments, rows]`: the last key that the query sees.
    pub(super) last: Range<usize>,
    /// `[keys]`: 0, 1, 2, …
    pub(super) counted: Range<usize>,
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
            let seen = members.iter().map(|segment| spans.seen(segment).count()).max().unwrap_or_default();
            for (index, segment) in members.iter().enumerate() {
                for (place, row) in (queries + index * rows..).zip(segment.start..segment.start + segment.rows) {
                    of_queries[row] = place as i32;
                }
                for (place, row) in (keys + index * seen..).zip(spans.seen(segment)) {
                    if taken[row] == of_keys.len() {
                        of_keys.push(vec![-1; stream]);
                    }
                    of_keys[taken[row]][row] = place as i32;
                    taken[row] += 1;
                }
            }
            let group = padded.group(spans, &members, [rows, seen, stream]);
            padded.groups.push(group);
            queries += members.len() * rows;
            keys += members.len() * seen;
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
            seen: self.add(members.iter().flat_map(|segment| padded(spans.seen(segment).collect(), keys))),
            last: self.add(members.iter().flat_map(|segment| {
                let before = spans.prefix(segment).map_or(0, |prefix| prefix.rows);
                (before..before + rows).map(|key| key as i32)
            })),
            counted: self.add(0..keys as i32),
        }
    }

    fn add(&mut self, indices: impl IntoIterator<Item = i32>) -> Range<usize> {
        let start = self.indices.len();
        self.indices.extend(indices);
        start..self.indices.len()
    }
}

/// The segments by size, cut where padding would cost more than it saves.
fn groups(spans: &Spans) -> Vec<Vec<Segment>> {
    let size = |segment: &Segment| [spans.seen(segment).count(), segment.rows];
    let mut segments = spans.segments.to_vec();
    segments.sort_by_key(size);
    let mut groups: Vec<Vec<Segment>> = Vec::new();
    let (mut most_rows, mut exact) = (0, 0);
    for segment in segments {
        let [seen, rows] = size(&segment);
        let fits = |group: &Vec<Segment>| {
            let padded = spans.heads * (group.len() + 1) * seen * rows.max(most_rows);
            padded <= SCORES && (padded <= FEW || padded <= 2 * spans.heads * (exact + seen * rows))
        };
        match groups.last_mut() {
            Some(group) if fits(group) => {
                group.push(segment);
                (most_rows, exact) = (rows.max(most_rows), exact + seen * rows);
            }
            _ => {
                groups.push(vec![segment]);
                (most_rows, exact) = (rows, seen * rows);
            }
        }
    }
    groups
}

impl Spans {
    /// The stream's rows whose keys the last row of `segment` sees where there is no window: its prefix, then its own.
    fn seen(&self, segment: &Segment) -> impl Iterator<Item = usize> + use<> {
        let prefix = self.prefix(segment).map_or(0..0, |prefix| prefix.start..prefix.start + prefix.rows);
        prefix.chain(segment.start..segment.start + segment.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_finds_its_places() {
        let segment = |start, rows, prefix| Segment { start, rows, prefix };
        let segments = [segment(0, 2, None), segment(2, 1, Some(0)), segment(3, 2, Some(0))];
        let padded = Padded::new(&Spans::new(segments.into(), 2, 1, 4));
        let at = |range: &Range<usize>| &padded.indices[range.clone()];
        let [group] = &padded.groups[..] else { panic!("{padded:?}") };
        assert_eq!((group.segments, group.rows, group.keys), (3, 2, 4));
        assert_eq!(at(&group.queries), [0, 1, 2, 5, 3, 4]);
        assert_eq!(at(&group.seen), [0, 1, 5, 5, 0, 1, 2, 5, 0, 1, 3, 4]);
        assert_eq!(at(&group.last), [0, 1, 2, 3, 2, 3]);
        assert_eq!(at(&padded.queries), [0, 1, 2, 4, 5]);
        let keys: Vec<_> = padded.keys.iter().map(at).collect();
        assert_eq!(keys, [[0, 1, 6, 10, 11], [4, 5, 12, 12, 12], [8, 9, 12, 12, 12]]);
    }

    #[test]
    fn a_long_segment_stays_alone() {
        let segment = |start, rows| Segment { start, rows, prefix: None };
        let segments = [segment(0, 10), segment(10, 3000), segment(3010, 12)];
        let padded = Padded::new(&Spans::new(segments.into(), 4, 4, 8));
        let sizes: Vec<_> = padded.groups.iter().map(|group| (group.segments, group.rows)).collect();
        assert_eq!(sizes, [(2, 12), (1, 3000)]);
    }
}
