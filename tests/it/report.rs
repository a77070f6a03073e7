//! `sepo report`: the numbers in the page are those that the columns give, and no text of a dataset becomes markup.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::harness::{Folder, repository, small_model};

/// The JSON of element `id` of a page.
fn json_in(page: &str, id: &str) -> Value {
    let start = format!("<script type=\"application/json\" id=\"{id}\">");
    let (_, rest) = page.split_once(&start).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

fn page(folder: &Folder, name: &str) -> (String, Value) {
    let page = std::fs::read_to_string(folder.path(name)).unwrap();
    let data = json_in(&page, "data");
    (page, data)
}

/// A folder with scored rows of the quickstart in `run/scored`, whose numbers mean nothing: the models are small. `more` stands
/// behind the stages.
fn scored(rows: &str, more: &str) -> (Folder, String) {
    let folder = Folder::new();
    let text = format!(
        "workdir: run\n{}stages:\n  pairs: {{ read: {{ from: \"{rows}\", limit: 64 }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base, max_length: 128 }} }}\n  \
         oracle: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, learning_rate: 0.01 }} }}\n  \
         scored: {{ score: {{ input: tokens, oracle: oracle, reference: base }} }}\n  \
         keyed: {{ select: {{ input: scored, also: {{ random: {{ rule: random }} }} }} }}\n  \
         out: {{ write: {{ input: keyed, to: run/scored }} }}\n{more}",
        small_model()
    );
    let file = folder.write("p.yaml", &text).to_str().unwrap().to_owned();
    (folder, file)
}

fn quickstart() -> String {
    repository().join("data/quickstart/train.parquet").display().to_string()
}

/// The rows of a Parquet file.
fn rows(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap();
    let batches: Vec<RecordBatch> =
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn list<'a>(batch: &'a RecordBatch, name: &str) -> impl Iterator<Item = ArrayRef> + 'a {
    let column = batch.column_by_name(name).unwrap().as_list::<i32>();
    (0..column.len()).map(|row| column.value(row))
}

fn close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{found} is not {expected}");
}

