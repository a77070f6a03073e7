//! Files in which a bit flipped after they were written: an error that names the file, and never another row.

use std::path::Path;

use sepo::io::{Dataset, Stores};

use crate::harness::{Folder, repository};

/// Reads all columns of the file at `path` by the library, as text.
fn read(path: &Path) -> sepo::Result<String> {
    let dataset = Dataset::open(&[path.display().to_string()], &Stores::default())?;
    let chunks = dataset.units().iter().flat_map(|unit| dataset.read(unit, 10).unwrap()).collect::<Vec<_>>();
    let batches = chunks.into_iter().map(|chunk| Ok(chunk?.batch)).collect::<sepo::Result<Vec<_>>>()?;
    Ok(format!("{batches:?}"))
}

#[test]
fn checksums_that_pyarrow_wrote_are_checked() {
    let folder = Folder::new();
    for name in ["pyarrow_checksums.parquet", "pyarrow_checksums_v2.parquet"] {
        let bytes = std::fs::read(repository().join("tests/fixtures/formats").join(name)).unwrap();
        let path = folder.path(name);
        std::fs::write(&path, &bytes).unwrap();
        let rows = read(&path).unwrap();
        assert!(["7001", "7003", "seven"].iter().all(|value| rows.contains(value)), "{rows}");
        for value in [&7001_i32.to_le_bytes()[..], &7003_i64.to_le_bytes(), b"seven"] {
            let at = bytes.windows(value.len()).position(|window| window == value).unwrap();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            let error = read(&path).unwrap_err().to_string();
            let wanted = format!("{name}, row group 0: a page has another checksum than when it was written");
            assert!(error.contains(&wanted), "{error}");
        }
    }
}

#[test]
fn a_flipped_bit_in_an_output_ends_a_run_that_reads_it() {
    let folder = Folder::new();
    let rows: String =
        (0..200).map(|row| format!("{{\"prompt\": \"p\", \"chosen\": \"c {row}\", \"rejected\": \"r\"}}\n")).collect();
    folder.write("rows.jsonl", &rows);
    folder.write(
        "first.yaml",
        "workdir: first\nstages:\n  rows: { read: { from: rows.jsonl } }\n  out: { write: { input: rows, to: out } }\n",
    );
    folder.succeeds(&["run", "first.yaml"]);
    folder.write(
        "second.yaml",
        "workdir: second\nstages:\n  rows: { read: { from: out } }\n  again: { write: { input: rows, to: again } }\n",
    );
    folder.succeeds(&["run", "second.yaml"]);
    let mut files = std::fs::read_dir(folder.path("out")).unwrap().map(|entry| entry.unwrap().path());
    let path = files.find(|path| path.extension().is_some_and(|extension| extension == "parquet")).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let again = folder.path("again").join(name);
    let expected = read(&again).unwrap();
    let mut found = 0;
    for at in (100..bytes.len()).step_by(bytes.len() / 12) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        std::fs::write(&path, flipped).unwrap();
        let output = folder.sepo(&["run", "second.yaml"]);
        let error = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            // The index of pages was not needed.
            Some(0) => assert!(read(&again).unwrap() == expected, "byte {at}"),
            code => {
                assert!(matches!(code, Some(1 | 78)) && error.contains(name), "byte {at}: {code:?}: {error}");
                assert!(error.contains("the file was damaged; copy it again, or make it again"), "byte {at}: {error}");
                found += 1;
            }
        }
    }
    assert!(found >= 10, "{found}");
}
