//! What kind of text a token is.

use serde::Serialize;

/// The kind of a token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Class {
    /// Letters behind white space.
    WordStart,
    /// Letters without white space before them, and parts of a character.
    InsideWord,
    /// Digits.
    Digit,
    /// Neither letters nor digits.
    Punctuation,
    /// White space with a line break, or a line break with punctuation.
    Newline,
    /// White space without a line break.
    Whitespace,
    /// A special token: the end of a turn or a text.
    Special,
}

/// Part of a character.
const BROKEN: char = '\u{fffd}';

impl Class {
    /// All classes, in the order of tables.
    pub(super) const ALL: [Self; 7] = [
        Self::WordStart,
        Self::InsideWord,
        Self::Digit,
        Self::Punctuation,
        Self::Newline,
        Self::Whitespace,
        Self::Special,
    ];

    /// The class of `text`, which is not a special token's.
    pub(super) fn of(text: &str) -> Self {
        let rest = text.trim();
        let has = |is: fn(char) -> bool| rest.chars().any(is);
        match text.contains('\n') {
            _ if has(char::is_alphabetic) && text.starts_with(char::is_whitespace) => Self::WordStart,
            _ if text.is_empty() || has(|c| c.is_alphabetic() || c == BROKEN) => Self::InsideWord,
            _ if has(char::is_numeric) => Self::Digit,
            true => Self::Newline,
            false if rest.is_empty() => Self::Whitespace,
            false => Self::Punctuation,
        }
    }

    /// Whether `text` looks like that of a special token, for rows whose tokenizer is not at hand: `<|im_end|>`, `</s>`,
    /// `[SEP]`.
    pub(super) fn looks_special(text: &str) -> bool {
        let inside = |open: char, close: char| text.strip_prefix(open).and_then(|text| text.strip_suffix(close));
        let is_name = |name: &str| name.chars().all(|c| c.is_alphanumeric() || "|_/-".contains(c));
        match (inside('<', '>'), inside('[', ']')) {
            (Some(name), _) => name.len() > 1 && is_name(name),
            (_, Some(name)) => name.len() > 1 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_'),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_has_one_class() {
        for (text, class) in [
            (" the", Class::WordStart),
            ("\nThen", Class::WordStart),
            ("ing", Class::InsideWord),
            ("字", Class::InsideWord),
            ("\u{fffd}", Class::InsideWord),
            ("", Class::InsideWord),
            ("7", Class::Digit),
            (" 42", Class::Digit),
            (".", Class::Punctuation),
            (" –", Class::Punctuation),
            (".\n\n", Class::Newline),
            ("\n", Class::Newline),
            ("  ", Class::Whitespace),
            ("\t", Class::Whitespace),
        ] {
            assert_eq!(Class::of(text), class, "{text:?}");
        }
        for text in ["<|im_end|>", "</s>", "<eos>", "[SEP]"] {
            assert!(Class::looks_special(text), "{text}");
        }
        for text in ["<", "<>", "< b >", "[1]", "[a]", "a>"] {
            assert!(!Class::looks_special(text), "{text}");
        }
    }
}
