//! JSON text to a tree that keeps what others lose: the digits of numbers, and NaN and Infinity, which Python writes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// As it is written; also `NaN`, `Infinity` and `-Infinity`.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// Keys in order, every one once.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Where a text is not JSON.
#[derive(Debug, PartialEq)]
pub(super) struct Broken {
    /// Keys that lead there.
    pub(super) path: Vec<String>,
    message: String,
    /// Character, from 1.
    at: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at character {}", self.message, self.at)
    }
}

/// Deepest nesting.
const DEPTH: usize = 128;

/// The value that `text` is.
pub(super) fn parse(text: &str) -> Result<Json<'_>, Broken> {
    let mut parser = Parser { text, at: 0, path: Vec::new() };
    let parsed = parser.value(DEPTH).and_then(|value| {
        parser.skip_space();
        if parser.at == text.len() { Ok(value) } else { Err("more behind the end of the value".to_owned()) }
    });
    parsed.map_err(|message| Broken {
        path: std::mem::take(&mut parser.path),
        message,
        at: text[..parser.at].chars().count() + 1,
    })
}

impl Json<'_> {
    /// It as JSON that every reader takes: what is no number is null.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => out.push_str(if is_finite(number) { number } else { "null" }),
            Self::Text(text) => write_text(text, out),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Whether `number`, as written in JSON, is one.
