//! The card of a dataset on the hub: a README.md whose YAML says which files are which split and what columns they have, and
//! whose text says in words what made them.
//!
//! Several stages may write into one repository. Each keeps its part of the card, and the card is made of all of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use arrow::datatypes::{DataType, FieldRef, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::features::value_name;

/// What a card says of the files of one stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Folder of the files in the repository; empty for its root.
    pub folder: String,
    /// The split that the files are.
    pub split: String,
    /// Pattern of their names, where `datasets` reads such files.
    pub files: Option<String>,
    /// Their columns as `datasets` writes them in YAML; none where a type has no name there.
    pub features: Option<Vec<Value>>,
    /// Rows.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// What the sources' cards say of their licenses.
    pub licenses: Vec<License>,
    /// What made the rows: pairs for a table.
    pub about: Vec<(String, String)>,
    /// Rows in, out and set aside by stage.
    pub counts: Vec<(String, u64, u64, u64)>,
}

/// What the card of a source says of its license: the keys `license`, `license_name`, `license_link` of its YAML.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct License {
    /// The source's address.
    pub source: String,
    /// Keys and values.
    pub terms: Vec<(String, String)>,
}

impl Part {
    /// The configuration of `datasets` that the files belong to: one for each folder.
    fn config(&self) -> String {
        if self.folder.is_empty() { "default".to_owned() } else { self.folder.replace('/', "-") }
    }

    fn pattern(&self) -> Option<String> {
        let files = self.files.as_ref()?;
        Some(if self.folder.is_empty() { files.clone() } else { format!("{}/{files}", self.folder) })
    }
}

/// The columns of `schema` as `datasets` writes them in YAML.
pub(super) fn features(schema: &Schema) -> Option<Vec<Value>> {
    schema.fields().iter().map(named).collect()
}

fn named(field: &FieldRef) -> Option<Value> {
    let mut feature = Map::from_iter([("name".to_owned(), json!(field.name()))]);
    feature.extend(feature_of(field.data_type())?);
    Some(Value::Object(feature))
}

/// A type as a map: `dtype: int32`, `list: int32`, `list: [fields]`, `struct: [fields]`.
fn feature_of(data_type: &DataType) -> Option<Map<String, Value>> {
    let one = |key: &str, value: Value| Some(Map::from_iter([(key.to_owned(), value)]));
    let element = |element: &FieldRef| match element.data_type() {
        DataType::Struct(fields) => fields.iter().map(named).collect::<Option<Vec<_>>>().map(Value::from),
        data_type => {
            let mut feature = feature_of(data_type)?;
            Some(feature.remove("dtype").unwrap_or(Value::Object(feature)))
        }
    };
    match data_type {
        DataType::List(of) => one("list", element(of)?),
        DataType::LargeList(of) => one("large_list", element(of)?),
        DataType::FixedSizeList(of, length) => {
            let mut feature = one("list", element(of)?)?;
            feature.insert("length".to_owned(), json!(length));
            Some(feature)
        }
        DataType::Struct(fields) => one("struct", Value::from(fields.iter().map(named).collect::<Option<Vec<_>>>()?)),
        DataType::Dictionary(_, values) => feature_of(values),
        value => one("dtype", json!(value_name(value)?)),
    }
}

/// The README.md of the repository `repo`, whose files `parts` describe.
pub fn text(repo: &str, parts: &[Part]) -> String {
    let mut parts: Vec<&Part> = parts.iter().collect();
    parts.sort_by_key(|part| (&part.folder, &part.split));
    let title = repo.rsplit('/').next().unwrap_or(repo);
    let mut out = format!("---\n{}---\n\n# {title}\n\n", front(&parts));
    out += "Preference pairs, token by token, written by sepo. In its columns `{side}_token_rewards` is the reward of every response \
            token, `{side}_key_mask` which of them are key tokens.\n";
    for part in parts {
        let _ = write!(out, "\n## {}, {}\n\n| | |\n|---|---|\n| rows | {} |\n", part.config(), part.split, part.rows);
        for (name, value) in &part.about {
            let _ = writeln!(out, "| {} | {} |", cell(name), cell(value));
        }
        for License { source, terms } in &part.licenses {
            let terms: Vec<&str> = terms.iter().map(|(_, term)| term.as_str()).collect();
            let _ = writeln!(out, "| license of `{}` | {} |", cell(source), cell(&terms.join(", ")));
        }
        if !part.counts.is_empty() {
            out += "\n| stage | rows in | rows out | set aside |\n|---|---|---|---|\n";
        }
        for (stage, rows_in, rows_out, set_aside) in &part.counts {
            let _ = writeln!(out, "| `{stage}` | {rows_in} | {rows_out} | {set_aside} |");
        }
    }
    out
}

