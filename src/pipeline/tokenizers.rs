//! The tokenizers of a pipeline, each loaded once: a file of 250,000 tokens takes a second, and checks, fingerprints and stages
//! all ask for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::io::Stamps;
use crate::text::Tokenizer;

/// Endings of the files of models and tokenizers.
pub(super) const ENDINGS: [&str; 6] = [".safetensors", ".json", ".jinja", ".model", "merges.txt", "vocab.txt"];

/// Tokenizers by folder, with their files as they were before they were read.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokenizers(Arc<Mutex<BTreeMap<PathBuf, (Stamps, Arc<Tokenizer>)>>>);

impl Tokenizers {
    /// The tokenizer in `folder`, read again if a file there changed.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub(super) fn load(&self, folder: &Path) -> Result<Arc<Tokenizer>> {
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stamps, tokenizer)) = loaded.get(folder)
            && stamps.changed().is_none()
        {
            return Ok(tokenizer.clone());
        }
        let stamps = stamps(folder);
        let tokenizer = Arc::new(Tokenizer::load(folder)?);
        loaded.insert(folder.to_owned(), (stamps, tokenizer.clone()));
        Ok(tokenizer)
    }
}

/// The files of the tokenizer in `folder`, as they are now.
pub(super) fn stamps(folder: &Path) -> Stamps {
    Stamps::of([folder.to_owned(), folder.join("additional_chat_templates")], &ENDINGS)
}
