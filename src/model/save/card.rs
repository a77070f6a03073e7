//! The model card of a trained model.

use serde_json::Value;

use crate::model::checkpoint::source::ModelSource;

/// What the model card tells about the training.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The objective's name and settings.
    pub objective: Value,
    /// The training data.
    pub data: String,
    /// The model of the hub that the training goes back to, as `org/name`.
    pub base: Option<String>,
}

impl Card {
    /// The text of the card for a model that was trained from `source` and is loaded with `library`.
    pub(super) fn text(&self, source: &ModelSource, library: &str) -> String {
        let objective = self.objective.as_object().and_then(|objective| objective.iter().next());
        let (name, settings) = objective.map_or(("", String::new()), |(name, settings)| (name, settings.to_string()));
        let (version, data, start) = (env!("CARGO_PKG_VERSION"), &self.data, &source.name);
        let base = self.base.as_ref().map(|base| format!("base_model: {base}\n")).unwrap_or_default();
        let tag = if name == "sepo" { String::new() } else { format!("- {name}\n") };
        format!(
            "---\nlibrary_name: {library}\n{base}tags:\n- sepo\n{tag}---\n\n# `{start}`, trained with {name}\n\n\
             | | |\n|---|---|\n| Started from | `{start}` |\n| Objective | {name} `{settings}` |\n\
             | Data | {data} |\n| Made by | sepo {version} |\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Weights;
    use serde_json::json;

    #[test]
    fn a_card_names_the_hub_and_no_folder() {
        let source = ModelSource::new("ref", Weights::Folder("/home/somebody/models/ref".into()), None);
        let objective = json!({ "sepo": { "gamma": 2.0 } });
        let mut card = Card { objective, data: "4 rows of `keyed` in p.yaml".into(), base: Some("org/name".into()) };
        let text = card.text(&source, "transformers");
        let head =
            "---\nlibrary_name: transformers\nbase_model: org/name\ntags:\n- sepo\n---\n\n# `ref`, trained with sepo\n";
        assert!(text.starts_with(head) && !text.contains("/home"), "{text}");
        (card.objective, card.base) = (json!({ "dpo": {} }), None);
        let text = card.text(&source, "peft");
        assert!(text.starts_with("---\nlibrary_name: peft\ntags:\n- sepo\n- dpo\n---\n"), "{text}");
    }
}
