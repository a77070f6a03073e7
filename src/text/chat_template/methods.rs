//! The methods of Python's `str`, `dict` and `list` for templates. As in the sandbox of `transformers`, there are none that modify a
//! value in place.

use std::fmt::{self, Write as _};

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Bytes per unit of fuel, as in the engine.
const BYTES_PER_FUEL: usize = 64;

/// The bytes charged for a field of `format` without a long argument.
const WIDEST: usize = 64;

/// The largest argument of `strip`: every character of the text is compared with each of its characters.
const STRIPPED: usize = 256;

/// Calls `value.method(args)`. Fuel for the value is consumed here, as the engine does for filters.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let result = match (value.kind(), value.as_str()) {
        (_, Some(text)) => {
            charge(state, text.len())?;
            text_method(state, text, method, args)?
        }
        (ValueKind::Map, _) => map_method(value, method, args)?,
        (ValueKind::Seq, _) => {
            state.consume_fuel(value.len().unwrap_or(0) as u64)?;
            list_method(value, method, args)?
        }
        _ => None,
    };
    result.ok_or_else(|| Error::from(ErrorKind::UnknownMethod))
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let pairs = || -> Result<Vec<(Value, Value)>, Error> {
        map.try_iter()?.map(|key| Ok((key.clone(), map.get_item(&key)?))).collect()
    };
    Ok(Some(match method {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = map.get_item(key)?;
            if found.is_undefined() { default.unwrap_or_else(|| Value::from(())) } else { found }
        }
        "keys" => {
            let () = from_args(args)?;
            map.try_iter()?.collect()
        }
        "values" => {
            let () = from_args(args)?;
            pairs()?.into_iter().map(|(_, item)| item).collect()
        }
        "items" => {
            let () = from_args(args)?;
            pairs()?.into_iter().map(|(key, item)| Value::from(Tuple::from([key, item]))).collect()
        }
        "copy" => {
            let () = from_args(args)?;
            map.clone()
        }
        _ => return Ok(None),
    }))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            Value::from(list.try_iter()?.filter(|item| item == wanted).count())
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|item| item == *wanted);
            Value::from(at.ok_or_else(|| invalid(format!("{wanted:?} is not in the list")))?)
        }
        "copy" => {
            let () = from_args(args)?;
            list.clone()
        }
        _ => return Ok(None),
    }))
}

fn text_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value = match method {
        "upper" => nothing(args, || text.to_uppercase())?,
        "lower" => nothing(args, || text.to_lowercase())?,
        "capitalize" => nothing(args, || capitalize(text))?,
        "title" => nothing(args, || title(text))?,
        "swapcase" => nothing(args, || swap_case(text))?,
        "isupper" => nothing(args, || any_cased(text) && !text.chars().any(char::is_lowercase))?,
        "islower" => nothing(args, || any_cased(text) && !text.chars().any(char::is_uppercase))?,
        "isspace" => nothing(args, || every(text, is_space))?,
        "isdigit" | "isdecimal" | "isnumeric" => nothing(args, || every(text, char::is_numeric))?,
        "isalpha" => nothing(args, || every(text, char::is_alphabetic))?,
        "isalnum" => nothing(args, || every(text, char::is_alphanumeric))?,
        "isascii" => nothing(args, || text.is_ascii())?,
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, few(chars)?, method != "rstrip", method != "lstrip"))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "startswith" => starts(state, text, args, |text, affix| text.starts_with(affix))?,
        "endswith" => starts(state, text, args, |text, affix| text.ends_with(affix))?,
        "find" => search(text, args, |text, needle| text.find(needle))?.map_or(Value::from(-1), Value::from),
        "rfind" => search(text, args, |text, needle| text.rfind(needle))?.map_or(Value::from(-1), Value::from),
        "index" => Value::from(search(text, args, |text, needle| text.find(needle))?.ok_or_else(absent)?),
        "rindex" => Value::from(search(text, args, |text, needle| text.rfind(needle))?.ok_or_else(absent)?),
        "count" => {
            let (needle, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(window(text, start, end).map_or(0, |(_, part)| part.matches(needle).count()))
        }
        "replace" => replace(state, text, args)?,
        "split" => split(state, text, args, false)?,
        "rsplit" => split(state, text, args, true)?,
        "splitlines" => {
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(options.get("keepends")?);
            options.assert_all_used()?;
            list(state, lines(text, keep.unwrap_or(false)))?.into()
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            triple(before, if before.len() < text.len() { separator } else { "" }, after)
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
            triple(before, if after.len() < text.len() { separator } else { "" }, after)
        }
        "join" => join(state, text, args)?,
        "ljust" | "rjust" | "center" => pad(state, text, method, args)?,
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let missing = width.saturating_sub(text.chars().count());
            charge(state, missing)?;
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "format" => {
            // No fuel is consumed elsewhere for widths and arguments.
            let huge = text.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() > 4);
            if huge {
                return Err(invalid("format: a width above 9999"));
            }
            let longest = args.iter().map(|value| shown(state, value).map(|text| text.len()));
            let longest = longest.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0);
            charge(state, text.matches('{').count().saturating_mul(longest.max(WIDEST)))?;
            Value::from(format(FormatStyle::StrFormat, text, args)?)
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn absent() -> Error {
    invalid("substring not found")
}

