//! A file that names pipeline files, to be run one after the other: experiments that share a workdir, and one command for all.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;
use super::spec::repeated;
use super::tree::Node;
use crate::error::{Error, Mistake, Result};

/// A list of pipeline files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Pipeline files, in the order in which they run. Paths are relative to the current folder.
    #[schemars(extend("examples" = [["pipelines/first.yaml", "pipelines/second.yaml"]]))]
    pub pipelines: Vec<String>,
    /// Values of variables, for all of the files. `--var` overrides them.
    #[serde(default)]
    #[schemars(extend("examples" = [{"out": "runs/suite"}]))]
    pub vars: BTreeMap<String, Value>,
}

impl Suite {
    /// The list in `text`, which was read from `name`; none where `text` is a pipeline itself.
    ///
    /// # Errors
    /// Every mistake of shape, each with its position.
    pub fn parse(text: &str, name: &str) -> Result<Option<Self>> {
        // Mistakes of syntax are for whoever reads a pipeline.
        let Some(mut tree) = Node::parse(text).ok().filter(|tree| tree.get("pipelines").is_some()) else {
            return Ok(None);
        };
        let (root, mut mistakes) = (schema::of::<Self>(), repeated(&mut tree));
        schema::check(&mut tree, &root, &root, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(Error::pipeline(name, mistakes));
        }
        let suite = serde_json::from_value(tree.to_json());
        let mistake = |error: serde_json::Error| Mistake { at: (1, 1), message: error.to_string(), help: None };
        suite.map(Some).map_err(|error| Error::pipeline(name, vec![mistake(error)]))
    }

    /// Its variables as on the command line.
    pub fn assignments(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.vars.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }
}
