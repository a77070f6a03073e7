//! A small workdir with a user's own files around it and in it, on this machine or in a store, and what runs from nothing
//! write.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sepo::io::{Location, Storage, Stores};
use sepo::monitor::Silent;
use sepo::pipeline::{Options, Plan, Spec, run};
use tempfile::TempDir;

use crate::actions::{Tally, run_once};

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

/// Where workdirs and outputs lie: in a folder of this machine, or below a prefix of a store.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// The URL of a bucket; none for this machine.
    pub(crate) bucket: Option<String>,
    pub(crate) storage: Storage,
}

impl Store {
    /// What `SEPO_ACCIDENTS_URL` and `SEPO_ACCIDENTS_ENDPOINT` name, else this machine.
    pub(crate) fn of_environment() -> Self {
        let bucket = std::env::var("SEPO_ACCIDENTS_URL").ok();
        let endpoint = std::env::var("SEPO_ACCIDENTS_ENDPOINT").ok();
        let region = Some("us-east-1".to_owned());
        Self {
            bucket,
            storage: Storage { endpoint, region, path_style: Some(true), allow_http: true, ..Storage::default() },
        }
    }
}

/// Files by their paths below the world.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What a run writes to and keeps, by their paths below the world.
pub(crate) const RUN: &str = "run";
pub(crate) const OUTPUTS: [&str; 3] = ["out", "run/out", "run/inside"];

pub(crate) struct World {
    folder: TempDir,
    store: Store,
    stores: Stores,
    /// What the workdir and the outputs lie in.
    base: String,
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
        let [p, c, r] = [[id(0), id(1)], [id(2), id(3)], [id(5), id(6)]].map(|ids| format!("{}, {}", ids[0], ids[1]));
        format!("{{\"prompt_ids\": [{p}], \"chosen_ids\": [{c}, {}], \"rejected_ids\": [{r}]}}\n", id(4))
    };
    (0..3 + file).map(row).collect()
}

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).display().to_string()
}

/// The pipeline file: it reads the folder `from`, and has its workdir and outputs below `base`.
fn pipeline(from: &Path, base: &str, storage: &Storage, settings: Settings) -> String {
    let (from, a, b) = (from.display(), fixture("llama-tied"), fixture("llama-untied"));
    let storage = serde_json::to_string(storage).unwrap();
    let head = format!(
        "workdir: {base}/run\nstorage: {storage}\nmodels: {{ a: {{ path: {a} }}, b: {{ path: {b} }} }}\nstages:\n  \
         rows: {{ read: {{ from: {from} }} }}\n"
    );
    if settings.trains {
        let rate = ["1.0e-3", "3.0e-2"][settings.value];
        return format!(
            "{head}  oracle: {{ train: {{ input: rows, model: a, objective: {{ sft: {{}} }}, batch_size: 4, learning_rate: {rate}, \
             log_every: 1, checkpoint: {{ every: 1, keep: 2 }} }} }}\n  \
             scored: {{ score: {{ input: rows, oracle: oracle, reference: a }} }}\n  \
             out: {{ write: {{ input: scored, to: {base}/run/out }} }}\n"
        );
    }
    let share = ["0.3", "0.7"][settings.value];
    format!(
        "{head}  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         keyed: {{ select: {{ input: scored, chosen: {{ top: {share} }} }} }}\n  \
         out: {{ write: {{ input: keyed, to: {base}/out }} }}\n  \
         inside: {{ write: {{ input: scored, to: {base}/run/inside, split: a }} }}\n"
    )
}

impl World {
    pub(crate) fn new(store: &Store, rng: &mut Rng) -> Self {
        let folder = scratch();
        let base = match &store.bucket {
            Some(bucket) => format!("{bucket}/{}", sepo::io::nonce()),
            None => folder.path().display().to_string(),
        };
        let mut world = Self {
            folder,
            stores: Stores::new(store.storage.clone()),
            store: store.clone(),
            base,
            input: 0,
            trains: rng.one_in(3),
            foreign: Files::new(),
            is_blocked: false,
            expected: BTreeMap::new(),
        };
        world.replace_input(0);
        for name in ["keep/notes.txt", "out-of-here/train-00000-of-00001.parquet", "keep/deep/data/part-00000.parquet"]
        {
            world.put(name, format!("the user's {name}").into_bytes());
        }
        world
    }

    /// The file or folder `name` below the world.
    pub(crate) fn at(&self, name: &str) -> Location {
        self.stores.locate(&format!("{}/{name}", self.base)).unwrap()
    }

