//! What is rewritten in a template's text before it is parsed.
//!
//! - Ends of lines become `\n`, as in jinja2.
//! - `{% generation %}` marks an answer's text for trainers that take masks from the template. It writes nothing, and
//!   its body is a scope of its own: an empty `with` block.
//! - A macro sees the variables around it that its body reads. minijinja does not count `{% set ns.x = … %}` as
//!   reading `ns`, so an empty `{% if ns %}` follows it.
//!
//! White-space marks stay where they were, and so do lines: messages name the template's own.

/// `source` for minijinja.
pub(super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let (text, opened) = rest.split_at(at);
        out += text;
        let end = match &opened[..2] {
            "{#" if !raw => opened.find("#}").map_or(opened.len(), |end| end + 2),
            "{%" => tag_end(opened, "%}"),
            "{{" if !raw => tag_end(opened, "}}"),
            _ => 2,
        };
        let (tag, behind) = opened.split_at(end);
        let word = tag.strip_prefix("{%").map_or("", first_word);
        if raw {
            // Nothing but its end means anything inside.
            let ends = word == "endraw";
            raw = !ends;
            let taken = if ends { end } else { 2 };
            out += &opened[..taken];
            rest = &opened[taken..];
            continue;
        }
        raw = word == "raw";
        match word {
            "generation" => out += &tag.replacen(word, "with", 1),
            "endgeneration" => out += &tag.replacen(word, "endwith", 1),
            "set" => out += &reading_its_namespace(tag),
            _ => out += tag,
        }
        rest = behind;
    }
    out + rest
}

/// Where a tag that begins at the start of `text` ends, with its closing mark; strings may hold anything.
fn tag_end(text: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(mark) if c == mark => quote = None,
            Some(_) => {}
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if text[at..].starts_with(close) => return at + close.len(),
            None => {}
        }
    }
    text.len()
}

fn first_word(tag: &str) -> &str {
    let tag = tag.trim_start_matches(['-', '+']).trim_start();
    &tag[..tag.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tag.len())]
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
