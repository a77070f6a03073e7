//! DuckDB's functions of texts that have another meaning elsewhere: patterns of LIKE, the case of letters, parts of texts.

use std::borrow::Cow;

use super::cells::Cell;
use super::types::Exact;

/// A part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// `%`
    Any,
    /// `_`
    One,
    Char(char),
}

/// The parts of `pattern`, in which `escape` takes the meaning from `%` and `_`; none where it ends with `escape`.
pub(super) fn pieces(pattern: &str, escape: Option<char>) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            c if Some(c) == escape => Piece::Char(chars.next()?),
            '%' => Piece::Any,
            '_' => Piece::One,
            c => Piece::Char(c),
        });
    }
    Some(pieces)
}

/// Whether `text` is like `pattern`, with letters of either case where `folds` says so.
pub(super) fn like(text: &str, pattern: &str, escape: Option<char>, folds: bool) -> bool {
    let fold = |text| if folds { lower(text) } else { Cow::Borrowed(text) };
    pieces(&fold(pattern), escape).is_some_and(|pieces| matches(&fold(text), &pieces))
}

/// Goes back to the last `%` only: what an earlier one took is as good as any.
fn matches(text: &str, pieces: &[Piece]) -> bool {
    let (mut rest, mut at) = (text, 0);
    let mut retry: Option<(&str, usize)> = None;
    loop {
        let mut chars = rest.chars();
        match (pieces.get(at), chars.next()) {
            (Some(Piece::Any), _) => {
                at += 1;
                retry = Some((rest, at));
                continue;
            }
            (Some(Piece::One), Some(_)) => {}
            (Some(Piece::Char(wanted)), Some(found)) if *wanted == found => {}
            (None, None) => return true,
            _ => {
                let Some((from, behind)) = retry else { return false };
                let mut skipped = from.chars();
                if skipped.next().is_none() {
                    return false;
                }
                (rest, at) = (skipped.as_str(), behind);
                retry = Some((rest, behind));
                continue;
            }
        }
        (rest, at) = (chars.as_str(), at + 1);
    }
}

/// Letter by letter, so that a text keeps its length: a letter whose other case is several letters stays.
pub(super) fn lower(text: &str) -> Cow<'_, str> {
    by_letter(text, |c| match c {
        'İ' => 'i',
        c => only(c.to_lowercase()).unwrap_or(c),
    })
}

pub(super) fn upper(text: &str) -> Cow<'_, str> {
    by_letter(text, |c| match c {
        'ß' => 'ẞ',
        // Letters with an iota below, whose one-letter form is that of titles.
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => shifted(c, 8),
        'ᾳ' | 'ῃ' | 'ῳ' => shifted(c, 9),
        c => only(c.to_uppercase()).unwrap_or(c),
    })
}

fn shifted(c: char, by: u32) -> char {
    char::from_u32(u32::from(c) + by).unwrap_or(c)
}

fn only(mut chars: impl Iterator<Item = char>) -> Option<char> {
    chars.next().filter(|_| chars.next().is_none())
}

fn by_letter(text: &str, map: impl Fn(char) -> char) -> Cow<'_, str> {
    match text.chars().any(|c| map(c) != c) {
        true => Cow::Owned(text.chars().map(map).collect()),
        false => Cow::Borrowed(text),
    }
}

/// A text by another function.
pub(super) fn mapped(cells: &[Cell<'_>], function: fn(&str) -> Cow<'_, str>) -> Cell<'static> {
    let [Cell::Text(text)] = cells else { return Cell::Null };
    Cell::Made(function(text).into_owned())
}

