//! Tensors in safetensors files, memory-mapped: one file, or the shards that an index names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;

use super::files::{INDEX, TENSORS, missing};
use crate::error::{Error, Result};
use crate::text::description;

/// The weight files of a model folder: `model.safetensors`, else the shards that the index names.
pub(in crate::model) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(TENSORS);
    if single.is_file() {
        return Ok(vec![single]);
    }
    Ok(Index::read(folder)?.files())
}

/// The number of parameters in a model folder, from the headers.
pub(in crate::model) fn parameters(folder: &Path) -> Result<u64> {
    let checkpoint = Checkpoint::open(folder)?;
    Ok(checkpoint.tensors.values().map(|entry| entry.shape.iter().product::<usize>() as u64).sum())
}

/// Which shard holds which tensor.
#[derive(Debug)]
struct Index {
    path: PathBuf,
    shards: BTreeMap<String, PathBuf>,
}

impl Index {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(INDEX);
        if !folder.is_dir() {
            return Err(Error::model(folder.display(), "no such folder"));
        }
        if !path.is_file() {
            let message = format!(
                "holds no {TENSORS} and no {INDEX}; weights in other formats (pytorch_model.bin) must be converted to \
                 safetensors"
            );
            return Err(Error::model(folder.display(), message));
        }
        let text = description::read(&path).map_err(|error| missing(&path, &error))?;
        let wrong = |message: String| Error::model(path.display(), message);
        let content: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let map = content.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
        let map = map.ok_or_else(|| wrong("has no weight_map, or an empty one".into()))?;
        let shard = |(tensor, file): (&String, &Value)| {
            let name = file.as_str().ok_or_else(|| wrong(format!("tensor `{tensor}` has no file name")))?;
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || name.contains('\\') {
                return Err(wrong(format!("names the file `{name}`, which is not in the folder")));
            }
            let file = folder.join(name);
            if !file.is_file() {
                return Err(wrong(format!("names the file `{name}`, which is missing; download it again")));
            }
            Ok((tensor.clone(), file))
        };
        let shards = map.iter().map(shard).collect::<Result<_>>()?;
        Ok(Self { path, shards })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.shards.values().collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    /// Checks that every tensor is in the file that the index names.
    fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        for (tensor, file) in &self.shards {
            let found = checkpoint.tensors.get(tensor).map(|entry| &checkpoint.files[entry.file].0);
            if found != Some(file) {
                let message = format!("tensor `{tensor}` is not in {}", file.display());
                return Err(Error::model(self.path.display(), message));
            }
        }
        Ok(())
    }
}

/// Tensors of one or several memory-mapped safetensors files.
#[derive(Debug)]
pub(in crate::model) struct Checkpoint {
    files: Vec<(PathBuf, Arc<Mmap>)>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// The bytes of a tensor in the map of its file. At the end its pages are freed: what was read is kept elsewhere.
struct Mapped {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        #[cfg(unix)]
        // SAFETY: the map is read-only, so its pages are loaded again from the file when they are read.
        let _ =
            unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.range.start, self.range.len()) };
    }
}

