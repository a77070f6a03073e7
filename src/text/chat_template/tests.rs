//! Templates of our own that use what published ones use. Expected texts were written down by hand and checked once
//! with jinja2 under the settings of `transformers`.

use super::*;

fn template(source: &str) -> ChatTemplate {
    let special: BTreeMap<String, String> =
        [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    ChatTemplate::parse(source, "chat_template.jinja", &special).unwrap()
}

fn say(role: &str, content: &str) -> Message {
    [("role", role), ("content", content)].map(|(key, value)| (key.to_owned(), Json::from(value))).into_iter().collect()
}

fn closed(source: &str, messages: &[Message]) -> String {
    template(source).render(messages, &Context::default(), Ending::Turn).unwrap()
}

fn opened(source: &str, prompt: &[Message]) -> Result<String> {
    template(source).render_prompt(prompt, &Context::default())
}

/// The prompt, and both answers of one turn.
fn cut(source: &str, prompt: &[Message], answers: [&str; 2]) -> Result<(String, [String; 2]), Unrendered> {
    let answers = answers.map(|answer| [say("assistant", answer)]);
    let rendered =
        template(source).render_answers(prompt, &answers.each_ref().map(|turns| &turns[..]), &Context::default())?;
    let [chosen, rejected] = <[Answer; 2]>::try_from(rendered.answers).unwrap();
    assert_eq!((chosen.own, rejected.own), (None, None));
    Ok((rendered.prompt, [chosen.text, rejected.text]))
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
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let (text, answers) = cut(source, &prompt, ["Four.", "Five."]).unwrap();
    // trim_blocks takes the newline behind `{% endfor %}`, not the one behind `{{ … }}`.
    assert_eq!(text, "[system]Be brief.</s>\n[user]Two plus two?</s>\n[assistant]");
    assert_eq!(answers, ["Four.</s>\n", "Five.</s>\n"]);
}

#[test]
fn blocks_on_their_own_lines_leave_no_white_space() {
    let text = opened(CHATML, &[say("user", "Hi")]).unwrap();
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
    let error = opened(source, &[say("tool", "x")]).unwrap_err().to_string();
    assert_eq!(error, "chat_template.jinja: chat template, line 3: no tools here");
}

#[test]
fn a_broken_template_is_an_error_with_its_line() {
    let error = ChatTemplate::parse("a\n{% for m in %}\n", "x/chat_template.jinja", &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().starts_with("x/chat_template.jinja: chat template, line 2: "), "{error}");
}

fn stopped(source: &str) -> String {
    opened(source, &[]).unwrap_err().to_string()
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
    let text = opened(&format!("{nest}{{{{ ns.x == ns.y }}}}"), &[]).unwrap();
    assert_eq!(text, "True");
    let text = opened(&format!("{nest}{{{{ ns.x|string|length }}}}"), &[]).unwrap();
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
    assert_eq!(opened(&chain, &[]).unwrap(), "");
}

/// An empty `<think>` is longer than the text behind it, and `e` stands in `</end>`.
#[test]
fn the_end_of_the_last_words_is_found_by_place() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] | trim }}</end>{% endfor %}";
    let open = |content| opened(source, &[say("user", "e"), say("assistant", content)]).unwrap();
    assert_eq!(open("e"), "<user>e</end><assistant>e");
    assert_eq!(open("e\n"), "<user>e</end><assistant>e");
    assert_eq!(open(""), "<user>e</end><assistant>");
}

#[test]
fn what_only_the_generation_prompt_writes_does_not_cut_the_answers() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}";
    let prompt = [say("user", "q")];
    let (text, answers) = cut(source, &prompt, ["a", "b"]).unwrap();
    assert_eq!((text.as_str(), answers), ("<user>q<assistant>", ["a", "b"].map(str::to_owned)));
    // Letters that answers share with what the template leaves out are the answers' own.
    let (text, answers) = cut(source, &prompt, ["<think>a", "<b>"]).unwrap();
    assert_eq!((text.as_str(), answers), ("<user>q<assistant>", ["<think>a", "<b>"].map(str::to_owned)));
    // All of it is the prompt's where both answers go on from it.
    let (text, answers) = cut(source, &prompt, ["<think>a", "<think>b"]).unwrap();
    assert_eq!((text.as_str(), answers), ("<user>q<assistant><think>", ["a", "b"].map(str::to_owned)));
}

