//! Datasets by what names them. The variants of a sweep and the files of a suite mostly read the same ones: each is opened
//! once, so that all of them read it in one version.

use crate::error::Result;
use crate::io::{Dataset, Storage, Stores};
use crate::monitor::Monitor;

/// The datasets that were opened so far.
#[derive(Debug, Default)]
pub struct Sources(Vec<(Vec<String>, Storage, Dataset)>);

impl Sources {
    /// The dataset that `patterns` name in `stores`, which `storage` describes; `monitor` watches what is fetched from the hub.
    ///
    /// # Errors
    /// As for [`Dataset::open_watched`].
    pub(super) fn open(
        &mut self,
        patterns: &[String],
        (storage, stores): (&Storage, &Stores),
        monitor: &dyn Monitor,
    ) -> Result<Dataset> {
        if let Some((.., dataset)) = self.0.iter().find(|(known, by, _)| known == patterns && by == storage) {
            return Ok(dataset.clone());
        }
        let dataset = Dataset::open_watched(patterns, stores, monitor)?;
        self.0.push((patterns.to_vec(), storage.clone(), dataset.clone()));
        Ok(dataset)
    }
}