#[test]
fn numbers_of_the_page_are_those_of_the_columns() {
    let (folder, file) = scored(&quickstart(), "");
    folder.succeeds(&["run", &file]);
    let said = folder.succeeds(&["report", "run/scored", "--plots", "plots"]);
    assert!(said.starts_with("wrote report.html\nwrote plots/"), "{said}");
    let (page, data) = page(&folder, "report.html");
    let batch = rows(&folder.path("run/scored/train-00000-of-00001.parquet"));
    let numbers = &data["statistics"];
    assert_eq!((&numbers["rows"], &data["set_aside"]), (&json!(batch.num_rows()), &json!([])));
    assert_eq!(numbers["masks"], json!(["key_mask", "key_mask_random"]));
    let margins = batch.column_by_name("reward_margin").unwrap().as_primitive::<Float32Type>();
    assert_eq!(numbers["ranked_right"], margins.values().iter().filter(|margin| **margin > 0.0).count());
    close(
        &numbers["margin"]["mean"],
        margins.values().iter().map(|m| f64::from(*m)).sum::<f64>() / margins.len() as f64,
    );
    for side in ["chosen", "rejected"] {
        let found = &numbers[side];
        let rewards: Vec<f64> = list(&batch, &format!("{side}_token_rewards"))
            .flat_map(|row| {
                row.as_primitive::<Float32Type>().values().iter().map(|r| f64::from(*r)).collect::<Vec<_>>()
            })
            .collect();
        let ids: Vec<i32> = list(&batch, &format!("{side}_ids"))
            .flat_map(|row| row.as_primitive::<Int32Type>().values().to_vec())
            .collect();
        let key: Vec<bool> = list(&batch, &format!("{side}_key_mask"))
            .flat_map(|row| row.as_boolean().iter().map(Option::unwrap).collect::<Vec<_>>())
            .collect();
        assert_eq!(found["whole"]["tokens"], rewards.len());
        assert_eq!(found["whole"]["key_tokens"], key.iter().filter(|key| **key).count());
        close(&found["whole"]["reward"], rewards.iter().sum());
        close(&found["whole"]["magnitude"], rewards.iter().map(|reward| reward.abs()).sum());
        // Every column of the histogram, and the end of sequence, which is a class of its own here.
        let width = found["token_rewards"]["width"].as_f64().unwrap();
        for column in found["token_rewards"]["columns"].as_array().unwrap() {
            let from = column["from"].as_f64().unwrap();
            let inside = rewards.iter().filter(|reward| (**reward / width).floor() * width == from).count();
            assert_eq!(column["count"], inside, "{side}: {from}");
        }
        let ends = ids.iter().filter(|id| **id == 3).count();
        assert!(ends == batch.num_rows() && found["classes"]["special"]["tokens"] == ends, "{}", found["classes"]);
        let by_class = found["classes"].as_object().unwrap().values();
        assert_eq!(by_class.map(|sum| sum["tokens"].as_u64().unwrap()).sum::<u64>(), rewards.len() as u64);
        for token in found["highest"].as_array().unwrap() {
            let own = ids.iter().zip(&rewards).filter(|(id, _)| token["id"] == **id).map(|(_, reward)| reward);
            close(&token["reward"], own.sum());
        }
    }
    // All rows are shown; their texts are those of the answers.
    let shown = data["sample"]["rows"].as_array().unwrap();
    assert_eq!((shown.len(), &data["sample"]["rule"]), (batch.num_rows(), &json!("All rows are shown.")));
    let first = batch.column_by_name("chosen").unwrap().as_list::<i32>().value(0);
    let content = first.as_struct().column_by_name("content").unwrap().clone();
    let text: String = shown[0]["chosen"]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert!(text.starts_with(content.as_string::<i32>().value(0)), "{text}");
    for name in ["rewards", "margins", "reward_curve", "positions", "lengths"] {
        let svg = std::fs::read_to_string(folder.path(&format!("plots/{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && page.contains(&svg), "{name}");
    }

    let refused = folder.fails(&["report", "run/scored"], 1);
    assert!(refused.contains("report.html: is there already; --overwrite replaces it"), "{refused}");
    folder.succeeds(&["report", "run/scored", "--overwrite", "--rows", "4"]);
    let (_, fewer) = self::page(&folder, "report.html");
    assert_eq!(fewer["statistics"], data["statistics"]);
    assert_eq!(fewer["sample"]["rows"].as_array().unwrap().len(), 4);
}

#[test]
fn rows_set_aside_are_counted_by_reason() {
    let rows = Folder::new();
    let path = rows.write(
        "rows.jsonl",
        "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"a\"}\n",
    );
    let (folder, file) = scored(path.to_str().unwrap(), "");
    folder.succeeds(&["run", &file]);
    folder.succeeds(&["report", "run/scored"]);
    let expected = json!([{"stage": "pairs", "reason": "identical answers", "rows": 1}]);
    assert_eq!(page(&folder, "report.html").1["set_aside"], expected);
    // Where no folder has them, nothing is said of them.
    std::fs::rename(folder.path("run/scored"), folder.path("moved")).unwrap();
    folder.succeeds(&["report", "moved", "--out", "moved.html"]);
    assert_eq!(page(&folder, "moved.html").1.get("set_aside"), None);
    folder.succeeds(&["report", "moved", "--out", "named.html", "--rejects", "run/rejects"]);
    assert_eq!(page(&folder, "named.html").1["set_aside"], expected);
}

#[test]
fn a_training_is_shown_by_its_log() {
    let (folder, file) = scored(&quickstart(), "");
    folder.succeeds(&["run", &file]);
    folder.succeeds(&["report", "run/logs/oracle"]);
    let (page, data) = page(&folder, "report.html");
    let log = std::fs::read_to_string(folder.path("run/logs/oracle/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&data["kind"], &data["steps"]), (&json!("training"), &last["step"]));
    for name in ["loss", "rewards/margins", "rewards/accuracies", "rewards/chosen"] {
        close(&data["last"][format!("train/{name}")], last[name].as_f64().unwrap());
    }
    for name in ["loss", "margin", "accuracy", "drift"] {
        assert!(page.contains(&format!("<figure id=\"{name}\">")), "{name}");
    }
    folder.write("metrics.jsonl", "no log\n");
    let refused = folder.fails(&["report", "metrics.jsonl", "--out", "x.html"], 1);
    assert!(refused.contains("holds no metrics of a training"), "{refused}");
    let refused = folder.fails(&["report", &quickstart(), "--out", "x.html"], 1);
    assert!(refused.contains("no column `chosen_ids`") && refused.contains("`score` stage"), "{refused}");
}

/// What a page must not obey: ends of elements, scripts, styles, and characters that turn the direction of text.
const HOSTILE: [&str; 6] = [
    "</script><script>document.title='owned'</script>",
    "</style><img src=x onerror=alert(1)>",
    "<!--<script>",
    "\u{202e}gnp.exe\u{2066}",
    "\u{2028}\u{2029}{{script}}&lt;",
    "]]>\"'`${alert(1)}",
];

#[test]
fn no_text_of_a_dataset_becomes_markup() {
    let rows = Folder::new();
    let text: String = HOSTILE
        .iter()
        .map(|text| {
            format!("{}\n", json!({"row_id": text, "prompt": text, "chosen": format!("a{text}"), "rejected": text}))
        })
        .collect();
    let reported = |path: &str| {
        let (folder, file) = scored(path, "");
        folder.succeeds(&["run", &file]);
        folder.succeeds(&["report", "run/scored"]);
        page(&folder, "report.html")
    };
    let (page, data) = reported(rows.write("rows.jsonl", &text).to_str().unwrap());
    let (harmless, _) = reported(&quickstart());
    // The same elements, whatever the rows say.
    for element in ["<script", "</script", "<style", "</style", "<img", "<!--"] {
        assert_eq!(page.matches(element).count(), harmless.matches(element).count(), "{element}");
    }
    let ids: Vec<&str> =
        data["sample"]["rows"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, HOSTILE);
}

#[test]
fn a_token_of_a_megabyte_is_shown_by_its_beginning() {
    let (folder, file) = scored(&quickstart(), "");
    folder.succeeds(&["run", &file]);
    let batch = rows(&folder.path("run/scored/train-00000-of-00001.parquet"));
    let long = "<b>x".repeat(1 << 18);
    let columns = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(f, c)| (f.name().clone(), c.clone()))
        .collect::<Vec<_>>();
    let texts = ["chosen", "rejected"].map(|side| {
        let ids = batch.column_by_name(&format!("{side}_ids")).unwrap().as_list::<i32>();
        let values: Vec<&str> = (0..ids.values().len()).map(|at| if at == 0 { &long[..] } else { "x" }).collect();
        let element = Arc::new(arrow::datatypes::Field::new("element", arrow::datatypes::DataType::Utf8, false));
        let values = Arc::new(arrow::array::StringArray::from(values));
        let list: ArrayRef = Arc::new(arrow::array::ListArray::new(element, ids.offsets().clone(), values, None));
        (format!("{side}_tokens"), list)
    });
    let batch = RecordBatch::try_from_iter(columns.into_iter().chain(texts)).unwrap();
    let out = std::fs::File::create(folder.path("huge.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(out, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    folder.succeeds(&["report", "huge.parquet"]);
    let (page, data) = page(&folder, "report.html");
    assert!(page.len() < 2_000_000, "{}", page.len());
    let first = data["sample"]["rows"][0]["chosen"]["tokens"][0].as_str().unwrap();
    assert!(first.starts_with("<b>x<b>x") && first.ends_with("… (1048576 characters)"), "{first}");
}

#[test]
fn a_row_in_a_terminal_finds_its_tokenizer_and_sends_a_pipe_no_colours() {
    let (folder, file) = scored(&quickstart(), "");
    folder.succeeds(&["run", &file]);
    let shown = folder.succeeds(&["inspect", "run/scored", "--row", "2"]);
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert!(shown.starts_with("row 2 (") && shown.contains("  <|end|>\n"), "{shown}");
    let row: Value =
        serde_json::from_str(&folder.succeeds(&["inspect", "run/scored", "--row", "2", "--json"])).unwrap();
    assert_eq!((&row["row"], &row["mask_names"]), (&json!(2), &json!(["key_mask", "key_mask_random"])));
    let tokens = row["chosen"]["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), row["chosen"]["rewards"].as_array().unwrap().len());
    let refused = folder.fails(&["inspect", "run/scored", "--row", "65"], 1);
    assert!(refused.contains("there are 64 rows"), "{refused}");
    // Another tokenizer than that of the rows would show other words.
    let own = repository().join("data/quickstart/tokenizer");
    std::fs::create_dir(folder.path("other")).unwrap();
    let json = std::fs::read_to_string(own.join("tokenizer.json")).unwrap().replace("<|pad|>", "<|other|>");
    folder.write("other/tokenizer.json", &json);
    let refused = folder.fails(&["inspect", "run/scored", "--row", "2", "--tokenizer", "other"], 1);
    assert!(refused.contains("tokenized with another tokenizer than that in other"), "{refused}");
}

#[test]
fn inspect_shows_rows_that_are_not_scored_and_answers_workdirs() {
    let folder = Folder::new();
    folder.write("pairs.jsonl", r#"{"prompt": "a?", "chosen": "b", "rejected": "c", "source": "s"}"#);
    let tokenizer = repository().join("data/quickstart/tokenizer");
    let file = format!(
        "workdir: run\nstages:\n  pairs: {{ read: {{ from: pairs.jsonl }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: {} }} }}\n  out: {{ write: {{ input: tokens, to: out }} }}\n",
        tokenizer.display()
    );
    folder.write("p.yaml", &file);
    folder.succeeds(&["run", "p.yaml"]);
    let shown = folder.succeeds(&["inspect", "out", "--row", "1"]);
    assert!(shown.starts_with("row 1\n\n") && shown.contains("\nprompt\nuser: a?\n"), "{shown}");
    let row: Value = serde_json::from_str(&folder.succeeds(&["inspect", "out", "--row", "1", "--json"])).unwrap();
    assert_eq!((&row["row"], &row["values"]["rejected"][0]["content"]), (&json!(1), &json!("c")));
    for command in ["inspect", "report"] {
        let refused = folder.fails(&[command, "run"], 1);
        assert!(refused.contains("is the workdir of a run") && refused.contains("run/data/tokens-"), "{refused}");
    }
}

#[test]
fn a_stage_writes_the_page_and_its_plots_and_knows_what_was_set_aside() {
    let same = "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"a\"}\n";
    let rows = Folder::new();
    let path =
        rows.write("rows.jsonl", &(same.to_owned() + "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n"));
    let (folder, file) = scored(path.to_str().unwrap(), "  page: { report: { input: keyed, to: run/page } }\n");
    folder.succeeds(&["run", &file]);
    let (_, data) = page(&folder, "run/page/report.html");
    assert_eq!(data["source"], "stage `keyed`");
    assert_eq!(data["set_aside"], json!([{"stage": "pairs", "reason": "identical answers", "rows": 1}]));
    // The stage finds the tokenizer of its rows by itself.
    let tokens = data["sample"]["rows"][0]["chosen"]["tokens"].as_array().unwrap();
    assert_eq!(tokens.iter().map(|token| token.as_str().unwrap()).collect::<String>(), "a<|end|>");
    assert!(folder.path("run/page/reward_curve.svg").is_file());
    let again = folder.succeeds(&["run", &file]);
    let line = again.lines().find(|line| line.starts_with("page")).unwrap();
    assert!(line.ends_with("reused"), "{again}");
    // The command says the same of the same rows.
    folder.succeeds(&["report", "run/scored", "--seed", "42"]);
    let (_, own) = page(&folder, "report.html");
    assert_eq!(own["statistics"], data["statistics"]);

    let text =
        std::fs::read_to_string(&file).unwrap().replace("input: keyed, to: run/page", "input: tokens, to: run/page");
    let refused = folder.fails(&["check", folder.write("p.yaml", &text).to_str().unwrap()], 78);
    assert!(
        refused.contains("no column `chosen_token_rewards`") && refused.contains("a `score` stage makes it"),
        "{refused}"
    );
}

#[test]
fn tokens_are_written_as_text_with_their_places() {
    let (folder, file) = scored(&quickstart(), "");
    let text = std::fs::read_to_string(&file).unwrap().replace("to: run/scored", "to: run/scored, tokens: true");
    folder.succeeds(&["run", folder.write("p.yaml", &text).to_str().unwrap()]);
    let batch = rows(&folder.path("run/scored/train-00000-of-00001.parquet"));
    for side in ["chosen", "rejected"] {
        let answers = batch.column_by_name(side).unwrap().as_list::<i32>();
        let tokens = list(&batch, &format!("{side}_tokens"));
        for (row, (tokens, spans)) in tokens.zip(list(&batch, &format!("{side}_char_spans"))).enumerate() {
            let content = answers.value(row).as_struct().column_by_name("content").unwrap().clone();
            let content = content.as_string::<i32>().value(0).to_owned();
            let tokens: Vec<String> = tokens.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect();
            assert_eq!(tokens.concat(), content.clone() + "<|end|>");
            let ends = ["start", "end"].map(|end| spans.as_struct().column_by_name(end).unwrap().clone());
            let [start, end] = ends.each_ref().map(|end| end.as_primitive::<Int32Type>());
            let covered: Vec<String> = (0..spans.len())
                .map(|at| {
                    content
                        .chars()
                        .skip(start.value(at) as usize)
                        .take((end.value(at) - start.value(at)) as usize)
                        .collect()
                })
                .collect();
            assert_eq!(covered[..tokens.len() - 1], tokens[..tokens.len() - 1]);
            assert_eq!(covered.last().unwrap(), "");
        }
    }
    // Rows of ids have no tokenizer but one that is named, and no text but that of their tokens.
    folder.write("ids.jsonl", "{\"prompt_ids\": [5], \"chosen_ids\": [70, 3], \"rejected_ids\": [71, 3]}\n");
    let ids = |more: &str| {
        let text = format!(
            "workdir: ids\nstages:\n  rows: {{ read: {{ from: ids.jsonl }} }}\n  \
             out: {{ write: {{ input: rows, to: ids/out, tokens: true{more} }} }}\n"
        );
        folder.write("ids.yaml", &text).to_str().unwrap().to_owned()
    };
    let refused = folder.fails(&["check", &ids("")], 78);
    assert!(refused.contains("no stage above says which tokenizer made the ids"), "{refused}");
    let tokenizer = repository().join("data/quickstart/tokenizer").display().to_string();
    folder.succeeds(&["run", &ids(&format!(", tokenizer: \"{tokenizer}\""))]);
    let batch = rows(&folder.path("ids/out/train-00000-of-00001.parquet"));
    let spans = list(&batch, "chosen_char_spans").next().unwrap();
    let end = spans.as_struct().column_by_name("end").unwrap().clone();
    assert_eq!(
        end.as_primitive::<Int32Type>().values()[1] as usize - "<|end|>".len(),
        end.as_primitive::<Int32Type>().values()[0] as usize
    );
}
