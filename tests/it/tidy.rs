//! The house rules that a compiler does not know: which layer may use which, and what every file begins with.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::repository;

/// Layers from top to bottom; an arrow permits every layer further down. Those of one entry do not know one another.
const LAYERS: [&[&str]; 7] = [
    &["cli"],
    &["pipeline"],
    &["stages"],
    &["train"],
    &["model", "objective", "columns", "io"],
    &["kernels", "text"],
    &["error", "monitor"],
];

/// Crates and layers that are the business of a few folders.
const KEEPERS: [(&str, &[&str]); 7] = [
    ("clap::", &["cli"]),
    ("serde_saphyr::", &["pipeline"]),
    ("tokio::", &["io"]),
    ("burn::", &["kernels", "model", "train"]),
    ("polars::", &["stages/read/sql.rs"]),
    ("crate::kernels::", &["kernels", "model", "train"]),
    ("crate::text::", &["cli", "pipeline", "stages", "model", "text"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn layers_only_use_what_lies_below() {
    let root = repository().join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut broken = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let own = name.split('/').next().unwrap().trim_end_matches(".rs");
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//!") {
            broken.push(format!("src/{name}:1: does not say why it exists (//!)"));
        }
        // Inline tests stand at the foot of a file and may use what they need.
        let is_test = name.ends_with("tests.rs");
        for (number, line) in text.lines().enumerate().take_while(|(_, line)| !is_test && *line != "#[cfg(test)]") {
            let mut complain = |what: String| broken.push(format!("src/{name}:{}: {what}", number + 1));
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if let (Some(own_rank), Some(used_rank)) = (rank(own), rank(&used))
                    && own != used
                    && used_rank <= own_rank
                {
                    complain(format!("`{own}` may not use `{used}`"));
                }
            }
            for (word, keepers) in KEEPERS {
                let used = line.starts_with("use ") && line["use ".len()..].starts_with(word);
                if used && !keepers.iter().any(|keeper| name.starts_with(keeper)) {
                    complain(format!("`{word}` belongs into {}", keepers.join(", ")));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn one_version_of_the_arrow_family() {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    for name in ["arrow", "parquet", "object_store"] {
        let count = lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count();
        assert_eq!(count, 1, "{name}");
    }
}
