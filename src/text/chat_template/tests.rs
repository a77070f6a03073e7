//! Templates of our own that use what published ones use. Expected texts were written down by hand and checked once
//! with jinja2 under the settings of `transformers`.

use super::*;

fn template(source: &str) -> ChatTemplate {
    let special: BTreeMap<String, String> =
        [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    ChatTemplate::parse(source, "chat_template.jinja", &special).unwrap()
}

fn say<'a>(role: &'a str, content: &'a str) -> Message<'a> {
    Message { role, content }
}

fn closed(source: &str, messages: &[Message<'_>]) -> String {
    template(source).render_turns(messages, Ending::Turn).unwrap()
}

const CHATML: &str = "\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
";

#[test]
fn the_prompt_opens_the_answer_and_the_answer_keeps_its_end_of_turn() {
    let prompt = [say("system", "Be brief."), say("user", "Two plus two?")];
    let rendered = template("{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}")
        .render_answers(&prompt, &[&[say("assistant", "Four.")], &[say("assistant", "Five.")]])
        .unwrap();
    // trim_blocks takes the newline behind `{% endfor %}`, not the one behind `{{ … }}`.
    assert_eq!(rendered.prompt, "[system]Be brief.</s>\n[user]Two plus two?</s>\n[assistant]");
    assert_eq!(rendered.answers, ["Four.</s>\n", "Five.</s>\n"]);
}

#[test]
fn blocks_on_their_own_lines_leave_no_white_space() {
    let text = template(CHATML).render_prompt(&[say("user", "Hi")]).unwrap();
    // A `{{ … }}` line keeps its newline: only blocks are trimmed.
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n\n<|im_start|>assistant\n\n");
}

#[test]
fn loops_namespaces_slices_and_python_strings_work() {
    let source = "\
{%- set ns = namespace(system='', turns=0) -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = messages[0]['content'].strip().upper() -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set rest = messages -%}
{%- endif -%}
{{- bos_token -}}
{%- for message in rest -%}
    {%- if message.role == 'note' -%}{%- continue -%}{%- endif -%}
    {%- set ns.turns = ns.turns + 1 -%}
    {%- if loop.first and ns.system -%}<<{{ ns.system }}>> {%- endif -%}
    {{- ' ' ~ ns.turns ~ ':' ~ message.content.split('|')[-1] | trim -}}
    {%- if not loop.last %};{% endif -%}
{%- endfor -%}
{{- ' ' ~ (messages | selectattr('role', 'equalto', 'user') | list | length) -}}";
    let messages = [
        say("system", " calm "),
        say("user", "x|one"),
        say("note", "skip"),
        say("assistant", "two"),
        say("user", "three"),
    ];
    assert_eq!(closed(source, &messages), "<s><<CALM>> 1:one; 2:two; 3:three 2");
}

#[test]
fn values_print_as_in_python() {
    let source = "{{ none }} {{ true }} {{ tools is defined }} {{ nothing }}|{{ messages[0] | tojson }}|\
                  {{ {'z': [1, 2.0], 'a': none, 'e': []} | tojson(indent=2) }}";
    let text = closed(source, &[say("user", "<b> & 'é' \"\n")]);
    let expected = "None True True |{\"role\": \"user\", \"content\": \"<b> & 'é' \\\"\\n\"}|\
                    {\n  \"z\": [\n    1,\n    2.0\n  ],\n  \"a\": null,\n  \"e\": []\n}";
    assert_eq!(text, expected);
}

#[test]
fn generation_marks_write_nothing() {
    let source = "{% for m in messages %}\n{% if m.role == 'assistant' %}\nA: {% generation %}{{ m.content }}\n{%- endgeneration -%}\n.{% else %}\nU: {{ m.content }};\n{% endif %}\n{% endfor %}";
    assert_eq!(closed(source, &[say("user", "q"), say("assistant", "a")]), "U: q;\nA: a.");
}

#[test]
fn raised_exceptions_carry_their_words_and_their_line() {
    let source = "{% for m in messages %}\n{% if m.role == 'tool' %}\n{{ raise_exception('no tools here') }}\n{% endif %}\n{% endfor %}";
    let error = template(source).render_prompt(&[say("tool", "x")]).unwrap_err().to_string();
    assert_eq!(error, "chat_template.jinja: chat template, line 3: no tools here");
}

#[test]
fn a_broken_template_is_an_error_with_its_line() {
    let error = ChatTemplate::parse("a\n{% for m in %}\n", "x/chat_template.jinja", &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().starts_with("x/chat_template.jinja: chat template, line 2: "), "{error}");
}

fn stopped(source: &str) -> String {
    template(source).render_prompt(&[]).unwrap_err().to_string()
}

#[test]
fn templates_without_end_are_stopped() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let doubles =
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let replaces = "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}";
    let pads = "{{ 'a'.ljust(9999999999) }}";
    let formats = "{{ ('{0}' * 100000).format('a' * 100000) }}";
    let reads = "{% set x = 'a ' * 5000000 %}{% for i in range(9999) %}{% set n = x.count('b') %}{% endfor %}";
    let splits = "{{ ('a ' * 5000000).split()|length }}";
    let dumps = "{{ (['a' * 100000] * 100000)|tojson }}";
    let commas = "{{ ([1] * 100000)|tojson(separators=('a' * 100000, ':')) }}";
    let trims = "{{ (['a' * 100000] * 100000)|trim }}";
    let raises = "{{ raise_exception(['a' * 100000] * 100000) }}";
    for source in [loops, doubles, replaces, pads, formats, reads, splits, dumps, commas, trims, raises] {
        let error = stopped(source);
        assert!(
            error.contains("line 1: does not end, or writes without end: stopped after 2000000"),
            "{source}: {error}"
        );
    }
    assert!(stopped("{{ '{:>99999}'.format('a') }}").contains("a width above 9999"));
    assert!(stopped("{{ 'a'.strip('b' * 257) }}").contains("more than 256 characters"));
    assert!(stopped("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").contains("recursion limit"));
    assert!(stopped("{% include 'chat_template' %}").contains("could not render include"));
    let deep =
        "{% set ns = namespace(x=1) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}";
    assert!(stopped(deep).contains("nested deeper than 128"));
}

/// Every level of a list takes stack when it is printed, compared and freed.
#[test]
fn deep_lists_do_not_overflow_the_stack() {
    let nest = "{% set ns = namespace(x=[], y=[]) %}{% for i in range(60000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}";
    let text = template(&format!("{nest}{{{{ ns.x == ns.y }}}}")).render_prompt(&[]).unwrap();
    assert_eq!(text, "True");
    let text = template(&format!("{nest}{{{{ ns.x|string|length }}}}")).render_prompt(&[]).unwrap();
    assert_eq!(text, "120002");
}

/// Sixty lists of two hold the first 2^60 times.
#[test]
fn lists_that_share_lists_are_not_printed_forever() {
    let doubled = "{% set a = [a, a] %}".repeat(60);
    for end in ["{{ a }}", "{{ a|string }}", "{{ a|trim }}", "{{ '{}'.format(a) }}", "{{ raise_exception(a) }}"] {
        assert!(stopped(&format!("{doubled}{end}")).contains("stopped after 2000000 steps"), "{end}");
    }
}

#[test]
fn long_tags_and_templates_are_refused() {
    let refused = |source: &str| ChatTemplate::parse(source, "x.jinja", &BTreeMap::new()).unwrap_err().to_string();
    let long = format!("\n{{{{ {}1 }}}}", "-".repeat(100_000));
    assert_eq!(refused(&long), "x.jinja: chat template, line 2: a tag of more than 4096 bytes");
    assert_eq!(refused(&"x".repeat(300_000)), "x.jinja: chat template, 300000 bytes long; at most 262144 are read");
    assert!(refused(&format!("{{{{ {}1 }}}}", "(".repeat(2000))).contains("recursion limits"));
    assert!(refused(&"{% if a %}".repeat(20_000)).contains("recursion limits"));
    // As many as fit are no deeper than the stack.
    let chain = format!("{{% if a %}}{}{{% endif %}}", "{%elif a%}".repeat(26_000));
    assert_eq!(template(&chain).render_prompt(&[]).unwrap(), "");
}

/// An empty `<think>` is longer than the text behind it, and `e` stands in `</end>`.
#[test]
fn the_end_of_the_last_words_is_found_by_place() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] | trim }}</end>{% endfor %}";
    let open = |content| template(source).render_prompt(&[say("user", "e"), say("assistant", content)]).unwrap();
    assert_eq!(open("e"), "<user>e</end><assistant>e");
    assert_eq!(open("e\n"), "<user>e</end><assistant>e");
    assert_eq!(open(""), "<user>e</end><assistant>");
}

