//! What a training needs to go on after it was stopped: parameters, AdamW's moments, and how far it came.
//!
//! A checkpoint is one safetensors file, `step-00000100.safetensors`, that appears whole. Its tensors are `parameter.<name>` of
//! what trains, `first.<name>` and `second.<name>`, flat and in f32; its metadata holds the [`Cursor`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::optimizer::State;
use super::policy::Policy;
use crate::error::{Error, Result};
use crate::io::{Claim, Location, Owned, Written};

/// Where a training stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    /// Optimizer steps taken.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u32,
    /// Examples taken of this epoch.
    pub taken: u64,
    /// Seconds that it took so far.
    pub seconds: f64,
    /// Tokens that went through the model's layers so far.
    #[serde(default)]
    pub tokens: u64,
    /// Floating-point operations so far, in units of 10^9.
    #[serde(default)]
    pub gflop: f64,
}

/// The checkpoints of one training.
#[derive(Debug)]
pub struct Checkpoints {
    /// The folder, which is made for the first of them.
    pub claim: Claim,
    /// Steps between two of them.
    pub every: u64,
    /// How many are kept, the newest.
    pub keep: usize,
}

const EXTENSION: &str = ".safetensors";

impl Checkpoints {
    /// The newest one that is there, and what it holds by its record.
    fn newest(&self) -> Result<Option<(Location, Written)>> {
        let Some(folder) = Owned::open(self.claim.folder.clone())? else { return Ok(None) };
        for (name, written) in saved(&folder).into_iter().rev() {
            let file = folder.folder().join(&name);
            if file.is_file()? {
                return Ok(Some((file, written)));
            }
        }
        Ok(None)
    }

    /// Brings `policy` and `state` to where the newest checkpoint left them. Without one, they stay as they are.
    ///
    /// # Errors
    /// A checkpoint that is damaged, or of a training of another shape.
    pub fn restore(&self, policy: Policy, state: &mut State, device: &Device) -> Result<(Policy, Cursor)> {
        let Some((file, written)) = self.newest()? else { return Ok((policy, Cursor::default())) };
        let wrong = |message: String| {
            let help = "delete it to go on from the one before";
            Error::model(&file, format!("not a checkpoint of this training ({message}); {help}"))
        };
        let bytes = file.read()?.unwrap_or_default();
        if bytes.len() as u64 != written.bytes || blake3::hash(&bytes).to_hex().as_str() != written.blake3 {
            return Err(wrong("it is damaged or cut".into()));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| wrong(error.to_string()))?;
        let cursor = header.metadata().as_ref().and_then(|metadata| metadata.get("cursor"));
        let cursor: Cursor = cursor
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| wrong("it does not say how far it came".into()))?;
        let read = |name: &str| -> Option<Tensor<1>> {
            let view = tensors.tensor(name).ok()?;
            let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let shape = [values.len()];
            Some(Tensor::from_data(TensorData::new(values, shape), device))
        };
        let mut trained = BTreeSet::new();
        trained_parameters(&policy, |name, _| {
            trained.insert(name.to_owned());
        });
        let mut missing = None;
        let policy = policy.map_parameters(|name, parameter| match read(&format!("parameter.{name}")) {
            Some(found) if found.dims() == parameter.dims() => found,
            None if !trained.contains(name) => parameter,
            _ => {
                missing = Some(name.to_owned());
                parameter
            }
        });
        if let Some(name) = missing {
            return Err(wrong(format!("tensor `{name}` is missing or of another size")));
        }
        let names = tensors.names().into_iter().filter_map(|name| name.strip_prefix("first."));
        let moments =
            |name: &str| Some((name.to_owned(), [read(&format!("first.{name}"))?, read(&format!("second.{name}"))?]));
        state.restore(names.filter_map(moments).collect(), cursor.step);
        Ok((policy, cursor))
    }

    /// Writes a checkpoint, then deletes those that are too many.
    ///
    /// # Errors
    /// A store that fails.
    pub fn save(&self, policy: &Policy, state: &State, cursor: Cursor) -> Result<()> {
        let mut tensors: BTreeMap<String, Tensor<1>> = BTreeMap::new();
        trained_parameters(policy, |name, values| {
            let values = state.master(name).cloned().unwrap_or_else(|| values.inner());
            tensors.insert(format!("parameter.{name}"), values);
        });
        for (name, [first, second]) in state.moments() {
            tensors.insert(format!("first.{name}"), first.clone());
            tensors.insert(format!("second.{name}"), second.clone());
        }
        let name = format!("step-{:08}{EXTENSION}", cursor.step);
        let mut folder = self.claim.open()?;
        let file = folder.expect(&name)?;
        let mut upload = file.upload()?;
        let cursor = serde_json::to_string(&cursor).expect("a cursor is plain data");
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "cursor": cursor }))]);
        let mut end = 0;
        for (name, tensor) in &tensors {
            let [size] = tensor.dims();
            let start = end;
            end += size * size_of::<f32>();
            header.insert(name.clone(), json!({ "dtype": "F32", "shape": [size], "data_offsets": [start, end] }));
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let mut write = |bytes: &[u8]| {
            let written = upload.write_all(bytes);
            written.map_err(|error| {
                let message = error.to_string();
                file.cause(Error::Store { path: file.to_string(), message, retryable: false })
            })
        };
        write(&(header.len() as u64).to_le_bytes())?;
        write(header.as_bytes())?;
        for tensor in tensors.into_values() {
            write(tensor.into_data().convert::<f32>().as_bytes())?;
        }
        folder.made(&name, upload.finish()?)?;
        let files = saved(&folder);
        let old = &files[..files.len().saturating_sub(self.keep)];
        old.iter().try_for_each(|(name, _)| folder.discard(name))
    }

    /// Deletes all checkpoints: the training ended.
    ///
    /// # Errors
    /// A store that fails.
    pub fn clear(&self) -> Result<()> {
        match Owned::open(self.claim.folder.clone())? {
            Some(folder) => folder.remove(&BTreeMap::new()).map(drop),
            None => Ok(()),
        }
    }
}

/// The recorded files of `folder` that are finished, oldest first.
fn saved(folder: &Owned) -> Vec<(String, Written)> {
    folder.files().filter_map(|(name, written)| Some((name.to_owned(), written?.clone()))).collect()
}

/// Frozen parameters, below adapters, are where the model came from.
fn trained_parameters(policy: &Policy, mut visit: impl FnMut(&str, Tensor<1>)) {
    policy.for_each_parameter(|name, values, _| {
        if values.is_autodiff() {
            visit(name, values);
        }
    });
}
