//! What the columns of a source mean: ids, numbers, texts and JSON of every writer; several files as one dataset; conditions.

use serde_json::{Value, json};

use crate::formats::{Read, read_in};
use crate::harness::{Folder, repository};

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/columns/{name}.parquet", repository().display())
}

fn fixtures(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{}\"", fixture(name))).collect();
    format!("from: [{}]", names.join(", "))
}

fn read(names: &[&str], more: &str) -> Read {
    read_in(&Folder::new(), &format!("{}{more}", fixtures(names)))
}

fn read_lines(lines: &str, more: &str) -> Read {
    let folder = Folder::new();
    folder.write("x.jsonl", lines);
    read_in(&folder, &format!("from: x.jsonl{more}"))
}

/// What `check` says against `read` with `options`.
fn refused(folder: &Folder, options: &str) -> String {
    let stages = format!("  rows: {{ read: {{ {options} }} }}\n  out: {{ write: {{ input: rows, to: out }} }}\n");
    folder.write("p.yaml", &format!("workdir: run\nstages:\n{stages}"));
    let output = folder.sepo(&["check", "p.yaml"]);
    assert!(!output.status.success(), "{options}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn column(read: &Read, name: &str) -> Vec<Value> {
    read.rows.iter().map(|row| row[name].clone()).collect()
}

#[test]
fn ids_of_every_type_are_the_sources_own() {
    for name in ["ids_large", "ids_view", "ids_dictionary"] {
        assert_eq!(column(&read(&[name], ""), "row_id"), [json!("k1"), json!("k2")], "{name}");
    }
    assert_eq!(column(&read(&["ids_u64"], ""), "row_id"), [json!(u64::MAX), json!(7)]);
    let uid = read(&["ids_i8"], ", columns: { row_id: uid }");
    assert_eq!((column(&uid, "row_id"), column(&uid, "uid")), (vec![json!(-5), json!(7)], vec![json!(-5), json!(7)]));
    let alone = read(&["ids_i8"], ", columns: { row_id: uid }, select: [], where: 'row_id < 0'");
    assert_eq!((column(&alone, "row_id"), column(&alone, "uid")), (vec![json!(-5)], vec![Value::Null]));
    let nulls = read(&["ids_null"], "");
    assert_eq!(column(&nulls, "row_id"), [json!("101"), json!(format!("{}:2", fixture("ids_null")))]);

    let folder = Folder::new();
    let options = |more: &str| format!("{}, columns: {{ row_id: {more} }}", fixtures(&["merge_a"]));
    let error = refused(&folder, &options("uid"));
    assert!(error.contains("no column `uid`; there are prompt, chosen, rejected, scores, n"), "{error}");
    let error = refused(&folder, &options("scores"));
    assert!(
        error.contains("column `scores` is Struct(") && error.contains("ids are texts or whole numbers"),
        "{error}"
    );
}

#[test]
fn ids_that_come_again_are_counted() {
    let rows = "{\"prompt\": \"a\", \"chosen\": \"x\", \"rejected\": \"y\", \"row_id\": \"k1\"}\n\
                {\"prompt\": \"b\", \"chosen\": \"x\", \"rejected\": \"y\", \"row_id\": null}\n\
                {\"prompt\": \"c\", \"chosen\": \"x\", \"rejected\": \"y\", \"row_id\": \"k1\"}\n";
    let read = read_lines(rows, "");
    let ids = column(&read, "row_id");
    assert_eq!(ids, [json!("k1"), json!("x.jsonl:2"), json!("k1")]);
    assert_eq!(read.report["metrics"]["repeated_ids"], 1);
    let warning = read.report["warnings"][0].as_str().unwrap();
    assert_eq!(warning, "1 rows have a `row_id` that an earlier row has, for example `k1`");
}

#[test]
fn files_are_merged_by_the_names_of_their_fields() {
    let read = read(&["merge_a", "merge_b"], "");
    let scores = [
        json!({"helpful": 1.0, "harmless": 2.0}),
        json!({"helpful": 1.0, "harmless": 2.0}),
        json!({"harmless": 9.0, "honest": 3.0}),
        json!({"harmless": 9.0, "honest": 3.0}),
    ];
    assert_eq!(column(&read, "scores"), scores);
    assert_eq!(column(&read, "n"), [json!(1), json!(2), json!(3), json!(1_u64 << 40)]);
    assert_eq!(column(&read, "extra"), [Value::Null, Value::Null, json!("e"), json!("f")]);

    let error = refused(&Folder::new(), &fixtures(&["merge_a", "misfit"]));
    let expected = "misfit.parquet: another schema than ";
    assert!(
        error.contains(expected) && error.contains("merge_a.parquet: column `scores.helpful` is Utf8, not Float64"),
        "{error}"
    );
}

#[test]
fn messages_of_several_files_are_merged_by_their_fields() {
    let folder = Folder::new();
    let turn = |role: &str, more: &str| format!("[{{\"role\": \"{role}\", {more}}}]");
    let line = |asked: &str| {
        let answer = |text: &str| turn("assistant", &format!("\"content\": \"{text}\""));
        format!("{{\"prompt\": {asked}, \"chosen\": {}, \"rejected\": {}}}\n", answer("good"), answer("bad"))
    };
    folder.write("a.jsonl", &line(&turn("user", "\"content\": \"Q1\"")));
    folder.write("b.jsonl", &line(&turn("user", "\"name\": \"n\", \"content\": \"Q2\"")));
    folder.write("c.jsonl", &line(&turn("user", "\"content\": [{\"type\": \"text\", \"text\": \"Q3\"}]")));
    let read = read_in(&folder, "from: \"*.jsonl\"");
    let prompts: Vec<String> = read.pairs().into_iter().map(|[prompt, ..]| prompt).collect();
    assert_eq!(prompts, ["user: Q1", "user: Q2", "user: Q3"]);
    assert_eq!(read.rows[1]["prompt"][0]["name"], "n");
}

#[test]
fn text_and_parts_are_one_content() {
    let answers = "\"chosen\": [{\"role\": \"assistant\", \"content\": \"good\"}], \
                   \"rejected\": [{\"role\": \"assistant\", \"content\": \"bad\"}]";
    let read = read_lines(
        &format!(
            "{{\"prompt\": [{{\"role\": \"user\", \"content\": [{{\"type\": \"text\", \"text\": \"Q\"}}]}}], {answers}}}\n\
             {{\"prompt\": [{{\"role\": \"user\", \"content\": \"Q2\"}}], {answers}}}\n"
        ),
        "",
    );
    let prompts: Vec<String> = read.pairs().into_iter().map(|[prompt, ..]| prompt).collect();
    assert_eq!(prompts, ["user: Q", "user: Q2"]);
}

#[test]
fn whole_numbers_are_exact_or_an_error() {
    let read_rows = read_lines(
        "{\"prompt\": \"a\", \"chosen\": \"x\", \"rejected\": \"y\", \"id\": 12297829382473034411, \"mixed\": 9007199254740993, \
         \"row_id\": 12297829382473034411}\n\
         {\"prompt\": \"b\", \"chosen\": \"x\", \"rejected\": \"y\", \"id\": 12297829382473034410, \"mixed\": 0.5, \
         \"row_id\": 12297829382473034410}\n",
        "",
    );
    let big = [json!(12_297_829_382_473_034_411_u64), json!(12_297_829_382_473_034_410_u64)];
    assert_eq!((column(&read_rows, "id"), column(&read_rows, "row_id")), (big.to_vec(), big.to_vec()));
    assert_eq!(column(&read_rows, "mixed"), [json!("9007199254740993"), json!("0.5")]);

    let folder = Folder::new();
    let stages = format!(
        "  rows: {{ read: {{ {} }} }}\n  out: {{ write: {{ input: rows, to: out }} }}\n",
        fixtures(&["u64", "i64"])
    );
    folder.write("p.yaml", &format!("workdir: run\nstages:\n{stages}"));
    let error = folder.fails(&["run", "p.yaml"], 1);
    assert!(error.contains("u64.parquet, row 1, column `id`: 12297829382473034411 has no room in Int64"), "{error}");
    let ids = column(&read(&["i64"], ""), "id");
    assert_eq!(ids, [json!(5), json!(-6)]);
}

#[test]
fn what_is_no_number_is_read_by_its_column() {
    let line = |prompt: &str, more: &str| {
        format!("{{\"prompt\": \"{prompt}\", \"chosen\": \"x\", \"rejected\": \"y\", {more}}}\n")
    };
    let rows = [line("a", "\"score\": NaN"), line("b", "\"score\": 1.5"), line("c", "\"score\": -Infinity")].concat();
    assert_eq!(read_lines(&rows, "").rows.len(), 3);
    let scores = column(&read_lines(&rows, ""), "score");
    assert_eq!(scores, [Value::Null, json!(1.5), Value::Null], "JSON has no NaN and no infinity");
    assert_eq!(column(&read_lines(&rows, ", where: 'score < 0'"), "row_id"), [json!("x.jsonl:3")]);
    assert_eq!(column(&read_lines(&rows, ", where: 'isnan(score)'"), "row_id"), [json!("x.jsonl:1")]);
    // NaN is the largest number.
    let above = column(&read_lines(&rows, ", where: 'score > 1'"), "row_id");
    assert_eq!(above, [json!("x.jsonl:1"), json!("x.jsonl:2")]);
}

#[test]
fn half_a_character_is_refused_by_its_place() {
    let folder = Folder::new();
    let line = |chosen: &str| format!("{{\"prompt\": \"a\", \"chosen\": \"{chosen}\", \"rejected\": \"y\"}}\n");
    folder.write("x.jsonl", &[line("ok"), line("cut \\ud83d"), line("ok")].concat());
    let error = refused(&folder, "from: x.jsonl");
    assert!(error.contains("x.jsonl, row 2, column `chosen`: not JSON: `\\ud83d` is a lone surrogate"), "{error}");
}

#[test]
fn extension_types_are_read_by_their_meaning() {
    let keys = [json!("12345678-90ab-cdef-1234-567890abcdef"), json!("00000000-0000-0000-0000-000000000001")];
    let prompts = |read: &Read| read.pairs().into_iter().map(|[prompt, ..]| prompt).collect::<Vec<_>>();
    let own = read(&["extensions"], "");
    assert_eq!(prompts(&own), ["user: What?", "user: Two, three?"]);
    assert_eq!(column(&own, "row_id"), keys);
    assert_eq!(column(&own, "flag"), [json!(true), json!(false)]);
    assert_eq!(column(&own, "image"), [json!([[1, 2]]), json!([[3, 4]])]);
    assert_eq!(own.rows[0]["inner"], json!({"key": keys[0], "seal": "a"}));
    assert_eq!(prompts(&read(&["datasets_words"], "")), ["user: What?", "user: Two, three?"]);
    let duckdb = read(&["duckdb_types"], "");
    assert_eq!(
        (prompts(&duckdb), column(&duckdb, "row_id")),
        (vec!["user: What?".to_owned(), "user: Two?".to_owned()], keys.to_vec())
    );

    let folder = Folder::new();
    let error = refused(&folder, &fixtures(&["sealed"]));
    assert!(
        error.contains("column `prompt` is of the extension type example.sealed, whose meaning is not known"),
        "{error}"
    );
    let error = refused(&folder, &format!("{}, where: \"inner.seal = 'a'\"", fixtures(&["extensions"])));
    assert!(error.contains("TEXT and example.sealed have no type in common"), "{error}");
    let error = refused(&folder, &format!("{}, where: \"len(prompt[1].content) > 1\"", fixtures(&["extensions"])));
    assert!(error.contains("`len` does not take (arrow.json)"), "{error}");
    let key = ", where: \"inner.key = '00000000-0000-0000-0000-000000000001' AND prompt[-1].role = 'user'\"";
    assert_eq!(column(&read(&["extensions"], key), "row_id"), keys[1..]);
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    let folder = Folder::new();
    let error = refused(&folder, &fixtures(&["labels_a", "labels_b"]));
    assert!(
        error.contains("labels_b.parquet: its footer says that `n` is ") && error.contains("labels_a.parquet says "),
        "{error}"
    );
    let error = refused(&folder, &fixtures(&["made_a", "made_c"]));
    assert!(error.contains("made_c.parquet: its footer says that `reference` is \"r2\", and that of "), "{error}");
    // One says more than the other, and another version wrote it.
    assert_eq!(read(&["made_a", "made_b"], "").rows.len(), 4);
}

#[test]
fn conditions_have_signs_and_three_values() {
    let rows = "{\"prompt\": \"a\", \"chosen\": \"long long long answer\", \"rejected\": \"short\", \"flag\": true}\n\
                {\"prompt\": \"b\", \"chosen\": \"short\", \"rejected\": \"long long long answer\", \"flag\": null}\n";
    let kept = |filter: &str| read_lines(rows, &format!(", where: \"{filter}\"")).rows.len();
    assert_eq!(kept("length(chosen) - length(rejected) > 5"), 1);
    assert_eq!(kept("abs(length(chosen) - length(rejected)) < 100"), 2);
    assert_eq!(kept("length(rejected) - length(chosen) < 5"), 1);
    assert_eq!(kept("-length(chosen) < 0"), 2);
    assert_eq!(kept("flag IS NOT FALSE"), 2);
    assert_eq!(kept("flag IS NOT TRUE"), 1);
    assert_eq!(column(&read(&["ids_u64"], ", where: 'row_id - 8 < 0'"), "row_id"), [json!(7)]);
}

#[test]
fn a_condition_on_what_is_not_there_is_found_by_check() {
    let folder = Folder::new();
    let rows = "{\"prompt\": \"a\", \"chosen\": \"x\", \"rejected\": \"y\", \"score\": 1}\n";
    folder.write("x.jsonl", rows);
    for (filter, expected) in [
        ("prompt <> '' AND scroe > 2", "no column `scroe`, at character 18 of the expression"),
        ("length(promt) > 2", "did you mean `prompt`?"),
        ("score > '2'", "TEXT and INTEGER have no type in common, at character 9 of the expression"),
        ("score >", "expected an expression, and the expression ends"),
        ("median(score) > 2", "no function `median`, at character 1 of the expression"),
    ] {
        let error = refused(&folder, &format!("from: x.jsonl, where: \"{filter}\""));
        assert!(error.contains(expected) && error.contains("p.yaml:3"), "{filter}: {error}");
    }
}
