//! A hub that does not end: its lists, its contents, and sizes that are not those of what it sends.

use std::time::{Duration, Instant};

use sepo::io::hub::{Address, Hub, Settings};
use sepo::monitor::Silent;

use crate::harness::Folder;
use crate::hub_server::{Fault, HubServer, Listing};

const ROWS: &[u8] = b"{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n";

struct Place {
    server: HubServer,
    folder: Folder,
}

impl Place {
    /// A hub with the dataset `org/rows`, of one file.
    fn new() -> Self {
        let server = HubServer::start();
        server.add("datasets/org/rows", &[("x.jsonl", ROWS)]);
        Self { server, folder: Folder::new() }
    }

    fn fetch(&self) -> Result<(), String> {
        let settings = Settings {
            endpoint: self.server.endpoint.clone(),
            cache: self.folder.path("hub"),
            token: None,
            offline: false,
            pause: Duration::from_millis(1),
        };
        let hub = Hub::new(settings);
        let address = Address::parse("hf://datasets/org/rows").unwrap().unwrap();
        let snapshot = hub.open(&address).map_err(|error| error.to_string())?;
        hub.fetch(&snapshot, &["x.jsonl".to_owned()], &Silent).map_err(|error| error.to_string())
    }

    /// Bytes of all contents in the cache, whole or not.
    fn kept(&self) -> u64 {
        let blobs = std::fs::read_dir(self.folder.path("hub/datasets--org--rows/blobs")).unwrap();
        blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).sum()
    }
}

#[test]
fn lists_without_end_are_refused() {
    let place = Place::new();
    place.fetch().unwrap();
    let expected = [
        (
            Listing::Repeats,
            "hf://datasets/org/rows: the list of its files does not end: page 2 names only what was named before",
        ),
        (Listing::Invents, "hf://datasets/org/rows: the list of its files does not end: more than 2000 pages"),
    ];
    for (listing, expected) in expected {
        let place = Place::new();
        place.server.change("datasets/org/rows", |repository| repository.listing = listing);
        let error = place.fetch().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// No more is read than the list says that the file has, and nothing of it is kept.
#[test]
fn contents_without_end_are_refused() {
    let place = Place::new();
    place.server.fail(&[Fault::Longer(64 << 20)]);
    let start = Instant::now();
    let error = place.fetch().unwrap_err();
    let wanted = format!("x.jsonl: the server sends more than the {} bytes that it says the file has", ROWS.len());
    assert!(error.contains(&wanted), "{error}");
    assert_eq!(place.kept(), 0);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    place.fetch().unwrap();
    assert_eq!(place.kept(), ROWS.len() as u64);
}

#[test]
fn sizes_that_lie_are_refused() {
    for (claimed, expected) in [
        (10, "the server sends more than the 10 bytes that it says the file has"),
        (1000, "the connection keeps breaking after 43 bytes"),
        (u64::MAX, "a file of 18446744073709551615 bytes; the most is 1099511627776"),
    ] {
        let place = Place::new();
        place.server.change("datasets/org/rows", |repository| repository.claimed = Some(claimed));
        let error = place.fetch().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_path_without_end_is_refused() {
    let place = Place::new();
    let path = format!("{}.jsonl", "x/".repeat(600));
    place.server.add("datasets/org/rows", &[(&path, ROWS)]);
    let error = place.fetch().unwrap_err();
    assert!(error.contains("x/x/…`, whose path has more than 1024 bytes"), "{error}");
}

#[test]
fn an_answer_without_end_is_refused() {
    let place = Place::new();
    place.server.change("datasets/org/rows", |repository| repository.padding = 60 << 20);
    place.fetch().unwrap();
    let place = Place::new();
    place.server.change("datasets/org/rows", |repository| repository.padding = 64 << 20);
    let error = place.fetch().unwrap_err();
    assert!(error.contains("hf://datasets/org/rows: 127.0.0.1 answers with more than 67108864 bytes"), "{error}");
}