pub(super) fn is_finite(number: &str) -> bool {
    !number.ends_with(['N', 'y'])
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

struct Parser<'a> {
    text: &'a str,
    /// Byte.
    at: usize,
    /// Keys of the objects around the place of an error.
    path: Vec<String>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, word: &str) -> bool {
        let is_there = self.text[self.at..].starts_with(word);
        self.at += if is_there { word.len() } else { 0 };
        is_there
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.text[self.at..].chars().next() {
            None => format!("the text ends where {wanted} belongs"),
            Some(found) if found.is_control() => format!("U+{:04X} where {wanted} belongs", u32::from(found)),
            Some(found) => format!("`{found}` where {wanted} belongs"),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, String> {
        self.skip_space();
        let deeper = || depth.checked_sub(1).ok_or_else(|| format!("nested more than {DEPTH} deep"));
        match self.peek() {
            Some(b'"') => self.string().map(Json::Text),
            Some(b'[') => self.list(deeper()?),
            Some(b'{') => self.object(deeper()?),
            Some(b'0'..=b'9') => self.number(),
            Some(b'-') if self.text[self.at..].starts_with("-Infinity") => {
                self.at += "-Infinity".len();
                Ok(Json::Number("-Infinity"))
            }
            Some(b'-') => self.number(),
            _ => {
                let words = [
                    ("null", Json::Null),
                    ("true", Json::Bool(true)),
                    ("false", Json::Bool(false)),
                    ("NaN", Json::Number("NaN")),
                    ("Infinity", Json::Number("Infinity")),
                ];
                let found = words.into_iter().find(|(word, _)| self.eat(word));
                found.map(|(_, value)| value).ok_or_else(|| self.unexpected("a value"))
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json<'a>, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.eat("]") {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.skip_space();
            if self.eat("]") {
                return Ok(Json::List(items));
            }
            if !self.eat(",") {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, String> {
        self.at += 1;
        let mut fields = Vec::new();
        self.skip_space();
        if self.eat("}") {
            return Ok(Json::Object(fields));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in quotes"));
            }
            let key = self.string()?;
            self.skip_space();
            if !self.eat(":") {
                return Err(self.unexpected("`:`"));
            }
            let value = self.value(depth).inspect_err(|_| self.path.insert(0, key.clone().into_owned()))?;
            fields.push((key, value));
            self.skip_space();
            if self.eat("}") {
                return Ok(Json::Object(once_each(fields)));
            }
            if !self.eat(",") {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
    }

    fn number(&mut self) -> Result<Json<'a>, String> {
        let start = self.at;
        self.eat("-");
        let zero = self.peek() == Some(b'0');
        let digits = self.digits()?;
        if zero && digits > 1 {
            return Err("a number that begins with 0".to_owned());
        }
        if self.eat(".") {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(Json::Number(&self.text[start..self.at]))
    }

    fn digits(&mut self) -> Result<usize, String> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok(self.at - start) }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.at += 1;
        let rest = &self.text[self.at..];
        let plain = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len());
        if rest.as_bytes().get(plain) == Some(&b'"') {
            self.at += plain + 1;
            return Ok(Cow::Borrowed(&rest[..plain]));
        }
        let mut text = String::with_capacity(plain + 16);
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len());
            text.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                None => return Err("the text ends inside of a string".to_owned()),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err("a control character inside of a string".to_owned()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let letter = self.text.as_bytes().get(self.at + 1).copied();
        let plain = match letter {
            Some(b'u') => return self.unicode(),
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            _ => return Err("an unknown escape".to_owned()),
        };
        self.at += 2;
        Ok(plain)
    }

    /// `\uXXXX`, or two of them for a character beyond U+FFFF.
    fn unicode(&mut self) -> Result<char, String> {
        let unit = |at: usize| {
            let escape = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            let is_hex = escape.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| u16::from_str_radix(escape, 16).ok()).flatten()
        };
        let first = unit(self.at).ok_or("an escape that is not `\\u` and four hexadecimal digits")?;
        let second = unit(self.at + 6).filter(|_| (0xd800..0xdc00).contains(&first));
        let units = [Some(first), second].into_iter().flatten().collect::<Vec<u16>>();
        match char::decode_utf16(units).next() {
            Some(Ok(character)) => {
                self.at += 6 * character.len_utf16();
                Ok(character)
            }
            _ => Err(format!(
                "`\\u{first:04x}` is a lone surrogate, half of a character beyond U+FFFF (a text that was cut in the middle of \
                 it?); no text holds it"
            )),
        }
    }
}

/// `fields` with the last value of every key, in the place of the first.
fn once_each<'a>(fields: Vec<(Cow<'a, str>, Json<'a>)>) -> Vec<(Cow<'a, str>, Json<'a>)> {
    const FEW: usize = 16;
    let is_unique = match fields.len() {
        ..=FEW => fields.iter().enumerate().all(|(at, (key, _))| fields[..at].iter().all(|(other, _)| other != key)),
        count => fields.iter().map(|(key, _)| key).collect::<std::collections::HashSet<_>>().len() == count,
    };
    if is_unique {
        return fields;
    }
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::new();
    let mut kept: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
    for (key, value) in fields {
        match places.get(&key) {
            Some(place) => kept[*place].1 = value,
            None => {
                places.insert(key.clone(), kept.len());
                kept.push((key, value));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_as_they_are_written() {
        let text = "{\"a\": [1e3, -0.50, 12297829382473034411, NaN, -Infinity, Infinity], \"b\": \"x\\n\\u00e9\\ud83d\\ude80\\/\", \
                    \"c\": {\"d\": null, \"e\": true, \"d\": false}}";
        let value = parse(text).unwrap();
        let mut written = String::new();
        value.write(&mut written);
        assert_eq!(
            written,
            "{\"a\":[1e3,-0.50,12297829382473034411,null,null,null],\"b\":\"x\\né🚀/\",\"c\":{\"d\":false,\"e\":true}}"
        );
        assert_eq!(parse(" \"\\ud83d\\ude80\" ").unwrap(), Json::Text("🚀".into()));
    }

    #[test]
    fn what_is_not_json_is_named_with_its_place() {
        for (text, path, expected) in [
            ("{\"a\": ", "a", "the text ends where a value belongs, at character 7"),
            ("{\"é\": {\"b\": [1, tru]}}", "é.b", "`t` where a value belongs, at character 17"),
            ("[1, ]", "", "`]` where a value belongs, at character 5"),
            ("{\"a\": 01}", "a", "a number that begins with 0, at character 9"),
            ("{\"a\" 1}", "", "`1` where `:` belongs, at character 6"),
            ("{'a': 1}", "", "`'` where a key in quotes belongs, at character 2"),
            ("1 2", "", "more behind the end of the value, at character 3"),
            ("{\"a\": \"\\q\"}", "a", "an unknown escape, at character 8"),
            ("{\"a\": \"x\ny\"}", "a", "a control character inside of a string, at character 9"),
            ("{\"a\": \"x", "a", "the text ends inside of a string, at character 9"),
            ("{\"a\": \"\\u12g4\"}", "a", "an escape that is not `\\u` and four hexadecimal digits, at character 8"),
        ] {
            let broken = parse(text).unwrap_err();
            assert_eq!((broken.path.join(".").as_str(), broken.to_string().as_str()), (path, expected), "{text}");
        }
        for lone in ["\\ud83d", "\\ud83d\\u0041", "\\ude80\\ud83d", "\\ud83d\\ud83d\\ude80"] {
            let broken = parse(&format!("{{\"c\": [\"cut {lone}\"]}}")).unwrap_err();
            assert!(broken.to_string().contains(" is a lone surrogate, half of a character beyond U+FFFF"), "{broken}");
            assert_eq!(broken.path, ["c"]);
        }
        assert!(parse(&"[".repeat(10_000)).unwrap_err().to_string().starts_with("nested more than 128 deep"));
    }
}
