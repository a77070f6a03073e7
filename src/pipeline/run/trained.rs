//! Models that `train` stages made. In a local workdir they lie where they are used; in a store's they are made on this
//! machine, copied there, and fetched by whoever needs them. A model's folder has a record of its files, with the
//! fingerprint of the training that made them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::record::Done;
use super::uses::stamps;
use super::{Run, locked};
use crate::error::{Error, Result};
use crate::io::owned::{Depth, RECORD, some_of};
use crate::io::{Location, Mirror, Owned, mirror};
use crate::model::ModelSource;
use crate::pipeline::plan::Node;

impl Run<'_> {
    /// Where the model of stage `id` is kept.
    pub(super) fn kept(&self, id: &str) -> Location {
        self.workdir.at.join(&format!("models/{}", self.kept_name(id)))
    }

    /// The model that stage `id` made, whose files are compared with their digests once a run.
    ///
    /// # Errors
    /// No such model, one of another training, files that changed since.
    pub(super) fn trained(&self, id: &str) -> Result<ModelSource> {
        let kept = self.kept(id);
        let (source, folder) = match kept.local() {
            Some(folder) => (ModelSource::folder(id, folder), kept.clone()),
            None => {
                let mirror = Mirror::of(&kept)?;
                mirror.fetch(|_| true)?;
                let source = ModelSource::folder(id, mirror.folder()).called(&kept);
                (source, Location::copy(mirror.folder(), &kept, None)?)
            }
        };
        let owned = Owned::open(folder)?.filter(|owned| owned.owner().fingerprint == self.fingerprints[id]);
        let replaced = || {
            Error::stage(
                id,
                format!(
                    "{kept} is not the model that it trained; another run may have replaced it, run the same command again"
                ),
            )
        };
        let owned = owned.ok_or_else(replaced)?;
        if locked(&self.sound).insert(id.to_owned()) {
            let seen = stamps(&source);
            refuse_changed(id, &owned, Depth::Digest)?;
            locked(&self.used).insert(id.to_owned(), seen);
        }
        Ok(source)
    }

    /// Whether all of the model that stage `node` makes is there, and its record.
    ///
    /// # Errors
    /// Files of it that changed since.
    pub(super) fn is_trained(&mut self, id: &str) -> Result<bool> {
        let (Some(record), Some(owned)) = (self.recorded(id)?, Owned::open(self.kept(id))?) else { return Ok(false) };
        let fingerprint = &self.fingerprints[id];
        if record.fingerprint != *fingerprint
            || owned.owner().fingerprint != *fingerprint
            || record.model != Some(owned.digest())
        {
            return Ok(false);
        }
        if !owned.difference(Depth::Size)?.missing.is_empty() {
            return Ok(false);
        }
        refuse_changed(id, &owned, self.verify)?;
        self.some_rows(&record.reports, &self.workdir.at.join(&format!("rejects/{}", self.folder_name(id))))?;
        self.remember(record, Done::Earlier);
        Ok(true)
    }

    /// Refuses to train a model whose folder holds what this program did not make, unless the stage may `overwrite`.
    pub(super) fn refuse_foreign_model(&self, id: &str, overwrite: bool) -> Result<()> {
        let kept = self.kept(id);
        if overwrite {
            return Ok(());
        }
        let foreign = match Owned::open(kept.clone())? {
            Some(owned) if owned.owner().workdir != self.workdir.id => vec![RECORD.to_owned()],
            Some(owned) => [owned.foreign()?, owned.difference(Depth::Digest)?.changed].concat(),
            None => kept.entries()?,
        };
        if foreign.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{kept} holds {}, which sepo did not make or which changed since; move it to another place, or set `overwrite: true` \
             to replace files of the same names",
            some_of(&foreign)
        );
        Err(Error::stage(id, message))
    }

    /// Keeps what `save` puts into the folder that it is given as the model of stage `node`; returns the model's digest.
    pub(super) fn keep(&self, node: &Node, overwrite: bool, save: impl FnOnce(&Path) -> Result<()>) -> Result<String> {
        let kept = self.kept(&node.id);
        let draft = match kept.local() {
            Some(_) => kept.draft(),
            None => Location::parse(&mirror::cache().join("models/new").display().to_string())?.draft(),
        };
        let folder = draft.local().expect("a draft of a model lies on this machine").to_owned();
        let made = fs::create_dir_all(&folder).map_err(|error| Error::Store {
            path: draft.to_string(),
            message: error.to_string(),
            retryable: false,
        });
        let mut owned = Owned::new(draft, &self.owner(&node.id), &self.pipeline);
        let published = made.and_then(|()| save(&folder)).and_then(|()| {
            owned.take_stock()?;
            owned.save()?;
            // The training took its time.
            self.refuse_foreign_model(&node.id, overwrite)?;
            self.forget_model(node)?;
            owned.publish(&kept)?;
            // Who made it need not fetch it.
            if kept.local().is_none() { Mirror::of(&kept)?.adopt(&folder).map(drop) } else { Ok(()) }
        });
        let digest = owned.digest();
        if folder.exists() {
            // What is left of the draft; the error that led here, if one did, is the one to report.
            drop(owned.take_stock().and_then(|()| owned.remove(&BTreeMap::new())));
        }
        published.map(|()| digest)
    }

    /// Takes the record of an earlier model of the stage away, so that it is never taken for that of a later one.
    fn forget_model(&self, node: &Node) -> Result<()> {
        match self.recorded(&node.id)? {
            Some(_) => self.record_of(&node.id).delete(),
            None => Ok(()),
        }
    }

    /// Removes the model of stage `node` and its record, for it to be trained again.
    pub(super) fn forget_trained(&self, node: &Node) -> Result<()> {
        self.forget_model(node)?;
        if let Some(owned) = Owned::open(self.kept(&node.id))?.filter(|owned| owned.owner().workdir == self.workdir.id)
        {
            refuse_changed(&node.id, &owned, Depth::Digest)?;
            owned.remove(&BTreeMap::new())?;
        }
        Ok(())
    }
}

/// # Errors
/// Files that are not what their record says.
fn refuse_changed(id: &str, owned: &Owned, depth: Depth) -> Result<()> {
    let difference = owned.difference(depth)?;
    let changed = [difference.changed, difference.missing].concat();
    if changed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "of its model in {}, {} changed since sepo wrote it; bring it back, or move it away and run again to train anew",
        owned.folder(),
        some_of(&changed)
    );
    Err(Error::stage(id, message))
}
