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
}

impl Card {
    /// The text of the card for a model that was trained from `source` and is loaded with `library`.
    pub(super) fn text(&self, source: &ModelSource, library: &str) -> String {
        let objective = self.objective.as_object().and_then(|objective| objective.iter().next());
        let (name, settings) = objective.map_or(("", String::new()), |(name, settings)| (name, settings.to_string()));
        let (version, data) = (env!("CARGO_PKG_VERSION"), &self.data);
        format!(
            "---\nlibrary_name: {library}\ntags:\n- sepo\n- {name}\n---\n\n# {source}, trained with {name}\n\n\
             | | |\n|---|---|\n| Base model | {source} |\n| Objective | {name} `{settings}` |\n\
             | Data | {data} |\n| Made by | sepo {version} |\n"
        )
    }
}