/// The system's words are in the last user turn, and in none once an answer follows.
const LAST: &str = "{% set ns = namespace(s='') %}{% if messages[0].role == 'system' %}{% set ns.s = messages[0].content %}{% endif %}\
    {% for m in messages %}{% if m.role == 'user' %}[{% if loop.last and ns.s %}{{ ns.s }} {% endif %}{{ m.content }}]\
    {% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

#[test]
fn a_prompt_that_is_another_with_an_answer_is_a_fault() {
    let (text, answers) = cut(LAST, &[say("user", "Two?")], ["Four.", "Five."]).unwrap();
    assert_eq!((text.as_str(), answers), ("[Two?]", [" Four.</s>", " Five.</s>"].map(str::to_owned)));
    let rewritten = cut(LAST, &[say("system", "Be brief."), say("user", "Two?")], ["Four.", "Five."]);
    assert!(matches!(rewritten, Err(Unrendered::PromptRewritten)), "{rewritten:?}");
    // White space at the end of the words is no word.
    let trims = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}!{% endif %}";
    assert_eq!(cut(trims, &[say("user", "Two? \n")], ["4", "5"]).unwrap().0, "<user>Two?");
}

/// The assistant's words in an answer of several turns to the user's `q`.
fn own_words(source: &str, answer: &[Message]) -> Result<Vec<String>, Unrendered> {
    let (prompt, other) = ([say("user", "q")], [say("assistant", "other")]);
    let rendered = template(source).render_answers(&prompt, &[answer, &other], &Context::default())?;
    let text: Vec<char> = rendered.answers[0].text.chars().collect();
    let own = rendered.answers[0].own.clone().unwrap();
    Ok(own.into_iter().map(|range| text[range].iter().collect()).collect())
}

#[test]
fn only_the_assistants_turns_of_an_answer_are_its_own() {
    let turns = [say("assistant", "é1 "), say("user", "more?"), say("assistant", "2")];
    let chat = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}";
    assert_eq!(own_words(chat, &turns).unwrap(), ["é1 <end>\n", "2<end>\n"]);
    // Marks are narrower than turns.
    let marked = chat.replace("{{ m.content }}<end>", "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}");
    assert_eq!(own_words(&marked, &turns).unwrap(), ["é1 <end>", "2<end>"]);
    // What is left out of earlier turns, and what is written in front of the last one, is found where it is.
    let thinks = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content | trim }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    assert_eq!(own_words(thinks, &turns).unwrap(), ["é1<end>", "<think></think>2<end>"]);
    assert_eq!(
        own_words(thinks, &[say("assistant", "1"), say("assistant", "2")]).unwrap(),
        ["1<end>", "<think></think>2<end>"]
    );
    // A turn without words of its own is known by its end.
    let calls = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}{% if m.tool_calls %}<call/>{% endif %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let mut call = say("assistant", "");
    call.remove("content");
    call.insert("tool_calls".into(), vec![1].into());
    let answer = [call, say("tool", "4"), say("assistant", "Four.")];
    assert_eq!(own_words(calls, &answer).unwrap(), ["<call/><end>", "<think></think>Four.<end>"]);
    // Two turns of the assistant, with nobody's words between them.
    assert_eq!(own_words(chat, &[say("assistant", "1"), say("assistant", "2")]).unwrap(), ["1<end>\n", "2<end>\n"]);
    let shouts = "{% for m in messages %}{{ m.content | upper | replace('1', '') }}{% if m.content | length > 3 %}!{% endif %}{% endfor %}";
    let lost = own_words(shouts, &[say("assistant", "ab"), say("user", "abc"), say("assistant", "c")]);
    assert!(matches!(lost, Err(Unrendered::TurnsNotFound)), "{lost:?}");
}

