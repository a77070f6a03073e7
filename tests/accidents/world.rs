//! A small workdir with a user's own files around it and in it, and what runs from nothing write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sepo::monitor::Silent;
use sepo::pipeline::{Options, Plan, Spec, run};
use tempfile::TempDir;

use crate::actions::Tally;

/// splitmix64.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What the rows of a run depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Settings {
    /// Whether an oracle is trained, or one that is there is used.
    pub(crate) trains: bool,
    /// The learning rate of the oracle, or the share of key tokens.
    pub(crate) value: usize,
}

/// Files by path.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) struct World {
    folder: TempDir,
    /// The version of the input's rows.
    pub(crate) input: usize,
    /// The kind of pipeline that this world runs.
    pub(crate) trains: bool,
    /// The user's files, in the workdir too, and what they hold.
    pub(crate) foreign: Files,
    /// Whether a user's file may stand where a run wants to write.
    pub(crate) is_blocked: bool,
    /// What runs from nothing write, by settings and version of the input.
    expected: BTreeMap<(Settings, usize), Files>,
}

const INPUTS: usize = 3;

fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn rows(version: usize, file: usize) -> String {
    let row = |row: usize| {
        let id = |k: usize| (7 * version + 5 * file + 3 * row + k) % 90;
        format!(
            "{{\"prompt_ids\": [{}, {}], \"chosen_ids\": [{}, {}, {}], \"rejected_ids\": [{}, {}]}}\n",
            id(0),
            id(1),
            id(2),
            id(3),
            id(4),
            id(5),
            id(6)
        )
    };
    (0..3 + file).map(row).collect()
}

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).display().to_string()
}

/// The pipeline file, with its workdir and paths in `root`.
fn pipeline(root: &Path, settings: Settings) -> String {
    let (root, a, b) = (root.display(), fixture("llama-tied"), fixture("llama-untied"));
    let head = format!(
        "workdir: {root}/run\nmodels: {{ a: {{ path: {a} }}, b: {{ path: {b} }} }}\nstages:\n  rows: {{ read: {{ from: {root}/in }} }}\n"
    );
    if settings.trains {
        let rate = ["1.0e-3", "3.0e-2"][settings.value];
        return format!(
            "{head}  oracle: {{ train: {{ input: rows, model: a, objective: {{ sft: {{}} }}, batch_size: 4, learning_rate: {rate}, \
             log_every: 1, checkpoint: {{ every: 1, keep: 2 }} }} }}\n  \
             scored: {{ score: {{ input: rows, oracle: oracle, reference: a }} }}\n  \
             out: {{ write: {{ input: scored, to: {root}/run/out }} }}\n"
        );
    }
    let share = ["0.3", "0.7"][settings.value];
    format!(
        "{head}  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         keyed: {{ select: {{ input: scored, chosen: {{ top: {share} }} }} }}\n  \
         out: {{ write: {{ input: keyed, to: {root}/out }} }}\n  inside: {{ write: {{ input: scored, to: {root}/run/inside, split: a }} }}\n"
    )
}

/// All files below `folder` by their paths below it; links and what is no file are left out.
pub(crate) fn files(folder: &Path) -> Files {
    fn walk(root: &Path, folder: &Path, found: &mut Files) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                walk(root, &path, found);
            } else if kind.is_file() {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut found = Files::new();
    walk(folder, folder, &mut found);
    found
}

