//! What is rewritten in a template's text before it is parsed.
//!
//! - Ends of lines become `\n`, as in jinja2.
//! - `{% generation %}` marks an answer's text for trainers that take masks from the template. Its body is a scope of its
//!   own, a `with` block, between two variables that write nothing unless the masks are asked for.
//! - A macro sees the variables around it that its body reads. minijinja does not count `{% set ns.x = … %}` as
//!   reading `ns`, so an empty `{% if ns %}` follows it.
//! - jinja2 does not trim the end of the line behind `{% raw %}`.
//!
//! Engines parse by recursion, some of it over tags that follow each other (`elif`), so a very long tag or template would
//! overflow the stack; both are refused.
//!
//! White-space marks stay where they were, and so do lines: messages name the template's own.

/// Longest tag, in bytes outside of texts. Two to four times as many would overflow a thread's stack of 2 MiB.
const LONGEST_TAG: usize = 4096;

/// Longest template, in bytes. Published ones have up to thirty thousand.
const LONGEST: usize = 256 << 10;

/// The variable in front of what an assistant writes.
pub(super) const OPEN: &str = "generation_opens";
/// The variable behind it.
pub(super) const CLOSE: &str = "generation_closes";

/// `source` for minijinja.
///
/// # Errors
/// A template that is too long, or a tag, with its line.
pub(super) fn prepare(source: &str) -> Result<String, String> {
    if source.len() > LONGEST {
        return Err(format!("{} bytes long; at most {LONGEST} are read", source.len()));
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    let opens = |rest: &str, at: usize| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
    while let Some((at, _)) = rest.match_indices('{').find(|(at, _)| opens(rest, *at)) {
        let (text, opened) = rest.split_at(at);
        out += text;
        let word = opened.strip_prefix("{%").map_or("", first_word);
        // Nothing but its end means anything inside of a raw block.
        let end = match &opened[..2] {
            _ if raw && word != "endraw" => Some(2),
            "{%" => tag_end(opened, "%}"),
            "{{" => tag_end(opened, "}}"),
            _ => Some(opened.find("#}").map_or(opened.len(), |end| end + 2)),
        };
        let end = end.ok_or_else(|| too_long(&out))?;
        let (tag, behind) = opened.split_at(end);
        match word {
            _ if raw => out += tag,
            "generation" => out += &around(tag, "with", OPEN, "if true"),
            "endgeneration" => out += &around(tag, "endif", CLOSE, "endwith"),
            "set" => out += &reading_its_namespace(tag),
            "raw" => out += &keeping_its_first_line(tag),
            _ => out += tag,
        }
        raw = if raw { word != "endraw" } else { word == "raw" };
        rest = behind;
    }
    Ok(out + rest)
}

fn too_long(before: &str) -> String {
    let line = before.matches('\n').count() + 1;
    format!("line {line}: a tag of more than {LONGEST_TAG} bytes")
}

/// Where a tag that begins at the start of `text` ends, with its closing mark; strings may hold anything. None if it is
/// too long.
fn tag_end(text: &str, close: &str) -> Option<usize> {
    let mut outside = 0;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        outside += usize::from(quote.is_none());
        if outside > LONGEST_TAG {
            return None;
        }
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(mark) if c == mark => quote = None,
            Some(_) => {}
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if text[at..].starts_with(close) => return Some(at + close.len()),
            None => {}
        }
    }
    Some(text.len())
}

fn first_word(tag: &str) -> &str {
    let tag = tag.trim_start_matches(['-', '+']).trim_start();
    &tag[..tag.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tag.len())]
}

/// Whether `source` marks what assistants write.
pub(super) fn marks_answers(source: &str) -> bool {
    source.match_indices("{%").any(|(at, mark)| first_word(&source[at + mark.len()..]) == "generation")
}

/// `variable` between two blocks, which have the white-space marks and the lines of `tag` on their outer sides.
fn around(tag: &str, first: &str, variable: &str, last: &str) -> String {
    let mark = |mark: Option<char>| mark.filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
    let inner = tag.strip_prefix("{%").and_then(|rest| rest.strip_suffix("%}")).unwrap_or_default();
    let (before, behind) = (mark(inner.chars().next()), mark(inner.chars().next_back()));
    let lines = "\n".repeat(tag.matches('\n').count());
    format!("{{%{before} {first} %}}{{{{ {variable} }}}}{{% {last} {lines}{behind}%}}")
}

/// `{% raw %}` becomes `{% raw +%}`.
fn keeping_its_first_line(tag: &str) -> String {
    match tag.strip_suffix("%}").filter(|body| !body.ends_with(['-', '+'])) {
        Some(body) => format!("{body}+%}}"),
        None => tag.to_owned(),
    }
}

/// `{% set ns.x = 1 -%}` becomes `{% set ns.x = 1 %}{% if ns %}{% endif -%}`.
fn reading_its_namespace(tag: &str) -> String {
    let target = tag.split_once("set").map_or("", |(_, target)| target.trim_start());
    let name = &target[..target.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(0)];
    let Some(body) = tag.strip_suffix("%}").filter(|_| target[name.len()..].starts_with('.')) else {
        return tag.to_owned();
    };
    let mark = body.chars().next_back().filter(|c| matches!(c, '-' | '+'));
    let body = mark.map_or(body, |_| &body[..body.len() - 1]);
    format!("{body}%}}{{% if {name} %}}{{% endif {}%}}", mark.map(String::from).unwrap_or_default())
}
