//! The house rules that a compiler does not know: which module may use which, and what every file begins with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::repository;

/// The modules of a folder from top to bottom. Each may use those of every line further down, and none beside it.
type Ranks = &'static [&'static [&'static str]];

/// The folders whose modules are ranked.
const RANKED: [(&str, Ranks); 7] = [
    (
        "",
        &[
            &["cli"],
            &["pipeline"],
            &["stages"],
            &["train", "report"],
            &["model", "objective", "columns", "io"],
            &["kernels", "text"],
            &["error", "monitor", "plot"],
        ],
    ),
    (
        "kernels",
        &[
            &[
                "adamw",
                "attention",
                "choice",
                "embedding",
                "gelu",
                "layer_norm",
                "linear",
                "norm",
                "residual",
                "rms_norm",
                "rotary",
                "rounding",
                "swiglu",
                "token_kl",
                "token_logps",
                "upload",
            ],
            &["vocabulary"],
            &["packed"],
            &["flex", "precision"],
            &["cuda"],
            &["libtorch"],
            &["indices"],
            &["input", "layout", "once"],
        ],
    ),
    ("kernels/flex", &[&["few_rows", "product"], &["tile"], &["matrix", "memory", "simd"]]),
    (
        "model",
        &[
            &["footprint", "generate", "save", "score"],
            &["causal_lm"],
            &["cost", "pass", "trunk"],
            &["architectures", "baseline"],
            &["layers", "room"],
            &["batch", "checkpoint", "device", "sizes"],
        ],
    ),
    (
        "model/layers",
        &[&["parameters"], &["overlay"], &["cache", "context", "lora", "random", "visit", "weight"], &["rope"]],
    ),
    ("model/checkpoint", &[&["source"], &["adapter"], &["tensors"], &["files", "names"]]),
    ("model/save", &[&["adapter"], &["whole"], &["card", "files"]]),
];

/// Crates and layers that are the business of a few folders.
const KEEPERS: [(&str, &[&str]); 11] = [
    ("clap::", &["cli"]),
    ("serde_saphyr::", &["pipeline"]),
    ("tokio::", &["io"]),
    ("tonic::", &["io/flight"]),
    ("arrow_flight::", &["io/flight"]),
    ("burn::", &["kernels", "model", "train"]),
    ("tch::", &["kernels"]),
    ("polars::", &["stages/read/sql/"]),
    ("sqlparser::", &["stages/read/sql/"]),
    ("crate::kernels::", &["kernels", "model", "train"]),
    ("crate::text::", &["cli", "pipeline", "stages", "report", "model", "text"]),
];

/// What removes files and folders, and where that is done: in one place by the records of what was made, elsewhere for drafts
/// and downloads that the same function made. Nothing removes a folder with whatever it may hold.
const REMOVERS: [(&str, &[&str]); 3] = [
    ("remove_dir_all", &[]),
    ("remove_dir(", &["io/owned.rs", "model/save/adapter.rs"]),
    (
        "remove_file",
        &[
            "io/dataset/remembered.rs",
            "io/hub/cache.rs",
            "io/hub/download.rs",
            "io/mirror.rs",
            "io/store/local.rs",
            "model/save/adapter.rs",
        ],
    ),
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

/// The lines of `text` with their numbers from 1, without comments and without the items under `#[cfg(test)]`, which may use
/// what they need. Relies on rustfmt: an item ends with its first line, or where a line of the same indentation closes it.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut lines = (1..).zip(text.lines());
    let mut code = Vec::new();
    let indentation = |line: &str| line.len() - line.trim_start().len();
    while let Some((number, line)) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            if !line.trim_start().starts_with("//") {
                code.push((number, line));
            }
            continue;
        }
        let item = lines.by_ref().map(|(_, line)| line).find(|line| !line.trim_start().starts_with("#["));
        if item.is_some_and(|item| item.ends_with('{')) {
            let _ = lines
                .by_ref()
                .find(|(_, end)| indentation(end) == indentation(line) && end.trim_start().starts_with('}'));
        }
    }
    code
}

/// The module of a file below `src`, and whether it is a `mod.rs`' or has a file of its own.
fn module_of(name: &str) -> Vec<&str> {
    let mut path: Vec<&str> = name.trim_end_matches(".rs").split('/').collect();
    path.pop_if(|last| matches!(*last, "mod" | "lib" | "main"));
    path
}

