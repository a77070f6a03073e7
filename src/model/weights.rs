//! Parameters by their checkpoint names: out of safetensors or a seeded generator, and back out of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;

use super::source::{ModelSource, Weights, missing};
use crate::error::{Error, Result};

/// The parameters of one model on their way to a device.
#[derive(Debug)]
pub struct Parameters {
    source: String,
    origin: Origin,
    device: Device,
    used: BTreeSet<String>,
}

#[derive(Debug)]
enum Origin {
    Checkpoint(Checkpoint),
    Init { seed: u64, normal: Normal<f32> },
}

impl Parameters {
    /// Opens the source; `config` gives the spread of new parameters (`initializer_range`).
    pub fn open(source: &ModelSource, config: &Value, device: &Device) -> Result<Self> {
        let origin = match &source.weights {
            Weights::Folder(folder) => Origin::Checkpoint(Checkpoint::open(folder)?),
            Weights::Init { seed, .. } => {
                let spread = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
                let normal = Normal::new(0.0, spread as f32);
                let normal = normal.map_err(|error| Error::model(source, format!("initializer_range: {error}")))?;
                Origin::Init { seed: *seed, normal }
            }
        };
        Ok(Self { source: source.to_string(), origin, device: device.clone(), used: BTreeSet::new() })
    }

    /// A matrix `[rows, columns]`; new ones are normally distributed.
    pub fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>> {
        self.parameter(name, shape, |normal, mut random| {
            normal.sample_iter(&mut random).take(shape[0] * shape[1]).collect()
        })
    }

    /// A vector; new ones are one everywhere.
    pub fn ones(&mut self, name: &str, size: usize) -> Result<Param<Tensor<1>>> {
        self.parameter(name, [size], |_, _| vec![1.0; size])
    }

    /// A vector; new ones are zero everywhere.
    pub fn zeros(&mut self, name: &str, size: usize) -> Result<Param<Tensor<1>>> {
        self.parameter(name, [size], |_, _| vec![0.0; size])
    }

    /// A tensor that checkpoints may hold without a use for it, such as a tied head's copy.
    pub fn ignore(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    fn parameter<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: impl FnOnce(Normal<f32>, ChaCha8Rng) -> Vec<f32>,
    ) -> Result<Param<Tensor<D>>> {
        let values = match &self.origin {
            Origin::Checkpoint(checkpoint) => checkpoint.tensor(name, &shape)?,
            Origin::Init { seed, normal } => {
                let key = blake3::keyed_hash(blake3::hash(&seed.to_le_bytes()).as_bytes(), name.as_bytes());
                init(*normal, ChaCha8Rng::from_seed(*key.as_bytes()))
            }
        };
        self.used.insert(name.to_owned());
        Ok(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &self.device)))
    }

    /// Every tensor of a checkpoint must have been asked for.
    pub fn finish(self) -> Result<()> {
        let Origin::Checkpoint(checkpoint) = &self.origin else { return Ok(()) };
        // Old checkpoints store the rotary frequencies, which follow from config.json.
        let unused = checkpoint
            .tensors
            .keys()
            .filter(|name| !self.used.contains(*name) && !name.ends_with("rotary_emb.inv_freq"));
        let unused: Vec<&str> = unused.map(String::as_str).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let message = format!("tensors that config.json does not account for: {}", shorten(&unused));
        Err(Error::model(self.source, message))
    }
}

