//! Inputs that change while a run reads them: rows of two versions are never taken as one, the error names the file, and
//! the same command then takes the new version. Inputs that only lie elsewhere are the same inputs.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::csv::Writer as CsvWriter;
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::json::LineDelimitedWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use sepo::columns::lists::from_rows;
use sepo::io::{Dataset, Stores};

use crate::harness::{Folder, repository};
use crate::s3::{finish, rows};

/// Does something to the first file, perhaps with the second.
type Change = fn(&Path, &Path);

/// Rows of a row group: two of them do not fit into one unit of work.
const GROUP: usize = 1100;

/// `rows` rows of token ids, each with the number of its version.
fn batch(version: i64, rows: usize) -> RecordBatch {
    let ids = |length: usize| {
        from_rows::<Int32Type>((0..rows).map(|row| {
            let id = move |at: usize| ((version as usize * 20 + row + at) % 90) as i32 + 6;
            (0..length).map(id).collect::<Vec<_>>()
        }))
    };
    let columns: [(&str, ArrayRef); 4] = [
        ("prompt_ids", ids(4)),
        ("chosen_ids", ids(12)),
        ("rejected_ids", ids(11)),
        ("version", Arc::new(Int64Array::from(vec![version; rows]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A Parquet file of such rows in several groups. All versions have the same number of bytes.
pub(crate) fn parquet(path: &Path, version: i64, rows: usize) {
    let rows = batch(version, rows);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(GROUP)).set_dictionary_enabled(false);
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties.build())).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

/// Numbers in a file of any format, in several groups where it has such.
fn numbers(path: &Path) {
    const ROWS: usize = 60_000;
    let column = Int64Array::from_iter_values(1_000_000_000..1_000_000_000 + ROWS as i64);
    let batch = RecordBatch::try_from_iter([("number", Arc::new(column) as ArrayRef)]).unwrap();
    let groups = || (0..ROWS).step_by(6000).map(|start| batch.slice(start, 6000));
    let file = File::create(path).unwrap();
    let schema = batch.schema();
    match path.extension().and_then(|extension| extension.to_str()).unwrap() {
        "parquet" => {
            let properties = WriterProperties::builder().set_max_row_group_row_count(Some(6000)).build();
            let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
        "jsonl" => LineDelimitedWriter::new(file).write(&batch).unwrap(),
        "gz" => {
            let mut packed = GzEncoder::new(file, Compression::none());
            LineDelimitedWriter::new(&mut packed).write(&batch).unwrap();
            packed.finish().unwrap();
        }
        "csv" => CsvWriter::new(file).write(&batch).unwrap(),
        "arrow" => {
            let mut writer = FileWriter::try_new(file, &schema).unwrap();
            groups().for_each(|batch| writer.write(&batch).unwrap());
            writer.finish().unwrap();
        }
        "ipc" => {
            let mut writer = StreamWriter::try_new(file, &schema).unwrap();
            groups().for_each(|batch| writer.write(&batch).unwrap());
            writer.finish().unwrap();
        }
        other => panic!("{other}"),
    }
}

/// Everything that `dataset` gives, with `change` after the first rows, as a run reads it: checked at both ends of a unit.
fn read_with(dataset: &Dataset, change: impl FnOnce()) -> sepo::error::Result<Vec<RecordBatch>> {
    let (mut change, mut batches) = (Some(change), Vec::new());
    for unit in &dataset.units() {
        dataset.unchanged(unit)?;
        for chunk in dataset.read(unit, 256)? {
            batches.push(chunk?.batch);
            if let Some(change) = change.take() {
                // Clocks of file systems go by ticks.
                sleep(Duration::from_millis(20));
                change();
            }
        }
        dataset.unchanged(unit)?;
    }
    dataset.all_unchanged()?;
    Ok(batches)
}

#[test]
fn a_file_that_changes_between_two_reads_is_named_in_every_format() {
    let changes: [(&str, Change); 6] = [
        ("another file has taken its place", |path, new| fs::rename(new, path).unwrap()),
        ("was written to, at the same size", |path, new| fs::write(path, fs::read(new).unwrap()).unwrap()),
        ("bytes and has 100;", |path, _| File::options().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("bytes and has 0;", |path, _| drop(File::create(path).unwrap())),
        ("bytes and has", |path, _| File::options().append(true).open(path).unwrap().write_all(b"\n{}\n").unwrap()),
        ("is gone since this run opened it", |path, _| fs::remove_file(path).unwrap()),
    ];
    for name in ["x.parquet", "x.jsonl", "x.jsonl.gz", "x.csv", "x.arrow", "x.ipc"] {
        let folder = Folder::new();
        let [path, new, old] = [name, &format!("new-{name}"), &format!("old-{name}")].map(|name| folder.path(name));
        numbers(&old);
        fs::copy(&old, &path).unwrap();
        let open = || Dataset::open(&[path.to_str().unwrap().to_owned()], &Stores::default()).unwrap();
        let count = |batches: Vec<RecordBatch>| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        assert_eq!(count(read_with(&open(), || ()).unwrap()), 60_000);
        for (expected, change) in changes {
            fs::copy(&old, &path).unwrap();
            fs::copy(&old, &new).unwrap();
            let error = read_with(&open(), || change(&path, &new)).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(&format!("{name}: the file ")) && said.contains(expected), "{name}: {said}");
            assert!(said.contains("run the same command again"), "{said}");
            assert_eq!(error.exit_code(), 1);
        }
    }
}

/// A pipeline that scores what lies in `in`.
fn scoring(folder: &Folder) -> String {
    fs::create_dir(folder.path("in")).unwrap();
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    let text = format!(
        "vars: {{ run: run }}\nworkdir: ${{run}}\nmodels: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: in }} }}\n  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         out: {{ write: {{ input: scored, to: out }} }}\n",
        fixture("llama-tied"),
        fixture("llama-untied")
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

/// The parts and notes of all scored units, whatever they were scored from.
fn data(folder: &Folder, ending: &str) -> Vec<PathBuf> {
    let Ok(stages) = fs::read_dir(folder.path("run/data")) else { return Vec::new() };
    let files = stages.flat_map(|stage| fs::read_dir(stage.unwrap().path()).unwrap()).map(|file| file.unwrap().path());
    let is_part = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-"));
    files.filter(|path| is_part(path) && path.extension().is_some_and(|found| found == ending)).collect()
}

/// A run of `file`, and `change` once the first unit is noted; false if the run ended before.
fn run_with(folder: &Folder, file: &str, change: impl FnOnce()) -> (Child, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sepo"));
    command.args(["run", file]).current_dir(folder.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = command.spawn().unwrap();
    let start = Instant::now();
    while data(folder, "json").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(120) && run.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(1));
    }
    change();
    let in_time = run.try_wait().unwrap().is_none();
    (run, in_time)
}

/// The versions among the rows that were written.
pub(crate) fn versions(folder: &Folder) -> BTreeSet<i64> {
    let written = rows(folder.path("out").to_str().unwrap().to_owned());
    written.column_by_name("version").unwrap().as_primitive::<Int64Type>().values().iter().copied().collect()
}

#[test]
fn an_input_replaced_in_mid_run_never_gives_rows_of_two_versions() {
    const ROWS: usize = 8 * GROUP;
    let mut met = 0;
    for _ in 0..3 {
        let folder = Folder::new();
        let file = scoring(&folder);
        let (path, new) = (folder.path("in/x.parquet"), folder.path("new.parquet"));
        parquet(&path, 1, ROWS);
        parquet(&new, 2, ROWS);
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert_eq!(size(&path), size(&new));
        let (run, in_time) = run_with(&folder, &file, || fs::rename(&new, &path).unwrap());
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            assert_eq!(versions(&folder).into_iter().collect::<Vec<_>>(), [1]);
        } else {
            met += 1;
            assert!(in_time);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("in/x.parquet: the file changed since this run opened it: another file"), "{said}");
            assert!(!folder.path("out").exists());
            let kept = data(&folder, "parquet").into_iter().map(|part| part.to_str().unwrap().to_owned());
            let kept: Vec<RecordBatch> = kept.map(rows).collect();
            let old = |part: &RecordBatch| {
                let versions = part.column_by_name("version").unwrap().as_primitive::<Int64Type>();
                versions.values().iter().all(|version| *version == 1)
            };
            assert!(!kept.is_empty() && kept.iter().all(old));
        }
        folder.succeeds(&["run", &file]);
        assert_eq!(versions(&folder).into_iter().collect::<Vec<_>>(), [2]);
        assert_eq!(rows(folder.path("out").to_str().unwrap().to_owned()).num_rows(), ROWS);
    }
    assert!(met > 0);
}

#[test]
fn a_file_that_a_run_did_not_come_to_yet_may_not_change_either() {
    let changes: [(&str, Change); 4] = [
        ("another file has taken its place", |path, new| fs::rename(new, path).unwrap()),
        ("bytes and has 100;", |path, _| File::options().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("bytes and has", |path, new| {
            File::options().append(true).open(path).unwrap().write_all(&fs::read(new).unwrap()).unwrap();
        }),
        ("is gone since this run opened it; put it back", |path, _| fs::remove_file(path).unwrap()),
    ];
    let write = |path: &Path, version: i64| {
        let mut writer = LineDelimitedWriter::new(File::create(path).unwrap());
        writer.write(&batch(version, 100)).unwrap();
    };
    for (expected, change) in changes {
        let folder = Folder::new();
        let file = scoring(&folder);
        for number in 0..40 {
            write(&folder.path(&format!("in/{number:02}.jsonl")), 1);
        }
        let (last, new) = (folder.path("in/39.jsonl"), folder.path("new.jsonl"));
        write(&new, 2);
        let (run, _) = run_with(&folder, &file, || change(&last, &new));
        let said = finish(run, 1);
        assert!(said.contains("in/39.jsonl: the file ") && said.contains(expected), "{said}");
        assert!(!folder.path("out").exists() && data(&folder, "json").len() < 40);
        write(&last, 2);
        folder.succeeds(&["run", &file]);
        assert_eq!(rows(folder.path("out").to_str().unwrap().to_owned()).num_rows(), 40 * 100);
        assert_eq!(versions(&folder).into_iter().collect::<Vec<_>>(), [1, 2]);
    }
}

/// Puts a copy of the file in its place, as another machine would have it: another inode, another time.
fn copied(path: &Path) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).unwrap();
    let time = SystemTime::now() - Duration::from_secs(5000);
    File::options().write(true).open(&copy).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    fs::rename(&copy, path).unwrap();
}

#[test]
fn a_copy_of_an_input_is_not_scored_again() {
    let folder = Folder::new();
    let file = scoring(&folder);
    parquet(&folder.path("in/x.parquet"), 1, 100);
    folder.succeeds(&["run", &file]);
    let parts = data(&folder, "parquet");
    copied(&folder.path("in/x.parquet"));
    folder.succeeds(&["run", &file]);
    assert_eq!(data(&folder, "parquet"), parts);
}

#[test]
fn shares_on_machines_with_their_own_copies_meet() {
    let folder = Folder::new();
    let file = scoring(&folder);
    for number in 0..4 {
        parquet(&folder.path(&format!("in/{number}.parquet")), number, 10);
    }
    folder.succeeds(&["run", &file, "--units", "1/2"]);
    for number in 0..4 {
        copied(&folder.path(&format!("in/{number}.parquet")));
    }
    folder.succeeds(&["run", &file, "--units", "2/2"]);
    assert_eq!(versions(&folder).into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(data(&folder, "parquet").len(), 4);
}