#[test]
fn what_only_the_generation_prompt_writes_does_not_cut_the_answers() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}";
    let rendered = template(source)
        .render_answers(&[say("user", "q")], &[&[say("assistant", "a")], &[say("assistant", "b")]])
        .unwrap();
    assert_eq!(rendered.prompt, "<user>q<assistant>");
    assert_eq!(rendered.answers, ["a", "b"]);
    // Here the first answer goes along with the generation prompt and the second does not: the shared part is shorter.
    let rendered = template(source)
        .render_answers(&[say("user", "q")], &[&[say("assistant", "<think>a")], &[say("assistant", "<b>")]])
        .unwrap();
    assert_eq!(rendered.prompt, "<user>q<assistant><");
    assert_eq!(rendered.answers, ["think>a", "b>"]);
}

#[test]
fn a_prompt_that_ends_with_an_answer_is_left_open() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</end>{% endfor %}";
    let prompt = [say("user", "Sing."), say("assistant", " La la ")];
    assert_eq!(template(source).render_prompt(&prompt).unwrap(), "<user>Sing.</end><assistant>La la");
    let kept = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</end>{% endfor %}";
    assert_eq!(template(kept).render_prompt(&prompt).unwrap(), "<user>Sing.</end><assistant> La la ");
    let lost = "{% for m in messages %}<{{ m.role }}>{% endfor %}";
    let error = template(lost).render_prompt(&prompt).unwrap_err().to_string();
    assert!(error.contains("ends with an assistant turn"), "{error}");
}

#[test]
fn dates_come_from_a_clock_that_stands_still() {
    let at = chrono::DateTime::from_timestamp(1_722_000_000, 0).unwrap().fixed_offset();
    assert_eq!(python::strftime(at, "%d %b %Y").unwrap(), "26 Jul 2024");
    for wrong in ["%Q", "%#z"] {
        assert!(python::strftime(at, wrong).is_err(), "{wrong}");
    }
    let year = closed("{{ strftime_now('%Y') }}", &[]);
    assert!(year.parse::<u32>().unwrap() >= 1970);
}

#[test]
fn plain_text_is_joined_and_ended() {
    let plain = Template::Plain { end: Some("</s>".into()) };
    let rendered =
        plain.render(&[say("user", "1, 2,")], &[&[say("assistant", " 3")], &[say("assistant", " 5")]]).unwrap();
    assert_eq!(rendered, Rendered { prompt: "1, 2,".into(), answers: vec![" 3</s>".into(), " 5</s>".into()] });
    assert_ne!(plain.digest(), Template::Plain { end: None }.digest());
}
