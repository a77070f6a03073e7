//! What a result depends on must be the same at its commit as it was when its fingerprint was taken: input files, models,
//! tokenizers. A result whose inputs changed underneath is not kept.

use std::path::Path;

use super::{Run, locked};
use crate::error::{Error, Result};
use crate::io::Stamps;
use crate::model::{ModelSource, Weights};
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::tokenizers::{self, ENDINGS};

/// The files of `source`, as they are now.
pub(super) fn stamps(source: &ModelSource) -> Stamps {
    let weights = match &source.weights {
        Weights::Folder(folder) => Some(folder.clone()),
        Weights::Init { .. } => None,
    };
    // An adapter that does not name its base is reported where the model is loaded.
    let base = source.base_folder().ok().flatten();
    let adapter = source.adapter_folder().map(Path::to_owned);
    Stamps::of([weights, base, adapter, source.tokenizer.clone()].into_iter().flatten(), &ENDINGS)
}

impl Run<'_> {
    /// Notes how the models and the tokenizer of `node` are now, before their digests are taken.
    pub(super) fn stamp(&self, node: &Node) {
        let mut used = locked(&self.used);
        for model in node.operation().models() {
            if let Some(source) = self.plan.source(model.name) {
                used.entry(model.name.to_owned()).or_insert_with(|| stamps(&source));
            }
        }
        if let Some(folder) = self.plan.tokenizer_of(node.operation()) {
            used.entry(folder.display().to_string()).or_insert_with(|| tokenizers::stamps(&folder));
        }
    }

    /// Checks that what the rows of `flow`, and the stages `nodes` that they passed, were made from is still what it was.
    ///
    /// # Errors
    /// A file that changed.
    pub(super) fn unchanged<'n>(&self, flow: &Flow, nodes: impl IntoIterator<Item = &'n Node>) -> Result<()> {
        let way_out = "nothing was committed; run the same command again";
        let used = locked(&self.used);
        for node in nodes {
            let models = node.operation().models().into_iter().map(|model| model.name.to_owned());
            let tokenizer = self.plan.tokenizer_of(node.operation());
            let names = models.chain(tokenizer.map(|folder| folder.display().to_string()));
            let changed = names.filter_map(|name| used.get(&name)?.changed().map(Path::to_owned)).next();
            if let Some(file) = changed {
                let message = format!("the file changed while stage `{}` used it; {way_out}", node.id);
                return Err(Error::Store { path: file.display().to_string(), message, retryable: false });
            }
        }
        flow.dataset.all_unchanged()
    }
}
