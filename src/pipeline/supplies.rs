//! What a stage is opened with: models, tokenizer, device, places.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::estimate::batch_tokens;
use super::plan::{Node, Plan};
use super::run::UPLOADS;
use crate::error::{Error, Result};
use crate::io::Location;
use crate::io::hub::SCHEME;
use crate::model::{BatchTokens, DeviceSpec, ModelSource};
use crate::report::SetAside;
use crate::stages::Resources;
use crate::text::Tokenizer;

/// The resources of one stage of a plan.
pub(super) struct NodeResources<'a> {
    plan: &'a Plan,
    node: &'a Node,
    device: DeviceSpec,
    /// Finds the models that `train` stages made.
    trained: &'a dyn Fn(&str) -> Result<ModelSource>,
    /// Rows that the stages above set aside, where that is known.
    set_aside: Option<Vec<SetAside>>,
}

impl<'a> NodeResources<'a> {
    pub(super) fn new(plan: &'a Plan, node: &'a Node, trained: &'a dyn Fn(&str) -> Result<ModelSource>) -> Self {
        Self { plan, node, device: plan.device, trained, set_aside: None }
    }

    /// The same on `device`.
    pub(super) fn on(self, device: DeviceSpec) -> Self {
        Self { device, ..self }
    }

    /// The same, where the stages above set these rows aside.
    pub(super) fn behind(self, set_aside: Option<Vec<SetAside>>) -> Self {
        Self { set_aside, ..self }
    }
}

impl Resources for NodeResources<'_> {
    fn model(&self, name: &str) -> Result<ModelSource> {
        // Fingerprints cover the models that a stage names, and no others.
        if !self.node.operation().models().iter().any(|model| model.name == name) {
            return Err(Error::stage(&self.node.id, format!("the stage does not name the model `{name}`")));
        }
        self.plan.source(name).map_or_else(|| (self.trained)(name), Ok)
    }

    fn tokenizer(&self) -> Result<Option<Arc<Tokenizer>>> {
        self.plan.tokenizer_of(self.node.operation()).map(|folder| self.plan.tokenizers.load(&folder)).transpose()
    }

    fn device(&self) -> DeviceSpec {
        self.device
    }

    fn batch_tokens(&self, wanted: BatchTokens) -> Result<usize> {
        batch_tokens(self.plan, self.node, self.device, wanted)
    }

    fn positions(&self) -> Result<Option<usize>> {
        self.plan.positions(self.node)
    }

    fn columns(&self) -> SchemaRef {
        self.node.columns.clone()
    }

    fn set_aside(&self) -> Option<Vec<SetAside>> {
        self.set_aside.clone()
    }

    fn locate(&self, path: &str) -> Result<Location> {
        if path.starts_with(SCHEME) {
            return Ok(self.plan.stores.locate(&self.plan.workdir)?.join(UPLOADS));
        }
        self.plan.stores.locate(path)
    }
}
