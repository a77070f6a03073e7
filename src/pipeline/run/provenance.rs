//! What the card of an uploaded dataset says in words: sources and their licenses, models, settings, counts. Nothing in it names a
//! folder of this machine.

use arrow::datatypes::Schema;
use serde_json::{Value, json};

use super::Run;
use super::published::CARD;
use crate::columns::provenance::Provenance;
use crate::error::{Error, Result};
use crate::io::hub::{Address, Hub};
use crate::pipeline::plan::Node;
use crate::pipeline::report::Reports;
use crate::stages::Shape;
use crate::stages::write::card::License;

impl Run<'_> {
    /// What made rows with `columns`, which come to `node`.
    pub(super) fn about(&self, node: &Node, columns: &Schema) -> Vec<(String, String)> {
        let mut about = vec![("made by".to_owned(), format!("sepo {}", env!("CARGO_PKG_VERSION")))];
        about.push(("pipeline".to_owned(), format!("`{}`", self.file_name())));
        for above in self.above(node) {
            if let Shape::Source(read) = above.shape() {
                let names: Vec<String> =
                    read.from.list().iter().map(|from| format!("`{}`", public_name(from))).collect();
                about.push((format!("source `{}`", above.id), names.join(", ")));
            }
            for used in above.operation().models() {
                let what = (format!("{} of `{}`", used.field, above.id), self.model_in_words(used.name));
                about.push(what);
            }
        }
        let provenance = Provenance::of(columns);
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        about.extend(provenance.precision.map(|precision| ("precision".to_owned(), plain(&precision))));
        about.extend(provenance.device.map(|device| ("device".to_owned(), device)));
        for (name, rule) in provenance.masks {
            let column = if name.is_empty() { "key_mask".to_owned() } else { format!("key_mask_{name}") };
            about.push((format!("`{{side}}_{column}`"), format!("`{rule}`")));
        }
        about
    }

    fn model_in_words(&self, name: &str) -> String {
        if let Some(train) = self.plan.node(name).and_then(Node::training) {
            let start = self.model_in_words(&train.model);
            return format!("`{name}`, trained here with `{}` from {start}", json!(train.objective));
        }
        match self.plan.hub_base(name) {
            Some(base) => format!("`{base}`"),
            None => format!("`{name}`"),
        }
    }

    /// Rows in, out and set aside of the stages above `node`, as far as they are known.
    pub(super) fn counts(&self, node: &Node, reports: &Reports) -> Vec<(String, u64, u64, u64)> {
        let report = |id: &String| reports.get(id).or_else(|| self.report.stages.get(id));
        let count = |above: &Node| {
            let report = report(&above.id)?;
            let set_aside = report.set_aside.values().sum();
            Some((above.id.clone(), report.rows_in, report.rows_out, set_aside))
        };
        self.above(node).into_iter().filter_map(count).collect()
    }

    /// What the cards of the datasets of the hub that the rows of `node` come from say of their licenses.
    ///
    /// # Errors
    /// What the hub says, but that there is no card.
    pub(super) fn licenses(&self, node: &Node) -> Result<Vec<License>> {
        let mut licenses = Vec::new();
        for above in self.above(node) {
            let Shape::Source(read) = above.shape() else { continue };
            for from in read.from.list() {
                let Some(address) = Address::parse(&from)? else { continue };
                let hub = Hub::from_env();
                let card = address.of(CARD);
                let snapshot = hub.open(&card)?;
                match hub.fetch(&snapshot, &[CARD.to_owned()], self.monitor) {
                    Ok(()) => {}
                    // It has none.
                    Err(Error::Data { .. }) => continue,
                    Err(error) => return Err(error),
                }
                let text = std::fs::read_to_string(snapshot.local(CARD)).unwrap_or_default();
                licenses.extend(licenses_of(&address.of("").to_string(), &text));
            }
        }
        licenses.sort();
        licenses.dedup();
        Ok(licenses)
    }
}

/// `from` as others may read it: an address of the hub as it is, of anything else the name alone.
fn public_name(from: &str) -> &str {
    if matches!(Address::parse(from), Ok(Some(_))) {
        return from;
    }
    let plain = from.split(['?', '#']).next().unwrap_or(from);
    plain.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or(plain)
}

/// What the YAML at the head of `card` says of the license of `source`. Of several licenses each is one.
fn licenses_of(source: &str, card: &str) -> Vec<License> {
    let front = card.strip_prefix("---").and_then(|rest| Some(rest.split_once("\n---")?.0));
    let Some(Ok(front)) = front.map(serde_saphyr::from_str::<Value>) else { return Vec::new() };
    let text = |key: &str| front[key].as_str().map(str::to_owned);
    let more = ["license_name", "license_link"].into_iter().filter_map(|key| Some((key.to_owned(), text(key)?)));
    let more: Vec<(String, String)> = more.collect();
    let names: Vec<&str> = match &front["license"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let license = |name: &str| License {
        source: source.to_owned(),
        terms: [vec![("license".to_owned(), name.to_owned())], more.clone()].concat(),
    };
    names.into_iter().map(license).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_license_is_what_the_card_says() {
        let terms = |card: &str| licenses_of("s", card).into_iter().map(|license| license.terms).collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(terms("---\nlanguage: en\nlicense: mit\n---\n# Title"), [vec![pair("license", "mit")]]);
        let own = "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n";
        assert_eq!(
            terms(own),
            [vec![pair("license", "other"), pair("license_name", "own"), pair("license_link", "LICENSE")]]
        );
        assert_eq!(terms("---\nlicense: [mit, cc0-1.0]\n---\n").len(), 2);
        for none in ["", "# Title\nlicense: mit", "---\nlicense: mit", "---\ntags: []\n---\n", "---\n: [\n---\n"] {
            assert!(terms(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn names_of_sources_are_no_places_of_this_machine() {
        assert_eq!(public_name("/home/somebody/pairs.jsonl"), "pairs.jsonl");
        assert_eq!(public_name("s3://bucket/a/*.parquet"), "*.parquet");
        assert_eq!(public_name("https://h/x.parquet?signature=1"), "x.parquet");
        assert_eq!(public_name("hf://datasets/o/n@v1/data"), "hf://datasets/o/n@v1/data");
    }
}
