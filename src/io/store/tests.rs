//! Files on this machine through the same interface as files in a store.

use super::*;
use std::io::{Read, Write};

#[test]
fn files_appear_whole() {
    let folder = tempfile::tempdir().unwrap();
    let root = Location::parse(folder.path().to_str().unwrap()).unwrap();
    let file = root.join("a b/x-1.bin");
    let mut upload = file.upload().unwrap();
    upload.write_all(&[7; 100]).unwrap();
    drop(upload);
    assert!(!file.is_file().unwrap() && root.list().unwrap().is_empty());
    let mut upload = file.upload().unwrap();
    upload.write_all(&vec![7; BLOCK + 5]).unwrap();
    assert!(!file.is_file().unwrap());
    let written = upload.finish().unwrap();
    assert_eq!(written.bytes, BLOCK as u64 + 5);
    assert_eq!(file.digest().unwrap(), Some(written));
    assert_eq!(root.join("missing").digest().unwrap(), None);
    let mut back = Vec::new();
    file.open().unwrap().reader(0).read_to_end(&mut back).unwrap();
    assert_eq!(back, vec![7; BLOCK + 5]);
    assert_eq!(root.list().unwrap().len(), 1);
    assert_eq!(root.list().unwrap()[0].local(), file.local());
    let folder = root.join("a b");
    folder.join("y").write("y").unwrap();
    assert_eq!(folder.names_after("x-1.bin").unwrap(), ["y"]);
    assert_eq!(folder.names_after("a").unwrap(), ["x-1.bin", "y"]);
}

#[test]
fn a_file_is_still_what_was_written_to_the_last_byte() {
    let folder = tempfile::tempdir().unwrap();
    let local = Location::parse(folder.path().to_str().unwrap()).unwrap();
    for at in [local, bucket_of(object_store::memory::InMemory::new(), "parts")] {
        for length in [0, 1, 70_000, 600_000] {
            let (file, content) = (at.join("part"), vec![7; length]);
            file.write(content.clone()).unwrap();
            let written = file.digest().unwrap().unwrap();
            assert_eq!(written.is_small(), length < 600_000);
            assert!(file.is_still(&written).unwrap(), "{length}");
            let longer = [&content[..], &[7]].concat();
            let mut flipped = content.clone();
            flipped.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
            for other in [&longer, &flipped, &content[..length / 2].to_vec(), &Vec::new()] {
                file.write(other.clone()).unwrap();
                assert_eq!(file.is_still(&written).unwrap(), *other == content, "{length}, {}", other.len());
            }
            file.delete().unwrap();
            assert!(!file.is_still(&written).unwrap());
        }
    }
}

#[test]
fn create_has_one_winner() {
    let folder = tempfile::tempdir().unwrap();
    let file = Location::parse(folder.path().join("m.json").to_str().unwrap()).unwrap();
    assert!(file.create("one").unwrap());
    assert!(!file.create("two").unwrap());
    assert_eq!(file.read().unwrap().unwrap(), "one");
    assert_eq!(file.join("missing").read().unwrap(), None);
    let error = file.join("missing").open().unwrap_err().to_string();
    assert!(error.ends_with("m.json/missing: no such file"), "{error}");
}

#[test]
fn unknown_schemes_are_named() {
    let error = Location::parse("ftp://host/x").unwrap_err().to_string();
    assert!(error.contains("`ftp://` is not supported"), "{error}");
}