impl World {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let folder = scratch();
        let trains = rng.one_in(3);
        let mut world =
            Self { folder, input: 0, trains, foreign: Files::new(), is_blocked: false, expected: BTreeMap::new() };
        world.replace_input(0);
        for name in
            ["keep/notes.txt", "out-of-here/train-00000-of-00001.parquet", "in.md", "keep/deep/data/part-00000.parquet"]
        {
            world.put(name, format!("the user's {name}").into_bytes());
        }
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the user.
    pub(crate) fn put(&mut self, name: &str, bytes: Vec<u8>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &bytes).unwrap();
        self.foreign.insert(path, bytes);
    }

    /// Another version of the input in place of the present one.
    pub(crate) fn replace_input(&mut self, version: usize) {
        self.input = version % INPUTS;
        fs::create_dir_all(self.path("in")).unwrap();
        for file in 0..2 {
            let (path, new) = (self.path(&format!("in/{file}.jsonl")), self.path(&format!("in/{file}.new")));
            fs::write(&new, rows(self.input, file)).unwrap();
            fs::rename(&new, &path).unwrap();
        }
    }

    pub(crate) fn settings(&self, value: usize) -> Settings {
        Settings { trains: self.trains, value }
    }

    pub(crate) fn plan(&self, settings: Settings) -> sepo::error::Result<Plan> {
        let text = pipeline(self.root(), settings);
        Plan::new(&Spec::parse(&text, &self.name(), &[])?)
    }

    /// The name of the pipeline file.
    pub(crate) fn name(&self) -> String {
        self.path("p.yaml").display().to_string()
    }

    /// The user's files that are not what they were.
    pub(crate) fn harmed(&self) -> Result<(), String> {
        for (path, bytes) in &self.foreign {
            match fs::read(path) {
                Ok(found) if found == *bytes => {}
                Ok(_) => return Err(format!("{} was changed", path.display())),
                Err(error) => return Err(format!("{} is gone ({error})", path.display())),
            }
        }
        Ok(())
    }

    /// What the `write` stages made, without what the user put beside it.
    fn outputs(&self) -> Files {
        let mut outputs = Files::new();
        for folder in ["out", "run/out", "run/inside"] {
            for (name, bytes) in files(&self.path(folder)) {
                let path = Path::new(folder).join(name);
                if !self.foreign.contains_key(&self.path("").join(&path))
                    && path.extension().is_some_and(|end| end == "parquet")
                {
                    outputs.insert(path, bytes);
                }
            }
        }
        outputs
    }

    /// Compares what a successful run with `settings` wrote with what a run from nothing writes.
    pub(crate) fn compare(&mut self, settings: Settings) -> Result<(), String> {
        let key = (settings, self.input);
        if !self.expected.contains_key(&key) {
            let expected = from_nothing(settings, self.input, self.root());
            self.expected.insert(key, expected);
        }
        let (expected, found) = (&self.expected[&key], self.outputs());
        if *expected == found {
            return Ok(());
        }
        let names = |files: &Files| files.keys().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
        Err(format!(
            "{settings:?}, input {}: expected {}, found {}, with other bytes",
            self.input,
            names(expected),
            names(&found)
        ))
    }

    /// The last run of a sequence, without failures.
    pub(crate) fn settle(&mut self, tally: &mut Tally) -> Result<(), String> {
        let settings = self.settings(0);
        match crate::actions::run_once(self, settings, &Options::default(), None, tally)? {
            None => Ok(()),
            Some(_) if self.is_blocked => Ok(()),
            Some(error) => Err(format!("nothing is in the way, and yet: {error}")),
        }
    }
}

/// What a run from nothing writes. Files that a world's own path would enter are made at that path's likeness: row keys hold
/// the file's path.
fn from_nothing(settings: Settings, input: usize, root: &Path) -> Files {
    // Row keys name the input file, so the run must read the same path: the world's input, into another workdir.
    let folder = scratch();
    let text = pipeline(root, settings);
    let away = |name: &str| folder.path().join(name).display().to_string();
    let text = text
        .replace(&format!("workdir: {}/run", root.display()), &format!("workdir: {}", away("run")))
        .replace(&format!("to: {}/run/", root.display()), &format!("to: {}/", away("run")))
        .replace(&format!("to: {}/out", root.display()), &format!("to: {}", away("out")));
    let plan = Plan::new(&Spec::parse(&text, "p.yaml", &[]).unwrap()).unwrap();
    run(&plan, "p.yaml", &Options::default(), &Silent)
        .unwrap_or_else(|error| panic!("from nothing, {settings:?}, {input}: {error}"));
    let mut outputs = Files::new();
    for name in ["out", "run/out", "run/inside"] {
        for (file, bytes) in files(&folder.path().join(name)) {
            outputs.insert(Path::new(name).join(file), bytes);
        }
    }
    outputs
}
