//! Texts of SQL: patterns of LIKE, parts of a text, and its case.

use std::borrow::Cow;

use super::syntax::Case;

/// A part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// `%`
    Any,
    /// `_`
    One,
    Char(char),
}

/// Whether `text` is like `pattern`, in which `escape` takes the meaning from `%` and `_`.
///
/// # Errors
/// A pattern that ends with the escape character.
pub(super) fn like(text: &str, pattern: &str, escape: Option<char>, case: Case) -> Result<bool, String> {
    let fold = |text| if case == Case::Ignored { lower(text) } else { Cow::Borrowed(text) };
    let (text, pattern) = (fold(text), fold(pattern));
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            c if Some(c) == escape => {
                Piece::Char(chars.next().ok_or("a pattern of LIKE ends with its escape character")?)
            }
            '%' => Piece::Any,
            '_' => Piece::One,
            c => Piece::Char(c),
        });
    }
    Ok(matches(&text, &pieces))
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
    mapped(text, |c| match c {
        'İ' => 'i',
        c => only(c.to_lowercase()).unwrap_or(c),
    })
}

pub(super) fn upper(text: &str) -> Cow<'_, str> {
    mapped(text, |c| match c {
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

fn mapped(text: &str, map: impl Fn(char) -> char) -> Cow<'_, str> {
    match text.chars().any(|c| map(c) != c) {
        true => Cow::Owned(text.chars().map(map).collect()),
        false => Cow::Borrowed(text),
    }
}

/// The characters of `text` from `start`, counted from 1 or, below 0, from the end; `length` of them, or those in front of
/// `start` where it is below 0. Both may lie outside of the text.
pub(super) fn substring(text: &str, start: i128, length: Option<i128>) -> &str {
    let count = text.chars().count() as i128;
    let start = if start < 0 { count.saturating_add(start) } else { start - 1 };
    let end = length.map_or(count, |length| start.saturating_add(length));
    let inside = |place: i128| place.clamp(0, count);
    range(text, inside(start.min(end)), if length.is_none() { count } else { inside(start.max(end)) })
}

/// The first `length` characters; all but the last `-length` where it is below 0.
pub(super) fn left(text: &str, length: i128) -> &str {
    let count = text.chars().count() as i128;
    range(text, 0, if length < 0 { (count + length).max(0) } else { length.min(count) })
}

/// The last `length` characters; all but the first `-length` where it is below 0.
pub(super) fn right(text: &str, length: i128) -> &str {
    let count = text.chars().count() as i128;
    let length = if length < 0 { (count + length).max(0) } else { length.min(count) };
    range(text, count - length, count)
}

fn range(text: &str, from: i128, to: i128) -> &str {
    let at = |index: i128| text.char_indices().nth(index as usize).map_or(text.len(), |(at, _)| at);
    &text[at(from)..at(to)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let like = |text, pattern| like(text, pattern, None, Case::Matters).unwrap();
        assert!(like("abc", "a%c") && like("ac", "a%c") && like("a\nb", "a%b") && like("ü🙂", "__") && like("", "%"));
        assert!(like("aXbXc", "%X%X%") && like("aab", "%ab") && like("mississippi", "%iss%ip%i"));
        assert!(!like("abc", "a_") && !like("abc", "b%") && !like("A", "a") && !like("", "_") && !like("ab", "%abc"));
        let escaped = |text, pattern| super::like(text, pattern, Some('!'), Case::Ignored);
        assert!(escaped("A%b", "a!%B").unwrap() && !escaped("axb", "a!%b").unwrap());
        assert!(escaped("a", "a!").is_err());
    }

    #[test]
    fn parts_of_a_text() {
        assert_eq!([substring("héllo", 2, Some(3)), substring("héllo", 0, Some(2))], ["éll", "h"]);
        assert_eq!([substring("héllo", -3, Some(2)), substring("héllo", 2, Some(-1))], ["ll", "h"]);
        assert_eq!([substring("héllo", 2, None), substring("héllo", 9, None)], ["éllo", ""]);
        assert_eq!([substring("héllo", -6, Some(3)), substring("héllo", 7, Some(-2))], ["hé", "o"]);
        assert_eq!([substring("héllo", -9, None), substring("héllo", 0, Some(-1))], ["héllo", ""]);
        assert_eq!([left("héllo", 2), left("héllo", -2), left("héllo", -9)], ["hé", "hél", ""]);
        assert_eq!([right("héllo", 2), right("héllo", -2), right("héllo", 9)], ["lo", "llo", "héllo"]);
        assert_eq!((upper("straßeŉ"), lower("İΑΣ")), ("STRAẞEŉ".into(), "iασ".into()));
    }
}
