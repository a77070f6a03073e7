//! Models that `train` stages made. In a local workdir they lie where they are used; in a store's they are made on this
//! machine, copied there, and fetched by whoever needs them.

use std::fs;
use std::path::Path;

use super::Run;
use crate::error::Result;
use crate::io::{Location, Mirror, mirror};
use crate::model::ModelSource;
use crate::model::checkpoint::files;

impl Run<'_> {
    fn kept(&self, id: &str) -> Location {
        self.workdir.join(&format!("models/{}", self.kept_name(id)))
    }

    /// The model that stage `id` made.
    pub(super) fn trained(&self, id: &str) -> Result<ModelSource> {
        let kept = self.kept(id);
        if let Some(folder) = kept.local() {
            return Ok(ModelSource::folder(id, folder));
        }
        let mirror = Mirror::of(&kept)?;
        mirror.fetch(|_| true)?;
        Ok(ModelSource::folder(id, mirror.folder()).called(&kept))
    }

    /// Whether all of the model that stage `id` made is there.
    pub(super) fn is_trained(&self, id: &str) -> Result<bool> {
        for name in files::WHOLE {
            if self.kept(id).join(name).is_file()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps what `save` puts into the folder that it is given as the model of stage `id`.
    pub(super) fn keep(&self, id: &str, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let kept = self.kept(id);
        if let Some(folder) = kept.local() {
            return save(folder);
        }
        let draft = mirror::cache().join("models").join(format!("{id}-draft-{}", std::process::id()));
        let copied = save(&draft)
            .and_then(|()| mirror::publish(&draft, &kept, &files::WHOLE))
            .and_then(|()| Mirror::of(&kept)?.adopt(&draft));
        if copied.is_err() {
            // The error that led here is the one to report.
            drop(fs::remove_dir_all(&draft));
        }
        copied
    }
}