    /// Writes a file of the user.
    pub(crate) fn put(&mut self, name: &str, bytes: Vec<u8>) {
        let at = self.at(name);
        match at.local() {
            Some(local) => {
                fs::create_dir_all(local.parent().unwrap()).unwrap();
                fs::write(local, &bytes).unwrap();
            }
            None => at.write(bytes.clone()).unwrap(),
        }
        self.foreign.insert(name.to_owned(), bytes);
    }

    /// Another version of the input in place of the present one.
    pub(crate) fn replace_input(&mut self, version: usize) {
        self.input = version % INPUTS;
        let folder = self.folder.path().join("in");
        fs::create_dir_all(&folder).unwrap();
        for file in 0..2 {
            fs::write(folder.join("new"), rows(self.input, file)).unwrap();
            fs::rename(folder.join("new"), folder.join(format!("{file}.jsonl"))).unwrap();
        }
    }

    pub(crate) fn settings(&self, value: usize) -> Settings {
        Settings { trains: self.trains, value }
    }

    fn plan_in(&self, base: &str, storage: &Storage, settings: Settings) -> sepo::error::Result<Plan> {
        let text = pipeline(&self.folder.path().join("in"), base, storage, settings);
        Plan::new(&Spec::parse(&text, &self.name(), &[])?)
    }

    pub(crate) fn plan(&self, settings: Settings) -> sepo::error::Result<Plan> {
        self.plan_in(&self.base, &self.store.storage, settings)
    }

    /// The name of the pipeline file.
    pub(crate) fn name(&self) -> String {
        self.folder.path().join("p.yaml").display().to_string()
    }

    /// The names of all files below `folder`, unfinished ones too.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let found = self.at(folder).scan().unwrap().into_iter().filter(|found| found.is_file);
        found.map(|found| format!("{folder}/{}", found.path)).collect()
    }

    /// The user's files that are not what they were.
    pub(crate) fn harmed(&self) -> Result<(), String> {
        for (name, bytes) in &self.foreign {
            match self.content(name) {
                Some(found) if found == *bytes => {}
                Some(_) => return Err(format!("{name} was changed")),
                None => return Err(format!("{name} is gone")),
            }
        }
        Ok(())
    }

    /// What the file `name` holds, whatever it is called.
    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let at = self.at(name);
        match at.local() {
            Some(local) => fs::read(local).ok(),
            None => at.read().unwrap().map(Vec::from),
        }
    }

    /// What the `write` stages made, without what the user put beside it.
    fn outputs(&self) -> Files {
        let names = OUTPUTS.iter().flat_map(|folder| self.names(folder));
        let names = names.filter(|name| name.ends_with(".parquet") && !self.foreign.contains_key(name));
        names.filter_map(|name| Some((name.clone(), self.content(&name)?))).collect()
    }

    /// Compares what a successful run with `settings` wrote with what a run from nothing writes.
    pub(crate) fn compare(&mut self, settings: Settings) -> Result<(), String> {
        let key = (settings, self.input);
        if !self.expected.contains_key(&key) {
            let expected = self.fresh(settings);
            self.expected.insert(key, expected);
        }
        let (expected, found) = (&self.expected[&key], self.outputs());
        if *expected == found {
            return Ok(());
        }
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>().join(" ");
        Err(format!(
            "{settings:?}, input {}: {} were expected, {} are there",
            self.input,
            names(expected),
            names(&found)
        ))
    }

    /// What a run from nothing writes. It reads the same files, whose paths are in the rows.
    fn fresh(&self, settings: Settings) -> Files {
        let folder = scratch();
        let plan = self.plan_in(&folder.path().display().to_string(), &Storage::default(), settings).unwrap();
        run(&plan, "p.yaml", &Options::default(), &Silent).unwrap_or_else(|error| panic!("from nothing: {error}"));
        let mut outputs = Files::new();
        for place in OUTPUTS {
            let at = Location::parse(&folder.path().join(place).display().to_string()).unwrap();
            for found in at.scan().unwrap() {
                let bytes = at.join(&found.path).read().unwrap().unwrap();
                outputs.insert(format!("{place}/{}", found.path), bytes.to_vec());
            }
        }
        outputs
    }

    /// The last run of a sequence, without failures. A part that was lost after its commit is named by one run and made
    /// again by the next.
    pub(crate) fn settle(&mut self, tally: &mut Tally) -> Result<(), String> {
        let mut run = || run_once(self, self.settings(0), &Options::default(), None, tally);
        let said = match run()? {
            Some(said) if said.contains("run the same command again to restore it") => run()?,
            said => said,
        };
        match said {
            Some(said) if !self.is_blocked => Err(format!("nothing is in the way, and yet: {said}")),
            _ => Ok(()),
        }
    }
}