/// The YAML at its head. Values are JSON, which is YAML.
fn front(parts: &[&Part]) -> String {
    let mut out = String::new();
    let licenses: BTreeSet<&Vec<(String, String)>> =
        parts.iter().flat_map(|part| &part.licenses).map(|license| &license.terms).collect();
    // Sources with different licenses are named in the text; which one holds for all of it is not for a program to say.
    if let (Some(terms), 1) = (licenses.first(), licenses.len()) {
        for (key, value) in *terms {
            let _ = writeln!(out, "{key}: {}", json!(value));
        }
    }
    out += "tags:\n- sepo\n- preference\n";
    let readable: Vec<&&Part> = parts.iter().filter(|part| part.files.is_some()).collect();
    let configs: BTreeSet<String> = readable.iter().map(|part| part.config()).collect();
    let of = |config: &String| readable.iter().filter(|part| part.config() == *config).collect::<Vec<_>>();
    if configs.is_empty() {
        return out;
    }
    out += "configs:\n";
    for config in &configs {
        let _ = writeln!(out, "- config_name: {}\n  data_files:", json!(config));
        for part in of(config) {
            let _ = writeln!(out, "  - split: {}\n    path: {}", json!(part.split), json!(part.pattern()));
        }
    }
    let mut infos = String::new();
    for config in &configs {
        let parts = of(config);
        let Some(features) = &parts[0].features else { continue };
        if parts.iter().any(|part| part.features.as_ref() != Some(features)) {
            continue;
        }
        let _ = writeln!(infos, "- config_name: {}\n  features:", json!(config));
        for feature in features {
            let _ = writeln!(infos, "  - {feature}");
        }
        infos += "  splits:\n";
        for Part { split, rows, bytes, .. } in &parts {
            let _ = writeln!(infos, "  - name: {}\n    num_bytes: {bytes}\n    num_examples: {rows}", json!(split));
        }
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        let _ = writeln!(infos, "  download_size: {bytes}\n  dataset_size: {bytes}");
    }
    if !infos.is_empty() {
        out += "dataset_info:\n";
    }
    out + &infos
}

/// `text` inside of a table.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Fields};
    use std::sync::Arc;

    // datasets 5.2.0: `Features({...})._to_yaml_list()`
    #[test]
    fn features_are_those_of_datasets() {
        let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
        let list = |data_type| DataType::List(field("item", data_type));
        let message =
            DataType::Struct(Fields::from(vec![field("role", DataType::Utf8), field("content", DataType::Utf8)]));
        let schema = Schema::new(vec![
            field("a", DataType::Utf8),
            field("b", list(DataType::Int32)),
            field("c", list(message.clone())),
            field("d", list(list(DataType::Boolean))),
            field("e", message),
            field("g", DataType::FixedSizeList(field("item", DataType::Int8), 3)),
        ]);
        let fields = json!([{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]);
        let expected = json!([
            {"name": "a", "dtype": "string"},
            {"name": "b", "list": "int32"},
            {"name": "c", "list": fields},
            {"name": "d", "list": {"list": "bool"}},
            {"name": "e", "struct": fields},
            {"name": "g", "list": "int8", "length": 3},
        ]);
        assert_eq!(Value::from(features(&schema).unwrap()), expected);
        let odd = DataType::Interval(arrow::datatypes::IntervalUnit::DayTime);
        assert!(features(&Schema::new(vec![field("odd", list(odd))])).is_none());
    }

    #[test]
    fn one_card_has_the_parts_of_all_stages() {
        let license =
            |name: &str| License { source: "hf://datasets/o/s".into(), terms: vec![("license".into(), name.into())] };
        let part = |split: &str, rows| Part {
            split: split.into(),
            files: Some(format!("{split}-*.parquet")),
            features: Some(vec![json!({"name": "row_id", "dtype": "string"})]),
            rows,
            bytes: 10 * rows,
            licenses: vec![license("mit")],
            about: vec![("oracle".into(), "a | b".into())],
            ..Part::default()
        };
        let (train, test) = (part("train", 3), part("test", 2));
        let expected = "---\nlicense: \"mit\"\ntags:\n- sepo\n- preference\nconfigs:\n- config_name: \"default\"\n  data_files:\n  \
            - split: \"test\"\n    path: \"test-*.parquet\"\n  - split: \"train\"\n    path: \"train-*.parquet\"\ndataset_info:\n\
            - config_name: \"default\"\n  features:\n  - {\"name\":\"row_id\",\"dtype\":\"string\"}\n  splits:\n  \
            - name: \"test\"\n    num_bytes: 20\n    num_examples: 2\n  - name: \"train\"\n    num_bytes: 30\n    \
            num_examples: 3\n  download_size: 50\n  dataset_size: 50\n---\n\n# scored\n";
        let said = text("org/scored", &[train.clone(), test.clone()]);
        assert!(said.starts_with(expected), "{said}");
        assert!(
            said.contains("| oracle | a \\| b |") && said.contains("| license of `hf://datasets/o/s` | mit |"),
            "{said}"
        );
        // Other columns, another license: neither is said of both.
        let other = Part { features: None, licenses: vec![license("apache-2.0")], ..test };
        let said = text("org/scored", &[train, other]);
        assert!(
            !said.contains("dataset_info") && !said.contains("\nlicense:") && said.contains("apache-2.0"),
            "{said}"
        );
        let folder = Part { folder: "a/b".into(), ..part("train", 1) };
        assert!(text("o/n", &[folder]).contains(
            "- config_name: \"a-b\"\n  data_files:\n  - split: \"train\"\n    path: \"a/b/train-*.parquet\""
        ));
    }
}
