//! The tokenizer that made a dataset's ids, found by what the dataset says of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::columns::provenance::Provenance;
use crate::error::{Error, Place, Result};
use crate::text::Tokenizer;

/// The tokenizer of the rows at `path`, of which `provenance` is known: the one in the folder `named`, or else the one that the
/// rows were made with, if it is still where it was, seen from here or from a folder above `path`. None where it is not found.
///
/// # Errors
/// A folder `named` without a tokenizer, or with another one than that of the rows.
pub(super) fn find(named: Option<&Path>, provenance: &Provenance, path: &str) -> Result<Option<Arc<Tokenizer>>> {
    let made_ids = |tokenizer: &Tokenizer| {
        provenance.tokenizer.as_ref().is_none_or(|digest| tokenizer.digest().is_ok_and(|own| own == *digest))
    };
    if let Some(folder) = named {
        let tokenizer = Tokenizer::load(folder)?;
        if !made_ids(&tokenizer) {
            let message = format!("the rows were tokenized with another tokenizer than that in {}", folder.display());
            return Err(Error::data(Place::file(path), message));
        }
        return Ok(Some(Arc::new(tokenizer)));
    }
    let (Some(folder), Some(_)) = (&provenance.tokenizer_folder, &provenance.tokenizer) else { return Ok(None) };
    let above = Path::new(path).ancestors().map(|above| above.join(folder));
    for folder in
        [PathBuf::from(folder)].into_iter().chain(above).filter(|folder| folder.join("tokenizer.json").is_file())
    {
        // What is broken there now is not what made the rows.
        if let Ok(tokenizer) = Tokenizer::load(&folder)
            && made_ids(&tokenizer)
        {
            return Ok(Some(Arc::new(tokenizer)));
        }
    }
    Ok(None)
}