/// The weight files of a model folder: those that the index names, else `model.safetensors`.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        let single = folder.join("model.safetensors");
        return match single.is_file() {
            true => Ok(vec![single]),
            false => Err(Error::model(folder.display(), no_weights(folder))),
        };
    }
    let text = fs::read(&index).map_err(|error| missing(&index, &error))?;
    let wrong = |message: String| Error::model(index.display(), message);
    let content: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let map = content.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| wrong("has no weight_map".into()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(wrong(format!("names the file `{name}`, which is not in the folder")));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Numbers in the weight files of `folder`, by their headers.
pub fn parameters(folder: &Path) -> Result<u64> {
    let mut count = 0;
    for path in files(folder)? {
        let file = File::open(&path).map_err(|error| missing(&path, &error))?;
        // SAFETY: the map is read once, here; a file that another process cuts short meanwhile was never a valid model.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| missing(&path, &error))?;
        let (_, header) = SafeTensors::read_metadata(&map).map_err(|error| Error::model(path.display(), error))?;
        count += header.tensors().values().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum::<u64>();
    }
    Ok(count)
}

fn no_weights(folder: &Path) -> String {
    if !folder.is_dir() {
        return "no such folder".into();
    }
    "holds no model.safetensors; weights in other formats (pytorch_model.bin) must be converted to safetensors".into()
}

/// Tensors of one or several memory-mapped safetensors files.
#[derive(Debug)]
struct Checkpoint {
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: std::ops::Range<usize>,
}

impl Checkpoint {
    fn open(folder: &Path) -> Result<Self> {
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in files(folder)? {
            let file = File::open(&path).map_err(|error| missing(&path, &error))?;
            // SAFETY: the map is only read; a file that changes meanwhile is outside of what any reader can promise.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| missing(&path, &error))?;
            let (header, metadata) = SafeTensors::read_metadata(&map)
                .map_err(|error| Error::model(path.display(), format!("not a whole safetensors file: {error}")))?;
            let start = header + 8;
            for (name, info) in metadata.tensors() {
                let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
                if bytes.end > map.len() {
                    let message = format!("tensor `{name}` ends behind the end of the file; the file was cut short");
                    return Err(Error::model(path.display(), message));
                }
                let entry = Entry { file: checkpoint.files.len(), dtype: info.dtype, shape: info.shape.clone(), bytes };
                checkpoint.tensors.insert(name, entry);
            }
            checkpoint.files.push((path, map));
        }
        Ok(checkpoint)
    }

    /// The values of tensor `name`, which must have `shape`, as f32.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let folder = self.files.first().and_then(|(path, _)| path.parent()).unwrap_or(Path::new(""));
        let entry = self.tensors.get(name).ok_or_else(|| {
            let near = self.tensors.keys().max_by_key(|other| (1e6 * strsim::jaro_winkler(name, other)) as u64);
            let near = near.map(|near| format!("; the nearest name is `{near}`")).unwrap_or_default();
            Error::model(folder.display(), format!("tensor `{name}` is missing{near}"))
        })?;
        let (path, map) = &self.files[entry.file];
        let wrong = |message: String| Error::model(path.display(), format!("tensor `{name}` {message}"));
        if entry.shape != shape {
            return Err(wrong(format!("has shape {:?}; config.json asks for {shape:?}", entry.shape)));
        }
        let bytes = &map[entry.bytes.clone()];
        match entry.dtype {
            Dtype::F32 => Ok(convert(bytes, f32::from_le_bytes)),
            Dtype::F16 => Ok(convert(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
            Dtype::BF16 => Ok(convert(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            other => Err(wrong(format!("has type {other:?}; supported are F32, F16, BF16"))),
        }
    }
}

fn convert<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    bytes.as_chunks::<N>().0.par_iter().with_min_len(1 << 16).map(|bytes| value(*bytes)).collect()
}

fn shorten(names: &[&str]) -> String {
    let shown = names.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=8 => shown,
        more => format!("{shown} and {} more", more - 8),
    }
}

/// Calls `visit` with every parameter's checkpoint name, flat values and shape.
pub(super) fn for_each(module: &impl Module, visit: impl FnMut(&str, Tensor<1>, &[usize])) {
    struct Visitor<F>(Vec<String>, F);
    impl<F: FnMut(&str, Tensor<1>, &[usize])> ModuleVisitor for Visitor<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims();
            (self.1)(&self.0.join("."), tensor.flatten(0, D - 1), &shape);
        }
    }
    module.visit(&mut Visitor(Vec::new(), visit));
}

/// Takes every parameter's gradient out of `gradients`, flat; parameters without one are left out.
pub(super) fn take_gradients(module: &impl Module, gradients: &mut Gradients, take: impl FnMut(&str, Tensor<1>)) {
    struct Visitor<'a, F>(Vec<String>, &'a mut Gradients, F);
    impl<F: FnMut(&str, Tensor<1>)> ModuleVisitor for Visitor<'_, F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(self.1) {
                (self.2)(&self.0.join("."), gradient.flatten(0, D - 1));
            }
        }
    }
    module.visit(&mut Visitor(Vec::new(), gradients, take));
}

/// Replaces every parameter by what `replace` makes of its checkpoint name and flat values.
pub(super) fn map<M: Module>(module: M, replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> M {
    struct Mapper<F>(Vec<String>, F);
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Mapper<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let (shape, trains) = (tensor.dims(), tensor.is_require_grad());
            let tensor = (self.1)(&self.0.join("."), tensor.inner().flatten(0, D - 1)).reshape(shape);
            let tensor = if trains { tensor.autodiff().require_grad() } else { tensor };
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    module.map(&mut Mapper(Vec::new(), replace))
}
