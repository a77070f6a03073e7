//! The page: one HTML file with its style, its script, its plots and its numbers, which opens from a disk and asks nothing of
//! a network.
//!
//! Text of a dataset never becomes markup: it is in the page as JSON in which nothing can end the element around it, and the
//! script puts it into the document as text alone. The page's own policy forbids every other script, style and request.

use serde::Serialize;
use serde_json::json;

use super::{Contents, Training};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Colours of tokens with a positive and with a negative reward (red, green, blue): the terminal has the same.
pub const COLOURS: [[u8; 3]; 2] = [[37, 99, 235], [217, 119, 6]];

/// Opacity of the colour behind the token with the largest reward of a row; the others have their part of it.
pub const STRONGEST: f64 = 0.8;

/// What a page is about.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Page<'a> {
    /// Scored rows.
    Rows(&'a Contents),
    /// A training.
    Training(&'a Training),
}

impl Page<'_> {
    fn title(&self) -> &'static str {
        match self {
            Self::Rows(_) => "Scored rows",
            Self::Training(_) => "Training",
        }
    }

    /// The plots, as SVG files with their names.
    pub fn plots(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Rows(contents) => contents.plots(),
            Self::Training(training) => training.plots(),
        }
    }
}

/// The page, as an HTML file.
pub fn html(page: &Page) -> String {
    let about = json!({"version": env!("CARGO_PKG_VERSION"), "colours": COLOURS, "strongest": STRONGEST});
    let text = |value: serde_json::Result<String>| inert(&value.expect("a report is plain data"));
    let (data, about) = (text(serde_json::to_string(page)), text(serde_json::to_string(&about)));
    let plots: String =
        page.plots().iter().map(|(name, svg)| format!("<figure id=\"{name}\">\n{svg}</figure>\n")).collect();
    // Nothing in the page can foretell the digest of all of it.
    let nonce = &blake3::hash([&data[..], &plots, SCRIPT].concat().as_bytes()).to_hex()[..32];
    filled(&[
        ("nonce", nonce),
        ("title", page.title()),
        ("style", STYLE),
        ("plots", &plots),
        ("about", &about),
        ("data", &data),
        ("script", SCRIPT),
    ])
}

/// The page with a value for each `{{name}}` in it; values are not looked at for names.
fn filled(values: &[(&str, &str)]) -> String {
    let (mut out, mut rest) = (String::new(), PAGE);
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, rest)| Some((before, rest.split_once("}}")?)))
    {
        out += before;
        out += values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        rest = after;
    }
    out + rest
}

/// JSON with no character that means something to HTML or ends a line of JavaScript: the same JSON to a parser.
fn inert(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn no_text_of_a_dataset_ends_the_element_that_it_is_in() {
        let hostile = "</script><script>alert(1)</script><!-- & \u{2028}\u{2029} {{script}} </style>";
        let json = inert(&json!({ hostile: hostile }).to_string());
        assert!(!json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{json}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap()[hostile], hostile);
        let training = crate::report::training(hostile.into(), "{\"step\": 1, \"part\": \"train\", \"loss\": 2}");
        let page = html(&Page::Training(&training));
        let scripts = html(&Page::Training(&crate::report::training("log".into(), ""))).matches("<script").count();
        assert_eq!(page.matches("<script").count(), scripts, "{page}");
        assert!(!page.contains("alert(1)</script>"), "{page}");
    }

    #[test]
    fn every_part_of_the_page_has_a_value_and_no_outside() {
        let page = html(&Page::Training(&crate::report::training("log".into(), "")));
        for word in ["{{", "http://", "https://", "src=", "href="] {
            let at = page.find(word);
            assert!(at.is_none() || page[at.unwrap()..].starts_with("http://www.w3.org/2000/svg"), "{word}");
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("insertAdjacentHTML") && !SCRIPT.contains("</"));
    }
}
