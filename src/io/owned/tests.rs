//! Folders with records: what may be replaced and removed, and what may not.

use super::*;

fn owner(stage: &str) -> Owner {
    Owner { workdir: "w".into(), stage: stage.into(), ..Owner::default() }
}

fn claim(folder: &Location, owner: &Owner) -> Result<Owned> {
    Claim { folder: folder.clone(), owner: owner.clone(), pipeline: "p".into() }.open()
}

fn folder() -> (tempfile::TempDir, Location) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Location::parse(temporary.path().join("data/x").to_str().unwrap()).unwrap();
    (temporary, folder)
}

fn names(folder: &Location) -> Vec<String> {
    folder.scan().unwrap().into_iter().map(|found| found.path).collect()
}

#[test]
fn only_what_is_recorded_goes() {
    let (_temporary, at) = folder();
    let mut owned = claim(&at, &owner("s")).unwrap();
    owned.expect_numbered(2, ".json").unwrap();
    for name in ["a.bin", "deep/b.bin"] {
        owned.expect(name).unwrap().write("mine").unwrap();
        owned.made(name, at.join(name).digest().unwrap().unwrap()).unwrap();
    }
    for name in ["part-00000.json", "part-00001.json", "part-00002.json", "part-0.json", "deep/notes.txt"] {
        at.join(name).write("x").unwrap();
    }
    at.join("a.bin").write("changed").unwrap();
    let changed = Difference { changed: vec!["a.bin".into()], ..Difference::default() };
    assert_eq!(owned.difference(Depth::Size).unwrap(), changed);
    assert_eq!(owned.foreign().unwrap(), ["deep/notes.txt", "part-0.json", "part-00002.json"]);
    let stayed = owned.remove(&BTreeMap::new()).unwrap();
    assert_eq!(stayed, ["a.bin", "deep/notes.txt", "part-0.json", "part-00002.json"]);
    assert_eq!(names(&at), stayed);
}

#[test]
fn a_file_that_is_made_again_has_no_digest_until_it_is_finished() {
    let (_temporary, at) = folder();
    let mut owned = claim(&at, &owner("s")).unwrap();
    owned.expect("a.bin").unwrap().write("first").unwrap();
    owned.made("a.bin", at.join("a.bin").digest().unwrap().unwrap()).unwrap();
    owned.expect("a.bin").unwrap().write("again").unwrap();
    let killed = Owned::open(at).unwrap().unwrap();
    assert_eq!(killed.files().collect::<Vec<_>>(), [("a.bin", None)]);
    assert_eq!(killed.difference(Depth::Digest).unwrap(), Difference::default());
}

#[test]
fn a_folder_without_a_stranger_goes_whole() {
    let (_temporary, at) = folder();
    let mut owned = claim(&at, &owner("s")).unwrap();
    owned.expect("deep/er/b.bin").unwrap().write("mine").unwrap();
    assert!(owned.remove(&BTreeMap::new()).unwrap().is_empty());
    assert!(!at.local().unwrap().exists());
    assert!(at.local().unwrap().parent().unwrap().is_dir());
}

#[test]
fn folders_of_others_are_refused() {
    let (temporary, at) = folder();
    at.join("mine.txt").write("x").unwrap();
    let said = claim(&at, &owner("s")).unwrap_err().to_string();
    assert!(said.contains("data/x: holds `mine.txt`, which sepo did not make"), "{said}");
    at.join("mine.txt").delete().unwrap();
    let mut owned = claim(&at, &owner("s")).unwrap();
    at.join("later.txt").write("x").unwrap();
    assert!(owned.expect("later.txt").unwrap_err().to_string().contains("does not replace it"));
    for (other, expected) in
        [(owner("t"), "belongs to stage `s`"), (Owner { workdir: "v".into(), ..owner("s") }, "with another workdir")]
    {
        let said = claim(&at, &other).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
    let link = temporary.path().join("data/link");
    std::os::unix::fs::symlink(at.local().unwrap(), &link).unwrap();
    let link = Location::parse(link.to_str().unwrap()).unwrap();
    assert!(claim(&link, &owner("s")).unwrap_err().to_string().contains("is a link"));
    let seen = Owned::open(link).unwrap().unwrap();
    assert!(seen.remove(&BTreeMap::new()).is_err());
    assert!(at.join(RECORD).is_file().unwrap());
}