/// The place of a text in another, in characters from 1; 0 where it is not there.
pub(super) fn found(cells: &[Cell<'_>]) -> Cell<'static> {
    let [Cell::Text(text), Cell::Text(other)] = cells else { return Cell::Null };
    Cell::Int(text.find(*other).map_or(0, |at| text[..at].chars().count() as i128 + 1))
}

pub(super) fn replaced(cells: &[Cell<'_>]) -> Cell<'static> {
    let [Cell::Text(text), Cell::Text(from), Cell::Text(to)] = cells else { return Cell::Null };
    Cell::Made(if from.is_empty() { (*text).to_owned() } else { text.replace(*from, to) })
}

/// The characters of a text from a place, counted from 1 or, below 0, from the end; as many as asked for, or those in front of
/// the place where that is below 0. Both may lie outside of the text.
pub(super) fn substring(cells: &[Cell<'_>]) -> Cell<'static> {
    let (text, start, length) = match cells {
        [Cell::Text(text), Cell::Int(start)] => (text, *start, None),
        [Cell::Text(text), Cell::Int(start), Cell::Int(length)] => (text, *start, Some(*length)),
        _ => return Cell::Null,
    };
    let count = text.chars().count() as i128;
    let start = if start < 0 { count + start } else { start - 1 };
    let end = length.map_or(count, |length| start + length);
    range(text, start.min(end), if length.is_none() { count } else { start.max(end) })
}

/// The first characters; all but the last ones where their number is below 0.
pub(super) fn left(cells: &[Cell<'_>]) -> Cell<'static> {
    let [Cell::Text(text), Cell::Int(length)] = cells else { return Cell::Null };
    let count = text.chars().count() as i128;
    range(text, 0, if *length < 0 { count + length } else { *length })
}

/// The last characters; all but the first ones where their number is below 0.
pub(super) fn right(cells: &[Cell<'_>]) -> Cell<'static> {
    let [Cell::Text(text), Cell::Int(length)] = cells else { return Cell::Null };
    let count = text.chars().count() as i128;
    range(text, if *length < 0 { -length } else { count - length }, count)
}

/// The characters between two places, which may lie outside.
fn range(text: &str, from: i128, to: i128) -> Cell<'static> {
    let at = |place: i128| {
        let place = usize::try_from(place.max(0)).unwrap_or(usize::MAX);
        text.char_indices().nth(place).map_or(text.len(), |(at, _)| at)
    };
    Cell::Made(text.get(at(from)..at(to)).unwrap_or_default().to_owned())
}

/// The whole number within `to` that a text is, a fraction rounded half away from zero.
pub(super) fn whole(cells: &[Cell<'_>], to: Exact) -> Cell<'static> {
    let [Cell::Text(text)] = cells else { return Cell::Null };
    let text = text.trim_matches(is_space);
    // Doubles below 2^53 are exact.
    let rounded = || text.parse::<f64>().ok().filter(|double| double.abs() < 9e15).map(|double| double.round() as i128);
    let number = text.parse().ok().or_else(rounded).filter(|number| (to.low..=to.high).contains(number));
    number.map_or(Cell::Null, Cell::Int)
}

/// The number that a text is.
pub(super) fn double(cells: &[Cell<'_>]) -> Cell<'static> {
    let [Cell::Text(text)] = cells else { return Cell::Null };
    text.trim_matches(is_space).parse().map_or(Cell::Null, Cell::Double)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let like = |text, pattern| like(text, pattern, None, false);
        assert!(like("abc", "a%c") && like("ac", "a%c") && like("a\nb", "a%b") && like("ü🙂", "__") && like("", "%"));
        assert!(like("aXbXc", "%X%X%") && like("aab", "%ab") && like("mississippi", "%iss%ip%i"));
        assert!(!like("abc", "a_") && !like("abc", "b%") && !like("A", "a") && !like("", "_") && !like("ab", "%abc"));
        let escaped = |text, pattern| super::like(text, pattern, Some('!'), true);
        assert!(escaped("A%b", "a!%B") && !escaped("axb", "a!%b"));
        assert_eq!(pieces("a!", Some('!')), None);
    }

    #[test]
    fn parts_of_a_text() {
        let part = |function: fn(&[Cell<'_>]) -> Cell<'static>, places: &[i128]| {
            let mut cells = vec![Cell::Text("héllo")];
            cells.extend(places.iter().copied().map(Cell::Int));
            let Cell::Made(text) = function(&cells) else { panic!() };
            text
        };
        for (places, expected) in [
            (&[2, 3][..], "éll"),
            (&[0, 2], "h"),
            (&[-3, 2], "ll"),
            (&[2, -1], "h"),
            (&[2], "éllo"),
            (&[9], ""),
            (&[-6, 3], "hé"),
            (&[7, -2], "o"),
            (&[-9], "héllo"),
            (&[0, -1], ""),
        ] {
            assert_eq!(part(substring, places), expected, "{places:?}");
        }
        assert_eq!([2, -2, -9, 9].map(|length| part(left, &[length])), ["hé", "hél", "", "héllo"]);
        assert_eq!([2, -2, -9, 9].map(|length| part(right, &[length])), ["lo", "llo", "", "héllo"]);
        assert_eq!((upper("straßeŉ"), lower("İΑΣ")), ("STRAẞEŉ".into(), "iασ".into()));
    }
}