impl Checkpoint {
    /// The weights of a model folder.
    pub(in crate::model) fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(TENSORS);
        if single.is_file() {
            return Self::of_files(vec![single]);
        }
        let index = Index::read(folder)?;
        let checkpoint = Self::of_files(index.files())?;
        index.check(&checkpoint)?;
        Ok(checkpoint)
    }

    /// The tensors of `paths`.
    pub(in crate::model) fn of_files(paths: Vec<PathBuf>) -> Result<Self> {
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let file = File::open(&path).map_err(|error| missing(&path, &error))?;
            // SAFETY: the map is only read; no reader can guard against a file that changes meanwhile.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| missing(&path, &error))?;
            // This checks that the offsets cover the file without gaps and fit the shapes.
            let (header, metadata) = SafeTensors::read_metadata(&map)
                .map_err(|error| Error::model(path.display(), format!("not a whole safetensors file: {error}")))?;
            let start = header + size_of::<u64>();
            for (name, info) in metadata.tensors() {
                let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
                let entry = Entry { file: checkpoint.files.len(), dtype: info.dtype, shape: info.shape.clone(), bytes };
                if let Some(other) = checkpoint.tensors.get(&name) {
                    let other = checkpoint.files[other.file].0.display();
                    let message = format!("tensor `{name}` is also in {other}; remove one of the two");
                    return Err(Error::model(path.display(), message));
                }
                checkpoint.tensors.insert(name, entry);
            }
            checkpoint.files.push((path, Arc::new(map)));
        }
        Ok(checkpoint)
    }

    /// The names of all tensors.
    pub(in crate::model) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of tensor `name`, if it exists.
    pub(in crate::model) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| &*entry.shape)
    }

    /// Whether tensor `name` exists in both and is equal.
    pub(in crate::model) fn has_equal(&self, other: &Self, name: &str) -> bool {
        self.tensors.get(name).zip(other.tensors.get(name)).is_some_and(|(own, others)| {
            (own.dtype, &own.shape) == (others.dtype, &others.shape)
                && self.bytes(own).as_ref() == other.bytes(others).as_ref()
        })
    }

    /// Whether the tensors `a` and `b` exist and are equal.
    pub(in crate::model) fn are_equal(&self, a: &str, b: &str) -> bool {
        self.tensors.get(a).zip(self.tensors.get(b)).is_some_and(|(a, b)| {
            (a.dtype, &a.shape) == (b.dtype, &b.shape) && self.bytes(a).as_ref() == self.bytes(b).as_ref()
        })
    }

    fn bytes(&self, entry: &Entry) -> Mapped {
        Mapped { map: self.files[entry.file].1.clone(), range: entry.bytes.clone() }
    }

    /// The values of tensor `name`, which must have `shape`, as f32.
    pub(in crate::model) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (entry, path) = self.entry(name, shape)?;
        let bytes = self.bytes(entry);
        let bytes = bytes.as_ref();
        match entry.dtype {
            Dtype::F32 => Ok(convert(bytes, f32::from_le_bytes)),
            Dtype::F16 => Ok(convert(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
            Dtype::BF16 => Ok(convert(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            other => {
                let message = format!("tensor `{name}` has type {other:?}; supported are F32, F16, BF16");
                Err(Error::model(path.display(), message))
            }
        }
    }

    /// The bytes of tensor `name`, which must have `shape`, if they are bf16; they are read when they are used.
    pub(in crate::model) fn bf16(&self, name: &str, shape: &[usize]) -> Result<Option<Bytes>> {
        let (entry, _) = self.entry(name, shape)?;
        Ok((entry.dtype == Dtype::BF16).then(|| Bytes::from_owner(self.bytes(entry))))
    }

    /// The tensor `name` and its file; an error if it has another shape than `shape`.
    fn entry(&self, name: &str, shape: &[usize]) -> Result<(&Entry, &Path)> {
        let folder = self.files.first().and_then(|(path, _)| path.parent()).unwrap_or(Path::new(""));
        let entry = self.tensors.get(name).ok_or_else(|| {
            let near = self.tensors.keys().max_by_key(|other| (1e6 * strsim::jaro_winkler(name, other)) as u64);
            let near = near.map(|near| format!("; the nearest name is `{near}`")).unwrap_or_default();
            Error::model(folder.display(), format!("tensor `{name}` is missing{near}"))
        })?;
        let path = &self.files[entry.file].0;
        if entry.shape != shape {
            let message = format!("tensor `{name}` has shape {:?}; config.json asks for {shape:?}", entry.shape);
            return Err(Error::model(path.display(), message));
        }
        Ok((entry, path))
    }
}

fn convert<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    bytes.as_chunks::<N>().0.par_iter().with_min_len(1 << 16).map(|bytes| value(*bytes)).collect()
}