#[test]
fn a_prompt_that_ends_with_an_answer_is_left_open() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</end>{% endfor %}";
    let prompt = [say("user", "Sing."), say("assistant", " La la ")];
    assert_eq!(opened(source, &prompt).unwrap(), "<user>Sing.</end><assistant>La la");
    let kept = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</end>{% endfor %}";
    assert_eq!(opened(kept, &prompt).unwrap(), "<user>Sing.</end><assistant> La la ");
    let lost = "{% for m in messages %}<{{ m.role }}>{% endfor %}";
    let error = opened(lost, &prompt).unwrap_err().to_string();
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
    let plain = Template::Plain { end: Some("</s>".into()), front: Vec::new(), behind: Vec::new() };
    let (prompt, answers) = ([say("user", "1, 2,")], [" 3", " 5"].map(|words| [say("assistant", words)]));
    let rendered = plain.render(&prompt, &answers.each_ref().map(|turns| &turns[..]), &Context::default()).unwrap();
    let answers = [" 3</s>", " 5</s>"].map(|text| Answer { text: text.into(), own: None });
    assert_eq!(rendered, Rendered { prompt: "1, 2,".into(), answers: answers.to_vec() });
    assert_eq!(plain.digest(), "none, then </s>");
    let begun = Template::Plain { end: None, front: vec![1], behind: Vec::new() };
    assert_eq!((begun.ends(), begun.digest()), ([&[1][..], &[]], "none between [1] and []".to_owned()));
}

#[test]
fn text_and_parts_are_the_same_content() {
    let part = |text: &str| serde_json::json!({"type": "text", "text": text});
    let mut parts = say("user", "");
    parts.insert("content".into(), vec![part("Two, "), part("three?")].into());
    let text = say("user", "Two, three?");
    let only_text = "{% for m in messages %}<{{ m['role'] + '>' + m['content'] }}{% endfor %}";
    let prints = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}";
    let only_parts = "{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}";
    let either = "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}";
    for source in [only_text, prints, only_parts, either] {
        for message in [&parts, &text] {
            assert_eq!(opened(source, std::slice::from_ref(message)).unwrap(), "<user>Two, three?", "{source}");
        }
    }
    // What a template does beyond that is its own.
    let counts = "{% for m in messages %}{{ m['content'] | length }}{% endfor %}";
    assert_eq!(opened(counts, &[parts]).unwrap(), "2");
}

#[test]
fn what_a_message_has_beside_its_content_reaches_the_template() {
    let message = |json: Json| json.as_object().unwrap().clone();
    let messages = [
        message(
            serde_json::json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "add", "arguments": {"b": 1, "a": 2.0}}}]}),
        ),
        message(serde_json::json!({"role": "assistant", "content": "x", "reasoning": "so"})),
    ];
    let source = "{% for m in messages %}{{ m.content is defined }} {{ m.tool_calls | tojson if m.tool_calls else '' }} {{ m.reasoning_content }} {{ m.thinking }};{% endfor %}{{ tools | tojson }}{{ documents | tojson }}{{ enable_thinking }}{{ bos_token }}";
    let arguments = message(serde_json::json!({"enable_thinking": false, "bos_token": "<b>"}));
    let context = Context { tools: Some(serde_json::json!([{"name": "add"}])), documents: None, arguments };
    let text = template(source).render(&messages, &context, Ending::Turn).unwrap();
    let calls = "[{\"function\": {\"name\": \"add\", \"arguments\": {\"b\": 1, \"a\": 2.0}}}]";
    assert_eq!(text, format!("False {calls}  ;True  so so;[{{\"name\": \"add\"}}]nullFalse<b>"));
}
