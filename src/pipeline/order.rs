//! The order of names that people expect: numbers in them count as numbers, so that `both_20` comes before `both_100`, and
//! `1e-4` before `0.001`.

use std::cmp::Ordering;

/// Compares two names or values.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let by_value = match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => pieces(a).cmp(pieces(b)),
    };
    by_value.then_with(|| a.cmp(b))
}

/// A piece of a name. Digits sort before everything else, as they do in ASCII.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    /// Digits without leading zeros: the longer ones are the larger number.
    Number(usize, &'a str),
    Text(&'a str),
}

fn pieces(name: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_digit = |c: char| c.is_ascii_digit();
        let numeric = rest.chars().next().map(is_digit)?;
        let end = rest.find(|c| is_digit(c) != numeric).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        let digits = piece.trim_start_matches('0');
        Some(if numeric { Piece::Number(digits.len(), digits) } else { Piece::Text(piece) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = [
            "both_100",
            "both_20",
            "all",
            "both_10",
            "chosen_10",
            "part_010",
            "part_9",
            "b",
            "99999999999999999999x",
            "1x",
        ];
        names.sort_by(|a, b| natural(a, b));
        let expected = [
            "1x",
            "99999999999999999999x",
            "all",
            "b",
            "both_10",
            "both_20",
            "both_100",
            "chosen_10",
            "part_9",
            "part_010",
        ];
        assert_eq!(names, expected);
        let mut values = ["0.001", "1e-4", "10", "-3", "2"];
        values.sort_by(|a, b| natural(a, b));
        assert_eq!(values, ["-3", "1e-4", "0.001", "2", "10"]);
    }
}