/// Consumes the fuel for `bytes`, before they are written or read.
pub(super) fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64)
}

/// `str(value)`, which consumes fuel as it is written.
pub(super) fn shown(state: &State, value: &Value) -> Result<String, Error> {
    struct Paid<'a, 'env> {
        state: &'a State<'a, 'env>,
        text: String,
    }
    impl fmt::Write for Paid<'_, '_> {
        fn write_str(&mut self, piece: &str) -> fmt::Result {
            let units = 1 + piece.len() / BYTES_PER_FUEL;
            self.state.consume_fuel(units as u64).map_err(|_| fmt::Error)?;
            self.text.push_str(piece);
            Ok(())
        }
    }
    let mut paid = Paid { state, text: String::new() };
    write!(paid, "{value}").map_err(|_| Error::from(ErrorKind::OutOfFuel))?;
    Ok(paid.text)
}

/// The characters to strip.
///
/// # Errors
/// More than [`STRIPPED`] bytes.
pub(super) fn few(chars: Option<&str>) -> Result<Option<&str>, Error> {
    match chars {
        Some(chars) if chars.len() > STRIPPED => Err(invalid(format!("strip: more than {STRIPPED} characters"))),
        chars => Ok(chars),
    }
}

/// The result of a method without arguments.
fn nothing<T: Into<Value>>(args: &[Value], make: impl FnOnce() -> T) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(make().into())
}

/// White space by `str.isspace`: that of Unicode, and four control characters.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// `str.strip` at the start, the end or both; white space if `chars` is `None`.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

fn every(text: &str, is: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn any_cased(text: &str) -> bool {
    text.chars().any(is_cased)
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase);
    first.into_iter().flatten().collect::<String>() + &chars.as_str().to_lowercase()
}

/// A letter after a character without case becomes upper case, so `it's` becomes `It'S`.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = is_cased(c);
    }
    out
}

fn swap_case(text: &str) -> String {
    let swap = |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
    text.chars().map(swap).collect()
}

/// The characters `start .. end`, counted as in a Python slice, and the number of characters before them; `None` if `start` is after
/// the end.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let count = text.chars().count();
    let place = |index: i64| {
        let back = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
        if index < 0 { count.saturating_sub(back) } else { back }
    };
    let (start, end) = (start.map_or(0, place), end.map_or(count, place).min(count));
    if start > end {
        return None;
    }
    let byte = |index: usize| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    Some((start, &text[byte(start)..byte(end)]))
}

