//! Published forms of preference data through `read`: which answer is the better one, what becomes of rows that cannot
//! be used, and what is refused.

use std::path::Path;

use sepo::columns::row_as_json;
use sepo::io::{Dataset, Stores};
use serde_json::{Value, json};

use crate::harness::Folder;

/// Rows that came out, and what the stage reports.
pub(crate) struct Read {
    pub(crate) rows: Vec<Value>,
    pub(crate) report: Value,
}

impl Read {
    /// Prompt, chosen and rejected of every row: `user: Two? | assistant: Four.`
    pub(crate) fn pairs(&self) -> Vec<[String; 3]> {
        let turn = |turn: &Value| format!("{}: {}", turn["role"].as_str().unwrap(), turn["content"].as_str().unwrap());
        let talk =
            |row: &Value, name: &str| row[name].as_array().unwrap().iter().map(turn).collect::<Vec<_>>().join(" | ");
        self.rows.iter().map(|row| ["prompt", "chosen", "rejected"].map(|name| talk(row, name))).collect()
    }

    fn ids(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row["row_id"].as_str().unwrap()).collect()
    }

    /// The reasons of the rows set aside with their counts. Rows in are rows out and rows set aside.
    pub(crate) fn set_aside(&self) -> Vec<(&str, u64)> {
        let reasons = self.report["set_aside"].as_object().unwrap();
        let reasons: Vec<(&str, u64)> =
            reasons.iter().map(|(reason, n)| (reason.as_str(), n.as_u64().unwrap())).collect();
        let aside: u64 = reasons.iter().map(|(_, n)| n).sum();
        let rows = |name: &str| self.report[name].as_u64().unwrap();
        assert_eq!(rows("rows_in"), rows("rows_out") + aside, "{}", self.report);
        assert_eq!(rows("rows_out"), self.rows.len() as u64);
        reasons
    }
}

