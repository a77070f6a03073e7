//! Uploads through a network that fails, to a hub that goes its own way: parts, answers that are lost, commits of others,
//! redirects.

use std::time::Duration;

use sepo::io::hub::{Address, Change, Hub, Outgoing, Settings, Visibility};
use sepo::monitor::Silent;

use crate::hub_server::{HubServer, PART, PARTS_FROM, Trouble, Uploads};
use crate::hub_upload::Place;

fn hub_of(place: &Place) -> Hub {
    let settings = Settings::new(|_| None);
    let (endpoint, token) = (place.server.endpoint.clone(), Some("secret".to_owned()));
    Hub::new(Settings { endpoint, token, pause: Duration::from_millis(1), ..settings })
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap().unwrap()
}

/// A large content that goes up whole, one that goes up in parts, and a small one.
fn three() -> Vec<Outgoing> {
    let noise = |length: usize| (0..length).map(|at| ((at * at) >> 5) as u8).collect::<Vec<u8>>();
    let files = [("a.bin", noise(5_000)), ("b/c.bin", noise(PARTS_FROM + 50_000)), ("small.txt", b"small".to_vec())];
    files.map(|(path, content)| Outgoing::text(path, content)).to_vec()
}

/// Uploads [`three`] and commits them; what the hub says.
fn push(place: &Place, hub: &Hub) -> sepo::Result<Option<String>> {
    let to = address("hf://org/model");
    let tree = hub.writable(&to, Some(Visibility::Private))?;
    let files = hub.prepare(&to, three(), &Silent)?;
    let changes: Vec<Change> = files.iter().map(Change::Put).collect();
    hub.send(&to, &changes, &Silent)?;
    let committed = hub.commit(&to, &tree, &changes, "three files");
    if matches!(committed, Ok(Some(_))) {
        let files = place.server.repository("models/org/model").unwrap().files;
        assert!(files["b/c.bin"].len() == PARTS_FROM + 50_000 && files["small.txt"] == b"small");
    }
    committed
}

fn puts(place: &Place) -> Vec<String> {
    place.server.requests().into_iter().filter(|request| request.method == "PUT").map(|request| request.path).collect()
}

#[test]
fn large_contents_go_in_parts_and_none_twice() {
    let place = Place::new();
    let hub = hub_of(&place);
    let parts = (PARTS_FROM + 50_000).div_ceil(PART);
    // The storage is away while the second content is on its way.
    let away = std::array::from_fn::<_, 5, _>(|_| ("/2?", Trouble::Status("503 Service Unavailable")));
    place.server.trouble(&away);
    let error = push(&place, &hub).unwrap_err();
    assert!(
        error.exit_code() == 75 && error.to_string().contains("hf://org/model/b/c.bin: 127.0.0.1 answers 503"),
        "{error}"
    );
    assert!(!error.to_string().contains("signature"), "{error}");
    assert_eq!(puts(&place).len(), 1 + 1 + 5);
    assert!(push(&place, &hub).unwrap().is_some());
    let sent = puts(&place);
    assert!(
        sent.len() == parts
            && sent.iter().all(|path| path.contains("/1?") || path.contains("/2?") || path.contains("/3?")),
        "{sent:?}"
    );
    // A branch without the files: the contents are there.
    place.server.change("models/org/model", |repository| repository.files.clear());
    assert!(push(&place, &hub).unwrap().is_some());
    assert!(puts(&place).is_empty());
}

#[test]
fn a_network_that_fails_once_makes_one_commit() {
    let unavailable = || Trouble::Status("503 Service Unavailable");
    for word in ["/preupload/", "/objects/batch", "/put/", "/lfs/complete", "/lfs/verify", "/commit/", "/repos/create"]
    {
        let place = Place::new();
        place.server.trouble(&[(word, unavailable())]);
        assert!(push(&place, &hub_of(&place)).unwrap().is_some(), "{word}");
        assert!(place.server.uploads(|uploads: &mut Uploads| uploads.troubles.is_empty()), "{word}");
        assert_eq!(place.commits().len(), 1, "{word}");
    }
    for word in ["/put/", "/lfs/complete", "/commit/", "/repos/create"] {
        let place = Place::new();
        place.server.trouble(&[(word, Trouble::Lost)]);
        assert!(push(&place, &hub_of(&place)).unwrap().is_some(), "{word}");
        assert_eq!(place.commits().len(), 1, "the answer to {word} was lost");
    }
    // A link that is not good any more, and one that leads on: the next one is asked for, and the other followed without the token.
    let place = Place::new();
    let other = HubServer::start();
    let elsewhere = format!("{}/other", other.endpoint);
    place.server.trouble(&[("/put/", Trouble::Status("403 Forbidden")), ("/put/", Trouble::Elsewhere(elsewhere))]);
    let error = push(&place, &hub_of(&place)).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1 answers 40"), "the other server takes no contents: {error}");
    assert!(other.requests().iter().all(|request| request.method == "PUT" && request.token.is_none()));
    let place = Place::new();
    place.server.trouble(&[("/put/", Trouble::Status("403 Forbidden"))]);
    assert!(push(&place, &hub_of(&place)).unwrap().is_some());
}

#[test]
fn commits_of_others_are_seen_and_followed() {
    let place = Place::new();
    place.pairs(20);
    place.server.trouble(&[("/commit/", Trouble::Overtaken)]);
    assert_eq!(push(&place, &hub_of(&place)).unwrap(), None);
    place.writes("up.yaml", "to: hf://datasets/org/scored, create: private");
    place.server.trouble(&[("/commit/", Trouble::Overtaken)]);
    place.runs(&["run", "up.yaml"]);
    assert_eq!(place.commits().len(), 1);
    // Nothing goes to another server because the hub says so.
    let place = Place::new();
    let other = HubServer::start();
    let elsewhere = format!("{}/api/models/org/model/commit/main", other.endpoint);
    place.server.trouble(&[("/commit/", Trouble::Elsewhere(elsewhere))]);
    let error = push(&place, &hub_of(&place)).unwrap_err().to_string();
    assert!(error.contains("sends an upload on to another server, which is refused"), "{error}");
    assert!(other.requests().is_empty());
}

#[test]
fn a_hub_that_goes_its_own_way_is_an_error() {
    let place = Place::new();
    let hub = hub_of(&place);
    place.server.uploads(|uploads| uploads.transfer = Some("xet"));
    let error = push(&place, &hub).unwrap_err().to_string();
    assert!(error.contains("the hub chose the transfer `xet`, which was not offered"), "{error}");
    let to = address("hf://org/model");
    let error = hub.prepare(&to, vec![Outgoing::text("ignored.txt", "x")], &Silent).unwrap_err().to_string();
    assert!(error.contains("hf://org/model/ignored.txt: the repository's .gitignore leaves this file out"), "{error}");
}