fn starts(state: &State, text: &str, args: &[Value], is: impl Fn(&str, &str) -> bool) -> Result<Value, Error> {
    let (affix, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let Some((_, part)) = window(text, start, end) else { return Ok(Value::from(false)) };
    if let Some(affix) = affix.as_str() {
        return Ok(Value::from(is(part, affix)));
    }
    let mut any = false;
    for affix in affix.try_iter()? {
        state.consume_fuel(1)?;
        any |= is(part, affix.as_str().ok_or_else(|| invalid("expected a string or several strings"))?);
    }
    Ok(Value::from(any))
}

/// The position of the needle, in characters from the start of `text`.
fn search(text: &str, args: &[Value], find: impl Fn(&str, &str) -> Option<usize>) -> Result<Option<usize>, Error> {
    let (needle, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let found = window(text, start, end).and_then(|(before, part)| {
        let at = find(part, needle)?;
        Some(before + part[..at].chars().count())
    });
    Ok(found)
}

fn replace(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count, options): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
    let count = count.or(options.get("count")?);
    options.assert_all_used()?;
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let matches = count.min(text.len() / old.len().max(1) + 1);
    charge(state, matches.saturating_mul(new.len().saturating_sub(old.len())))?;
    Ok(Value::from(text.replacen(old, new, count)))
}

fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(args)?;
    let mut out = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let item = item.as_str().map(str::to_owned);
        let item = item.ok_or_else(|| invalid(format!("join: item {index} is no string")))?;
        charge(state, separator.len() + item.len())?;
        if index > 0 {
            out += separator;
        }
        out += &item;
    }
    Ok(Value::from(out))
}

fn pad(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    charge(state, missing.saturating_mul(fill.len()))?;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // In Python the odd padding character is on the left if the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

fn triple(before: &str, separator: &str, after: &str) -> Value {
    Value::from(Tuple::from([before, separator, after].map(Value::from)))
}

/// A list of texts, each of which costs a unit of fuel.
fn list<'a>(state: &State, texts: impl Iterator<Item = &'a str>) -> Result<Vec<Value>, Error> {
    texts.map(|text| state.consume_fuel(1).map(|()| Value::from(text))).collect()
}

/// `split`, or `rsplit` from the right: by a separator or by white space, with a limited number of cuts.
fn split(state: &State, text: &str, args: &[Value], right: bool) -> Result<Value, Error> {
    let (separator, cuts, options): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let named: Option<String> = options.get("sep")?;
    let separator = separator.or(named.as_deref());
    let cuts = cuts.or(options.get("maxsplit")?);
    options.assert_all_used()?;
    let cuts = cuts.and_then(|cuts| usize::try_from(cuts).ok()).unwrap_or(usize::MAX);
    let pieces = cuts.saturating_add(1);
    let mut out = match (separator, right) {
        (Some(""), _) => return Err(invalid("split: the separator is empty")),
        (Some(separator), false) => list(state, text.splitn(pieces, separator))?,
        (Some(separator), true) => list(state, text.rsplitn(pieces, separator))?,
        (None, false) => list(state, words(text, cuts))?,
        (None, true) => list(state, words_from_the_right(text, cuts))?,
    };
    if right {
        out.reverse();
    }
    Ok(out.into())
}

fn words(text: &str, cuts: usize) -> impl Iterator<Item = &str> {
    let mut rest = strip(text, None, true, false);
    let mut left = cuts;
    std::iter::from_fn(move || {
        let end = if left > 0 { rest.find(is_space) } else { None };
        left = left.saturating_sub(1);
        let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
        rest = strip(behind, None, true, false);
        (!word.is_empty()).then_some(word)
    })
}

/// The words from last to first.
fn words_from_the_right(text: &str, cuts: usize) -> impl Iterator<Item = &str> {
    let mut rest = strip(text, None, false, true);
    let mut left = cuts;
    std::iter::from_fn(move || {
        let space = if left > 0 { rest.char_indices().rfind(|(_, c)| is_space(*c)) } else { None };
        left = left.saturating_sub(1);
        let (before, word) = rest.split_at(space.map_or(0, |(at, c)| at + c.len_utf8()));
        rest = strip(before, None, false, true);
        (!word.is_empty()).then_some(word)
    })
}

/// `str.splitlines`, with all its line ends.
fn lines(text: &str, keep: bool) -> impl Iterator<Item = &str> {
    let ends =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut rest = text;
    std::iter::from_fn(move || {
        let Some(at) = rest.find(ends) else {
            let last = std::mem::take(&mut rest);
            return (!last.is_empty()).then_some(last);
        };
        let end = rest[at..]
            .strip_prefix("\r\n")
            .map_or_else(|| at + rest[at..].chars().next().map_or(0, char::len_utf8), |_| at + 2);
        let line = &rest[..if keep { end } else { at }];
        rest = &rest[end..];
        Some(line)
    })
}
