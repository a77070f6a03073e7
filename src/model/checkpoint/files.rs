//! The files of the folder of a model or an adapter.

use std::path::Path;

use crate::error::Error;

/// The configuration of a model.
pub(in crate::model) const CONFIG: &str = "config.json";
/// The weights of a model, in one file.
pub(in crate::model) const TENSORS: &str = "model.safetensors";
/// The index of weights in several files.
pub(in crate::model) const INDEX: &str = "model.safetensors.index.json";
/// The configuration of an adapter.
pub(in crate::model) const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The weights of an adapter.
pub(in crate::model) const ADAPTER_TENSORS: &str = "adapter_model.safetensors";

/// Whether `folder` holds an adapter and no model.
pub(in crate::model) fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER_CONFIG).is_file() && !folder.join(CONFIG).is_file()
}

/// A file of a model folder that could not be opened.
pub(in crate::model) fn missing(path: &Path, error: &std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "no such file; a model folder holds config.json, *.safetensors and tokenizer.json"
        }
        _ => "cannot be read",
    };
    Error::model(path.display(), format!("{hint} ({error})"))
}
