//! The mark of this process: 16 random digits in the name of everything that it writes before it is finished.
//!
//! A workdir records the marks of its runs, so that what a killed run left unfinished is known by a name that nobody else
//! can have given, wherever it lies.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::nonce;

/// How the names of unfinished files and folders begin. Listings leave them out.
const DRAFT: &str = ".sepo-";

/// The mark of this process, 16 hexadecimal digits.
pub fn mark() -> &'static str {
    static MARK: LazyLock<String> = LazyLock::new(|| nonce()[..16].to_owned());
    &MARK
}

/// A name for an unfinished file or folder that nothing else has.
pub fn draft_name() -> String {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    format!("{DRAFT}{}-{}", mark(), DRAFTS.fetch_add(1, Ordering::Relaxed))
}

/// The mark in the name of an unfinished file or folder; nothing for any other name.
pub fn mark_of(name: &str) -> Option<&str> {
    let (mark, number) = name.strip_prefix(DRAFT)?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (mark.len() == 16 && digits(mark) && digits(number)).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_are_known_by_their_mark() {
        let (one, two) = (draft_name(), draft_name());
        assert_ne!(one, two);
        assert_eq!([mark_of(&one), mark_of(&two)], [Some(mark()); 2]);
        for other in [".sepo-notes", ".sepo-0123456789abcdef", "sepo-0123456789abcdef-1", ".sepo-0123456789abcdeg-1"] {
            assert_eq!(mark_of(other), None, "{other}");
        }
    }
}