/// The paths that a file names, each with its line: those of `use` declarations without their braces, and those that begin with
/// `crate` or `super` elsewhere.
fn paths(code: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = code.iter();
    while let Some((number, line)) = lines.next() {
        let declared = line
            .trim_start()
            .strip_prefix("use ")
            .or_else(|| line.trim_start().split_once(" use ").map(|(_, path)| path));
        let visible = line.trim_start().starts_with("use ") || line.trim_start().starts_with("pub");
        if let Some(path) = declared.filter(|_| visible) {
            let mut path = path.to_owned();
            while !path.ends_with(';') {
                path += lines.next().expect("a declaration ends").1.trim();
            }
            expand("", path.trim_end_matches(';'), &mut |path| found.push((*number, path)));
            continue;
        }
        for start in ["crate::", "super::"].iter().flat_map(|start| line.match_indices(start)) {
            let before = &line[..start.0];
            let of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            if !before.ends_with(of_path) && !before.ends_with("(in ") {
                let path: String = line[start.0..].chars().take_while(|c| of_path(*c)).collect();
                found.push((*number, path.trim_end_matches(':').to_owned()));
            }
        }
    }
    found
}

/// Gives `take` every path of `prefix` followed by `tree`, such as `a::{b, c::d}`.
fn expand(prefix: &str, tree: &str, take: &mut impl FnMut(String)) {
    let Some((start, rest)) = tree.split_once('{') else {
        return take(format!("{prefix}{}", tree.split(" as ").next().unwrap_or_default()));
    };
    let prefix = format!("{prefix}{start}");
    let (mut depth, mut from) = (0, 0);
    for (at, character) in rest.char_indices() {
        match character {
            ',' | '}' if depth == 0 => {
                let branch = rest[from..at].trim();
                if !branch.is_empty() {
                    expand(&prefix, branch, take);
                }
                from = at + 1;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// The module or item that `path` names in `module`, from the crate's root; none for those of other crates.
fn resolve<'a>(module: &[&'a str], path: &'a str) -> Option<Vec<&'a str>> {
    let mut segments = path.split("::").peekable();
    let mut at = match segments.next()? {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    while segments.next_if_eq(&"super").is_some() {
        at.pop()?;
    }
    at.extend(segments);
    Some(at)
}

/// What `module` may not do with the module or item `used`.
fn broken_rank(module: &[&str], used: &[&str]) -> Option<String> {
    RANKED.iter().find_map(|(folder, ranks)| {
        let folder: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
        let inside = |path: &[&str]| path.strip_prefix(&folder[..])?.first().map(|name| (*name).to_owned());
        let rank = |name: &str| ranks.iter().position(|rank| rank.contains(&name));
        let (own, used) = (inside(module)?, inside(used)?);
        match (rank(&own), rank(&used)) {
            _ if own == used => None,
            (None, _) => Some(format!("`{own}` has no rank in tests/it/tidy.rs")),
            (_, None) => Some(format!("`{used}` is no module with a rank; name the module that has it")),
            (Some(own_rank), Some(used_rank)) => {
                (used_rank <= own_rank).then(|| format!("`{own}` may not use `{used}`"))
            }
        }
    })
}

#[test]
fn modules_only_use_what_lies_below() {
    let root = repository().join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut broken = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let (text, module) = (fs::read_to_string(&file).unwrap(), module_of(&name));
        if !text.starts_with("//!") {
            broken.push(format!("src/{name}:1: does not say why it exists (//!)"));
        }
        if name.ends_with("tests.rs") {
            continue;
        }
        for (number, path) in paths(&code(&text)) {
            if let Some(problem) = resolve(&module, &path).and_then(|used| broken_rank(&module, &used)) {
                broken.push(format!("src/{name}:{number}: {problem}"));
            }
            for (word, keepers) in KEEPERS {
                if path.starts_with(word) && !keepers.iter().any(|keeper| name.starts_with(keeper)) {
                    broken.push(format!("src/{name}:{number}: `{word}` belongs into {}", keepers.join(", ")));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn items_under_a_test_attribute_are_no_code() {
    let text = "use a::b;\n#[cfg(test)]\nmod tests;\n// use x;\nfn f() {}\n#[cfg(test)]\n#[expect(x)]\nmod more {\n    fn g() {\n    }\n}\nuse c;\n";
    assert_eq!(code(text), [(1, "use a::b;"), (5, "fn f() {}"), (12, "use c;")]);
}

#[test]
fn paths_are_those_of_declarations_and_of_the_crate() {
    let text = "use a::{b, c::{D, E as F},\n    g};\npub(in crate::x) fn f(x: &crate::h::I, y: super::J) {}\npub use super::super::k;";
    let found: Vec<String> = paths(&code(text)).into_iter().map(|(_, path)| path).collect();
    assert_eq!(found, ["a::b", "a::c::D", "a::c::E", "a::g", "crate::h::I", "super::J", "super::super::k"]);
    assert_eq!(resolve(&["m", "n", "o"], "super::super::k"), Some(vec!["m", "k"]));
    assert_eq!(resolve(&["m"], "burn::k"), None);
    assert!(broken_rank(&["model", "layers", "lora"], &["model", "pass", "Pass"]).is_some());
    assert!(broken_rank(&["model", "pass"], &["model", "layers"]).is_none());
    assert!(broken_rank(&["model", "pass"], &["model", "Lora"]).is_some());
    assert!(broken_rank(&["kernels", "linear"], &["model", "pass"]).is_some());
}

#[test]
fn one_version_of_the_arrow_family() {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    for name in ["arrow", "parquet", "object_store"] {
        let count = lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count();
        assert_eq!(count, 1, "{name}");
    }
}

/// `cargo run` and `cargo test` share one build of every dependency: a crate that the tests alone need switches on no feature
/// of another one.
#[test]
fn tests_need_no_other_features() {
    let tree = |edges: &str| {
        let arguments = ["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p} {f}", "--edges", edges];
        let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect::<BTreeSet<String>>()
    };
    let (alone, tested) = (tree("normal,build"), tree("normal,build,dev"));
    assert!(alone.len() > 300, "{}", alone.len());
    let changed: Vec<&String> = alone.difference(&tested).collect();
    assert!(changed.is_empty(), "built again for the tests: {changed:#?}");
}

#[test]
fn nothing_is_removed_but_in_few_places() {
    let root = repository().join("src");
    let (mut files, mut broken) = (Vec::new(), Vec::new());
    sources(&root, &mut files);
    for file in files {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in code(&text) {
            for (word, places) in REMOVERS {
                if line.contains(word) && !name.ends_with("tests.rs") && !places.contains(&name.as_str()) {
                    broken.push(format!("src/{name}:{number}: `{word}` belongs into {}", places.join(", ")));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// `max` gives the number where the other value is NaN, so that a fold over nothing but NaN passes as its first value.
#[test]
fn no_test_folds_by_max() {
    let (mut files, mut broken) = (Vec::new(), Vec::new());
    sources(&repository().join("tests"), &mut files);
    let in_tests = files.len();
    sources(&repository().join("src"), &mut files);
    for (index, file) in files.iter().enumerate() {
        let text = fs::read_to_string(file).unwrap();
        let is_tests = index < in_tests || file.to_string_lossy().ends_with("tests.rs");
        let outside = if is_tests { Vec::new() } else { code(&text) };
        for (number, line) in (1..).zip(text.lines()) {
            let folds = ["f32", "f64"].iter().any(|kind| line.contains(&format!("{kind}::max)")));
            if folds && !outside.contains(&(number, line)) {
                broken.push(format!("{}:{number}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "compare every element, so that NaN fails:\n{}", broken.join("\n"));
}

/// PTX is compiled by hand, so that it may be older than its source.
#[test]
fn ptx_is_that_of_its_source() {
    use ring::digest::{SHA256, digest};
    let kernels = repository().join("src/kernels");
    let shared = fs::read(kernels.join("cuda/kernel.cuh")).unwrap();
    let folders = fs::read_dir(&kernels).unwrap().map(|entry| entry.unwrap().path());
    let compiled: Vec<PathBuf> = folders.filter(|folder| folder.join("cuda.cu").exists()).collect();
    assert!(compiled.len() >= 6, "{compiled:?}");
    for folder in compiled {
        let source = [&shared[..], &fs::read(folder.join("cuda.cu")).unwrap()].concat();
        let hex: String = digest(&SHA256, &source).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let ptx = fs::read_to_string(folder.join("cuda.ptx")).unwrap();
        assert_eq!(ptx.lines().next(), Some(&*format!("// {hex}")), "{}: run compile.py", folder.display());
    }
}

/// What a stage is, its own file says: the planner and the run ask its [`Operation`](sepo::stages::Operation).
#[test]
fn the_pipeline_names_no_stage() {
    let root = repository().join("src");
    let (mut files, mut broken) = (Vec::new(), Vec::new());
    sources(&root.join("pipeline"), &mut files);
    sources(&root.join("cli"), &mut files);
    assert!(files.len() > 30, "{}", files.len());
    for file in files {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        let named = code(&text).into_iter().filter(|(_, line)| names_a_variant(line));
        broken.extend(named.map(|(number, line)| format!("src/{name}:{number}: {}", line.trim())));
    }
    assert!(broken.is_empty(), "a method of `Operation` belongs here:\n{}", broken.join("\n"));
}

/// Whether `line` names a variant of `Stage`, or gives `Stage` another name under which the next line could.
fn names_a_variant(line: &str) -> bool {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_whole = |(at, _): &(usize, &str)| !line[..*at].ends_with(of_word);
    ["Stage::", "Stage as "].iter().flat_map(|word| line.match_indices(word)).any(|found| is_whole(&found))
}

#[test]
fn variants_of_stages_are_found_wherever_they_stand() {
    for line in
        ["match x { Stage::Read(_) => 1,", "use crate::stages::Stage::{Read, Score};", "use stages::Stage as S;"]
    {
        assert!(names_a_variant(line), "{line}");
    }
    for line in ["use crate::stages::{Shape, Stage};", "Error::stage(id, what)", "MyStage::Read", "stage: Stage,"] {
        assert!(!names_a_variant(line), "{line}");
    }
}