fn pipeline(folder: &Folder, options: &str) -> String {
    let text = format!(
        "workdir: run\nallow_empty: true\nstages:\n  rows: {{ read: {{ {options} }} }}\n  \
         out: {{ write: {{ input: rows, to: run/out }} }}\n"
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

/// Runs `read` with `options` in `folder`, into Parquet.
pub(crate) fn read_in(folder: &Folder, options: &str) -> Read {
    let report: Value =
        serde_json::from_str(&folder.succeeds(&["run", &pipeline(folder, options), "--json", "--fresh"])).unwrap();
    Read { rows: rows_of(&folder.path("run/out")), report: report["stages"]["rows"].clone() }
}

/// The rows of the dataset in `folder`.
pub(crate) fn rows_of(folder: &Path) -> Vec<Value> {
    let dataset = Dataset::open(&[folder.to_str().unwrap().to_owned()], &Stores::default()).unwrap();
    let batches = dataset.units().into_iter().flat_map(|unit| dataset.read(&unit, 100).unwrap());
    let text: Vec<String> = batches.map(|chunk| row_as_json(&chunk.unwrap().batch)).collect();
    text.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn read(rows: &[Value], options: &str) -> Read {
    let folder = Folder::new();
    folder.write("rows.jsonl", &lines(rows));
    read_in(&folder, &format!("from: rows.jsonl, {options}"))
}

/// What `check` says about rows of these columns.
fn refused(row: Value, options: &str) -> String {
    let folder = Folder::new();
    folder.write("rows.jsonl", &lines(&[row]));
    folder.fails(&["check", &pipeline(&folder, &format!("from: rows.jsonl, {options}"))], 78)
}

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn assistant(content: &str) -> Value {
    json!({"role": "assistant", "content": content})
}

fn says(from: &str, value: &str) -> Value {
    json!({"from": from, "value": value})
}

#[test]
fn the_better_answer_is_chosen_in_every_format() {
    let hh = |answer: &str| format!("\n\nHuman: Two?\n\nAssistant: {answer}");
    let ranked = |name: &str, ranks: [(f64, Value); 3]| {
        let answers = ranks.map(|(rank, answer)| json!({"rank": rank, name: answer, "model": "m"}));
        Value::from(answers.to_vec())
    };
    let shp = |a: &str, b: &str, label: i32| json!({"history": "Two?", "human_ref_A": a, "human_ref_B": b, "labels": label, "score_A": 1, "score_B": 2});
    let steer = |one: &str, two: &str, preference: i32| {
        json!({"domain": "general", "context": [user("Two?")], "response1": one, "response2": two,
               "overall_preference": preference})
    };
    let cases: Vec<(&str, Value)> = vec![
        ("pairs", json!({"prompt": "Two?", "chosen": "Four.", "rejected": "Five."})),
        ("pairs", json!({"prompt": [user("Two?")], "chosen": [assistant("Four.")], "rejected": [assistant("Five.")]})),
        (
            "pairs",
            json!({"chosen": [user("Two?"), assistant("Four.")], "rejected": [user("Two?"), assistant("Five.")]}),
        ),
        (
            "ultrafeedback",
            json!({"prompt": "Two?", "prompt_id": "x", "chosen": [user("Two?"), assistant("Four.")],
                   "rejected": [user("Two?"), assistant("Five.")], "messages": [user("Two?"), assistant("Four.")],
                   "score_chosen": 8.5, "score_rejected": 7.0}),
        ),
        ("hh_rlhf", json!({"chosen": hh("Four."), "rejected": hh("Five.")})),
        ("hh_rlhf", json!({"prompt": hh(""), "response": " Four.", "chosen": " Four.", "rejected": " Five."})),
        ("shp", shp("Four.", "Five.", 1)),
        ("shp", shp("Five.", "Four.", 0)),
        (
            "nectar",
            json!({"prompt": "\n\nHuman: Two? \n\nAssistant: ", "turns": 1, "num_responses": 3, "source": ["x"],
                   "good_natured": true,
                   "answers": ranked("answer", [(2.0, "Er.".into()), (1.0, "Four.".into()), (3.0, "Five.".into())])}),
        ),
        (
            "nemo_rl",
            json!({"context": [user("Two?")], "completions": ranked("completion", [
                (2.0, json!([assistant("Five.")])),
                (0.0, json!([assistant("Four.")])),
                (1.0, json!([assistant("Er.")])),
            ])}),
        ),
        (
            "sepo_csv",
            json!({"prompt": "Two?", "chosen_response": "Four.", "rejected_response": "Five.",
                   "chosen_responses_ids": "5,6,7", "rejected_responses_ids": "8,9", "chosen_selected_args": "1",
                   "rejected_unselected_args": "0", "chosen_unselected_args": "0", "rejected_selected_args": "0"}),
        ),
        ("helpsteer3", steer("Four.", "Five.", -3)),
        ("helpsteer3", steer("Five.", "Four.", 1)),
        ("alpaca", json!({"instruction": "Two?", "input": "", "chosen": "Four.", "rejected": "Five."})),
        (
            "sharegpt",
            json!({"conversations": [says("human", "Two?")], "chosen": says("gpt", "Four."),
                   "rejected": says("gpt", "Five.")}),
        ),
    ];
    let expected = ["user: Two?", "assistant: Four.", "assistant: Five."].map(str::to_owned);
    for (format, row) in cases {
        for format in ["auto", format] {
            let read = read(std::slice::from_ref(&row), &format!("format: {format}"));
            assert_eq!(read.pairs(), std::slice::from_ref(&expected), "{format}: {row}");
            let unchanged = |(name, value): (&String, &Value)| {
                ["prompt", "chosen", "rejected"].contains(&name.as_str()) || read.rows[0][name] == *value
            };
            assert!(row.as_object().unwrap().iter().all(unchanged), "{}", read.rows[0]);
        }
    }
    // The prompt is what both texts share.
    let read = read(&[json!({"chosen": "The sky is blue.", "rejected": "The sky is green."})], "format: auto");
    assert_eq!(read.pairs(), [["user: The sky is", "assistant:  blue.", "assistant:  green."].map(str::to_owned)]);
}

#[test]
fn several_turns_systems_and_histories_end_up_in_the_prompt() {
    let rows = [json!({"instruction": "Two?", "input": "plus two", "system": "Be brief.", "chosen": "Four.",
                       "rejected": "Five.", "history": [["Hi", "Hello"], ["One?", "One."]]})];
    let long = "system: Be brief. | user: Hi | assistant: Hello | user: One? | assistant: One. | user: Two?";
    assert_eq!(read(&rows, "format: auto").pairs()[0][0], format!("{long}\nplus two"));
    let conversation =
        [says("human", "Hi"), says("gpt", "Hello"), says("human", "One?"), says("gpt", "One."), says("human", "Two?")];
    let (chosen, rejected) = (says("gpt", "Four."), says("gpt", "Five."));
    let rows = [json!({"conversations": conversation, "system": "Be brief.", "chosen": chosen, "rejected": rejected})];
    assert_eq!(read(&rows, "format: auto").pairs()[0][0], long);
    let conversation = [says("system", "Be loud."), says("human", "Two?")];
    let rows = [
        json!({"conversations": conversation, "system": "Be brief.", "chosen": chosen, "rejected": rejected}),
        json!({"conversations": [says("human", "a"), says("gpt", "b")], "chosen": chosen, "rejected": rejected}),
    ];
    let read_in = read(&rows, "format: auto");
    assert_eq!(read_in.pairs()[0][0], "system: Be loud. | user: Two?");
    assert_eq!(read_in.set_aside(), [("the conversation does not end with the user", 1)]);
    let turns = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Two?\n\nAssistant: ";
    let rows = [json!({"chosen": format!("{turns}Four."), "rejected": format!("{turns}Five.")})];
    assert_eq!(read(&rows, "format: auto").pairs()[0][0], "user: Hi | assistant: Hello | user: Two?");
}

#[test]
fn rows_without_a_preference_are_set_aside() {
    let shp = |label: Value| json!({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": label});
    let rows = read(&[shp(1.into()), shp(2.into()), shp(Value::Null)], "format: auto");
    assert_eq!(rows.set_aside(), [("label is neither 0 nor 1", 2)]);
    let steer = |preference: Value| json!({"context": [user("q")], "response1": "a", "response2": "b", "overall_preference": preference});
    let rows = read(&[steer(0.into()), steer(2.into()), steer(Value::Null)], "format: auto");
    assert_eq!(rows.set_aside(), [("both answers are equally good", 1), ("no preference", 1)]);
    let nectar = |ranks: &[Option<i32>]| {
        let answers = ranks.iter().enumerate().map(|(at, rank)| json!({"answer": format!("a{at}"), "rank": rank}));
        json!({"prompt": "\n\nHuman: q\n\nAssistant:", "answers": answers.collect::<Vec<_>>()})
    };
    let rows = read(
        &[nectar(&[Some(1), Some(1)]), nectar(&[Some(1), None]), nectar(&[]), nectar(&[Some(2), Some(1)])],
        "format: auto",
    );
    assert_eq!(rows.set_aside(), [("all answers have one rank", 1), ("fewer than two ranked answers", 2)]);
    assert_eq!(rows.pairs(), [["user: q", "assistant: a1", "assistant: a0"].map(str::to_owned)]);
    let rows = read(&[json!({"chosen": "a b", "rejected": "a c"})], "format: hh_rlhf");
    assert_eq!(rows.set_aside(), [("not a Human/Assistant transcript", 1)]);
}

#[test]
fn a_ranked_list_makes_the_pairs_of_its_rule() {
    let row = |id: &str, ranks: [i32; 4]| {
        let answers = ranks.map(|rank| json!({"answer": format!("rank {rank} of {id}"), "rank": rank, "model": "m"}));
        json!({"prompt": format!("\n\nHuman: {id}\n\nAssistant: "), "answers": answers.to_vec(), "row_id": id})
    };
    let rows = [row("x", [3, 1, 4, 2]), row("y", [2, 2, 1, 2]), json!({"prompt": "z", "answers": [], "row_id": "z"})];
    let best = read(&rows, "pair_rule: best_worst");
    assert_eq!(best.ids(), ["x", "y"]);
    assert_eq!(best.pairs()[0], ["user: x", "assistant: rank 1 of x", "assistant: rank 4 of x"].map(str::to_owned));
    assert_eq!(best.set_aside(), [("fewer than two ranked answers", 1)]);

    let random = read(&rows, "pair_rule: best_random");
    assert_eq!(random.pairs()[0][1], "assistant: rank 1 of x");
    assert!(random.pairs()[0][2] != "assistant: rank 1 of x");
    assert_eq!(random.pairs(), read(&rows, "pair_rule: best_random").pairs());

    let all = read(&rows, "pair_rule: all");
    assert_eq!(all.ids(), ["x#2-4", "x#2-1", "x#2-3", "x#4-1", "x#4-3", "x#1-3", "y#3-1", "y#3-2", "y#3-4"]);
    // Rows in are pairs, and rows that made none; y has equal answers of equal ranks.
    assert_eq!((&all.report["rows_in"], &all.report["rows_out"]), (&10.into(), &9.into()));
    assert_eq!(all.set_aside(), [("fewer than two ranked answers", 1)]);
    for [_, chosen, rejected] in all.pairs() {
        assert!(chosen < rejected, "{chosen}, {rejected}");
    }
    assert_eq!(read(&rows, "pair_rule: all, limit: 4").rows.len(), 4);
}

#[test]
fn columns_may_have_other_names() {
    let orca = json!({"system": "Be brief.", "question": "Two?", "chosen": "Four.", "rejected": "Five."});
    let options = "columns: { prompt: question, system: system }";
    let expected = ["system: Be brief. | user: Two?", "assistant: Four.", "assistant: Five."].map(str::to_owned);
    assert_eq!(read(std::slice::from_ref(&orca), options).pairs(), [expected]);
    let argilla = json!({"instruction": "Two?", "chosen_response": "Four.", "rejected_response": "Five."});
    let options =
        "format: pairs, columns: { prompt: instruction, chosen: chosen_response, rejected: rejected_response }";
    let argilla = read(&[argilla], options);
    assert_eq!(argilla.pairs(), [["user: Two?", "assistant: Four.", "assistant: Five."].map(str::to_owned)]);
    assert_eq!(argilla.rows[0]["chosen_response"], "Four.");

    // A prompt under another name is no common beginning of the answers.
    let stderr = refused(orca.clone(), "format: auto");
    assert!(stderr.contains("`columns: { prompt: question, system: system }` takes it"), "{stderr}");
    let stderr = refused(orca.clone(), "columns: { prompt: qestion }");
    assert!(stderr.contains("no column `qestion`; there are system, question, chosen, rejected"), "{stderr}");
    let stderr = refused(orca, "format: alpaca, columns: { prompt: question }");
    assert!(stderr.contains("`columns` goes with `format: pairs`"), "{stderr}");
}

#[test]
fn what_cannot_be_read_is_refused_with_a_way_out() {
    for row in [
        json!({"prompt": "q", "completion": "a", "label": true}),
        json!({"instruction": "q", "output": "a", "kto_tag": false}),
        json!({"messages": [user("q"), assistant("a")], "label": true}),
    ] {
        let stderr = refused(row, "format: auto");
        assert!(stderr.contains("unpaired data: one answer in every row, with a label"), "{stderr}");
        assert!(stderr.contains("help: join the rows with a good and with a bad answer"), "{stderr}");
    }
    let stderr = refused(json!({"text": "a", "quality": 1}), "format: auto");
    assert!(stderr.contains("these columns are of no known format: text, quality"), "{stderr}");
    for format in ["pairs: prompt? (text or messages)", "nectar: ", "shp: ", "sharegpt: ", "tokens: prompt_ids"] {
        assert!(stderr.contains(&format!("\n    {format}")), "{format}: {stderr}");
    }
    let stderr = refused(json!({"chosen": "a", "rejected": "b"}), "format: shp");
    assert!(stderr.contains("no column `history`; there are chosen, rejected"), "{stderr}");
    let stderr = refused(json!({"prompt": "q", "chosen": "a", "rejected": "b"}), "pair_rule: all");
    assert!(stderr.contains("a row of format `pairs` is one pair"), "{stderr}");
    let stderr = refused(json!({"prompt": "q", "answers": ["a", "b"]}), "format: nectar");
    assert!(stderr.contains("column `answers` is ") && stderr.contains("not list<struct<answer, rank>>"), "{stderr}");
}

#[test]
fn messages_keep_what_can_be_kept() {
    let call = json!([{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]);
    let rows = [
        // A system message without content is none.
        json!({"prompt": [{"role": "system", "content": null}, {"role": "user", "content": "q", "name": "Eve", "n": 1}],
               "chosen": [{"role": "assistant", "content": "a", "tool_calls": call}], "rejected": [assistant("b")]}),
        json!({"prompt": [user("q"), {"role": "assistant", "content": null, "tool_calls": call},
                          {"role": "tool", "content": "4"}],
               "chosen": [assistant("a")], "rejected": [assistant("b")]}),
        json!({"prompt": [user("q")], "chosen": [{"role": "assistant", "content": null, "tool_calls": []}],
               "rejected": [assistant("b")]}),
        json!({"prompt": [user("q"), assistant("x"), {"role": "tool", "content": "4"}, user("r")],
               "chosen": [assistant("a"), user("more"), assistant("c")], "rejected": [assistant("b")]}),
        json!({"prompt": [user("q"), null], "chosen": [assistant("a")], "rejected": [assistant("b")]}),
        json!({"prompt": [], "chosen": [assistant("a")], "rejected": [assistant("b")]}),
        json!({"prompt": null, "chosen": null, "rejected": [assistant("b")]}),
        json!({}),
    ];
    let messages = read(&rows, "format: auto");
    assert_eq!(
        messages.pairs(),
        [
            ["user: q", "assistant: a", "assistant: b"],
            ["user: q | assistant:  | tool: 4", "assistant: a", "assistant: b"],
            ["user: q | assistant: x | tool: 4 | user: r", "assistant: a | user: more | assistant: c", "assistant: b"],
        ]
        .map(|pair| pair.map(str::to_owned))
    );
    let asked = json!({"role": "user", "content": "q", "name": "Eve", "extra": "{\"n\":1}"});
    assert_eq!(messages.rows[0]["prompt"], json!([asked]));
    assert_eq!(messages.rows[0]["chosen"][0]["tool_calls"], call.to_string());
    assert_eq!(messages.rows[1]["prompt"][1]["extra"], r#"{"content":null}"#);
    let expected =
        [("a message has no content", 1), ("a message has no role", 1), ("empty answer", 2), ("empty prompt", 1)];
    assert_eq!(messages.set_aside(), expected);

    let part = |kind: &str, text: Value| json!({"type": kind, "text": text});
    let asked = |parts: Value| {
        let prompt = json!([{"role": "user", "content": parts}]);
        json!({"prompt": prompt, "chosen": [assistant("a")], "rejected": [assistant("b")]})
    };
    let rows = [
        asked(json!([part("text", "Two, ".into()), part("text", "three?".into())])),
        asked(json!([part("image", Value::Null)])),
        asked(json!([part("text", "What is it? ".into()), {"type": "image_url", "image_url": {"url": "x"}}])),
        asked(json!([part("audio", Value::Null)])),
        asked(json!([part("file", Value::Null)])),
        asked(json!("Two, three?")),
    ];
    let parts = read(&rows, "format: auto");
    assert_eq!(parts.pairs().iter().map(|pair| &*pair[0]).collect::<Vec<_>>(), ["user: Two, three?"; 2]);
    let expected = [
        ("a message has an image, which is not read", 2),
        ("a message has audio, which is not read", 1),
        ("a message has parts that are not text", 1),
    ];
    assert_eq!(parts.set_aside(), expected);
}

/// Conversations that hold the prompt beside a column of prompts, which differ from it by a system message or a space.
#[test]
fn whole_conversations_beside_a_prompt_are_cut_where_they_agree() {
    let system = json!({"role": "system", "content": "S"});
    let row = |prompt: Value, head: Value| {
        let whole = |answer: &str| {
            let mut turns = head.as_array().unwrap().clone();
            turns.push(assistant(answer));
            turns
        };
        json!({"prompt": prompt, "chosen": whole("good"), "rejected": whole("bad")})
    };
    let rows = [
        row(json!([user("Q1")]), json!([system, user("Q1")])),
        row(json!([system, user("Q2")]), json!([user("Q2")])),
        row(json!([user("Q3 ")]), json!([user("Q3")])),
        row(json!([user("Q4"), assistant("good")]), json!([user("Q4")])),
        row(json!([user("Q5"), assistant("A"), user("R")]), json!([user("Q5"), assistant("A"), user("R")])),
        row(json!([user("Q6")]), json!([user("another")])),
        row(json!([{"role": "system", "content": "T"}, user("Q7")]), json!([system, user("Q7")])),
    ];
    let read_rows = read(&rows, "format: auto");
    let pairs =
        |prompts: [&str; 5]| prompts.map(|prompt| [prompt, "assistant: good", "assistant: bad"].map(str::to_owned));
    let expected =
        ["system: S | user: Q1", "system: S | user: Q2", "user: Q3 ", "user: Q4", "user: Q5 | assistant: A | user: R"];
    assert_eq!(read_rows.pairs(), pairs(expected));
    assert_eq!(read_rows.set_aside(), [("the prompt and the conversations of the answers do not agree", 2)]);
}

/// A prompt of its own wins over what an answer looks like.
#[test]
fn answers_that_look_like_transcripts_are_answers() {
    let row =
        |prompt: &str, chosen: &str, rejected: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    let sea = "Human: Hi!\n\nAssistant: The sea is";
    let rows = [
        row("Say hi.", "Assistant: Hello there!", "Assistant: What?"),
        row("Write a dialogue about the sea.", &format!("{sea} blue."), &format!("{sea} dry.")),
        row("Say hi again.", "Assistant: Hello there!", "Go away."),
        row("Hi!", &format!("{sea} blue."), &format!("{sea} dry.")),
        row("\n\nHuman: Hi!\n\nAssistant:", &format!("\n\n{sea} blue."), &format!("\n\n{sea} dry.")),
        row("\n\nHuman: Sing.\n\nAssistant:", "Human: La!", " Assistant: Lo!"),
    ];
    let read = read(&rows, "format: pairs");
    let expected = [
        ["user: Say hi.", "assistant: Assistant: Hello there!", "assistant: Assistant: What?"].map(str::to_owned),
        [
            "user: Write a dialogue about the sea.".to_owned(),
            format!("assistant: {sea} blue."),
            format!("assistant: {sea} dry."),
        ],
        ["user: Say hi again.", "assistant: Assistant: Hello there!", "assistant: Go away."].map(str::to_owned),
        // Transcripts that begin with the prompt hold it.
        ["user: Hi!", "assistant: The sea is blue.", "assistant: The sea is dry."].map(str::to_owned),
        ["user: Hi!", "assistant: The sea is blue.", "assistant: The sea is dry."].map(str::to_owned),
        ["user: Sing.", "assistant: Human: La!", "assistant: Assistant: Lo!"].map(str::to_owned),
    ];
    assert_eq!(read.pairs(), expected);
}

#[test]
fn every_plane_of_unicode_comes_out_as_it_went_in() {
    let text = "\u{1}\u{0}e\u{301} שלום مرحبا \u{202e}abc\u{202c} 中文 🧑‍🚀 𠀀 \u{10ffff}";
    let whole = |end: &str| format!("\n\nHuman: {text}?\n\nAssistant: {text}{end}");
    let rows = [
        json!({"prompt": text, "chosen": format!("{text}+"), "rejected": format!("{text}-")}),
        json!({"prompt": null, "chosen": whole("+"), "rejected": whole("-")}),
        json!({"prompt": null, "chosen": "a b", "rejected": "a c"}),
    ];
    let read = read(&rows, "format: auto");
    let [prompt, chosen, rejected] = &read.pairs()[0];
    assert_eq!(
        [prompt, chosen, rejected],
        [&format!("user: {text}"), &format!("assistant: {text}+"), &format!("assistant: {text}-")]
    );
    assert_eq!(read.pairs()[1][0], format!("user: {text}?"));
    assert_eq!(read.set_aside(), [("empty prompt", 1)]);
}

#[test]
fn a_prompt_lies_on_one_side_of_a_split_in_every_format() {
    let hh = |row: usize, answer: &str| format!("\n\nHuman: prompt {}\n\nAssistant: {row} {answer}", row / 4);
    let rows: Vec<Value> = (0..80).map(|row| json!({"chosen": hh(row, "good"), "rejected": hh(row, "bad")})).collect();
    let side = |keep: &str| {
        let rows = read(&rows, &format!("split: {{ held_out: 0.5, keep: {keep} }}"));
        rows.pairs().into_iter().map(|[prompt, ..]| prompt).collect::<Vec<_>>()
    };
    let (train, held_out) = (side("train"), side("held_out"));
    assert_eq!(train.len() + held_out.len(), 80);
    assert!(!train.is_empty() && !held_out.is_empty());
    assert!(train.iter().all(|prompt| !held_out.contains(prompt)));
}

#[test]
fn prompts_are_read_without_answers() {
    let rows = [
        json!({"instruction": "Two?", "rules": "Be brief.", "chosen": 3}),
        json!({"instruction": " ", "rules": "Be brief.", "chosen": 4}),
    ];
    let read_prompts = read(&rows, "format: prompts, columns: { prompt: instruction, system: rules }");
    let turns = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two?"}]);
    // Columns that are not read stay as they are.
    assert_eq!((&read_prompts.rows[0]["prompt"], &read_prompts.rows[0]["chosen"]), (&turns, &json!(3)));
    assert_eq!(read_prompts.set_aside(), [("empty prompt", 1)]);
    let talk = [json!({"prompt": [{"from": "human", "value": "One?"}]})];
    let turns = json!([{"role": "user", "content": "One?"}]);
    assert_eq!(read(&talk, "format: prompts").rows[0]["prompt"], turns);
}
