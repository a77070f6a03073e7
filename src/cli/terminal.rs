//! What a terminal may be sent: text that others wrote must never become commands to it, and colours only where somebody sees
//! them.

use std::env;
use std::io::{IsTerminal, stdout};

/// Whether text has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    On,
    Off,
}

impl Colours {
    /// On where stdout is a terminal, unless `NO_COLOR` (<https://no-color.org>) or a terminal that has none says otherwise.
    pub(super) fn of_stdout() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let has_none = env::var_os("TERM").is_some_and(|name| name == "dumb");
        if stdout().is_terminal() && !refused && !has_none { Self::On } else { Self::Off }
    }
}

use std::io::IsTerminal;

/// Whether text on `stream` may be coloured: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
pub(super) fn has_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `text` with everything that a terminal would obey shown as an escape (`\u{1b}`); lines stay lines.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            c if is_obeyed(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// JSON in which the same characters are escaped as JSON does it.
pub(super) fn plain_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => out.push(c),
            // All of them have four digits at most.
            c if is_obeyed(c) => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

/// Control characters of both sets, and those that turn the direction of text, which makes it read as something else.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_obey() {
        let hostile = "a\u{1b}[2Jb\r\u{7}\u{9b}31m\u{202e}c\u{7f}\nשלום 🧮";
        let shown = plain(hostile);
        assert_eq!(shown, "a\\u{1b}[2Jb\\u{d}\\u{7}\\u{9b}31m\\u{202e}c\\u{7f}\nשלום 🧮");
        let json = plain_json(&serde_json::to_string(hostile).unwrap());
        assert!(!json.contains(is_obeyed), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }
}
