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

/// A tokenizer, and its files as they were before they were read.
type Loaded = (Stamps, Arc<Tokenizer>);

/// Tokenizers by folder. Copies of a plan share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokenizers(Arc<Mutex<BTreeMap<PathBuf, Loaded>>>);

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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn write(folder: &Path, words: &[&str]) {
        let vocab: BTreeMap<&str, usize> = words.iter().enumerate().map(|(id, word)| (*word, id)).collect();
        let file = json!({
            "version": "1.0", "added_tokens": [],
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": words[0] },
        });
        fs::write(folder.join("tokenizer.json"), file.to_string()).unwrap();
    }

    #[test]
    fn a_tokenizer_is_loaded_once_until_its_files_change() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["a", "b"]);
        let tokenizers = Tokenizers::default();
        let first = tokenizers.load(folder.path()).unwrap();
        assert!(Arc::ptr_eq(&first, &tokenizers.clone().load(folder.path()).unwrap()));
        write(folder.path(), &["a", "b", "c"]);
        let second = tokenizers.load(folder.path()).unwrap();
        assert_eq!([&first, &second].map(|tokenizer| tokenizer.id("c")), [None, Some(2)]);
        assert_ne!(first.digest().unwrap(), second.digest().unwrap());
    }
}
