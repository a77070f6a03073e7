//! Contents to the hub's storage by Git LFS: a batch of questions, one PUT for each content or for each part of it, and a
//! confirmation.
//!
//! Which transfers may be chosen is said in the question: `basic` and `multipart`. A server that offers `xet` as well chooses one
//! of these two. A content that the hub holds already gets no action, and is not sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde_json::{Map, Value, json};
use ureq::http::header;

use super::Hub;
use super::address::Address;
use super::client::{Refusal, host};
use super::outgoing::Digested;
use super::send::{Media, is_as_safe};
use crate::error::{Error, Result};
use crate::io::faults;
use crate::monitor::Monitor;

/// Objects in one question. Links are good for a while only, so that a question is not asked for many at once.
const AT_ONCE: usize = 32;
/// Most parts of a content, those of S3.
const PARTS: usize = 10_000;

/// What is to be done for a content.
#[derive(Debug)]
struct Action {
    upload: Upload,
    /// Where the hub wants to be told.
    verify: Option<String>,
}

#[derive(Debug)]
enum Upload {
    Single(String),
    /// The size of parts, where each goes, and where the hub is told of all of them.
    Parts(u64, Vec<String>, String),
}

impl Hub {
    /// Brings those of `files` that the hub does not hold yet to its storage.
    ///
    /// # Errors
    /// What the hub or the storage says; a file that changed; the wish to stop.
    pub(super) fn store(&self, address: &Address, files: &[&Digested], monitor: &dyn Monitor) -> Result<()> {
        let mut seen = BTreeSet::new();
        let distinct: Vec<&Digested> = files.iter().copied().filter(|file| seen.insert(&file.sha256)).collect();
        for files in distinct.chunks(AT_ONCE) {
            let mut actions = self.batch(address, files)?;
            for file in files {
                match actions.remove(&file.sha256) {
                    Some(action) => self.store_one(address, file, action, monitor)?,
                    None => monitor.advance(file.file.size(), ""),
                }
            }
        }
        Ok(())
    }

    /// Does `action`; where its links are not good any more, asks once for others.
    fn store_one(&self, address: &Address, file: &Digested, action: Action, monitor: &dyn Monitor) -> Result<()> {
        faults::pass(address).map_err(|error| failed(address, &error.to_string()))?;
        let at = address.of(file.file.path());
        let refusal = match self.act(&at, file, &action, monitor)? {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        let is_over = refusal.status.is_some_and(|status| matches!(status.as_u16(), 401 | 403 | 404 | 410));
        if !is_over {
            return Err(refusal.at(&at));
        }
        match self.batch(address, &[file])?.remove(&file.sha256) {
            Some(action) => self.act(&at, file, &action, monitor)?.map_err(|refusal| refusal.at(&at)),
            None => Ok(()),
        }
    }

    fn act(
        &self,
        at: &Address,
        file: &Digested,
        action: &Action,
        monitor: &dyn Monitor,
    ) -> Result<Result<(), Refusal>> {
        let (size, oid) = (file.file.size(), &file.sha256);
        match &action.upload {
            Upload::Single(to) => {
                if let Err(refusal) = self.client.put(to, size, &|| file.file.reader(0), monitor)? {
                    return Ok(Err(refusal));
                }
            }
            Upload::Parts(length, places, whole) => {
                let mut parts = Vec::new();
                for (index, to) in places.iter().enumerate() {
                    let start = index as u64 * length;
                    let length = (*length).min(size - start);
                    let open = || -> Box<dyn Read> { Box::new(file.file.reader(start).take(length)) };
                    let headers = match self.client.put(to, length, &open, monitor)? {
                        Ok(headers) => headers,
                        Err(refusal) => return Ok(Err(refusal)),
                    };
                    let etag = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
                    let Some(etag) = etag.filter(|etag| !etag.is_empty()) else {
                        let message = format!("{} names no etag of part {}", host(to), index + 1);
                        return Ok(Err(Refusal::lasting(message)));
                    };
                    parts.push(json!({ "partNumber": index + 1, "etag": etag }));
                }
                let body = json!({ "oid": oid, "parts": parts }).to_string();
                if let Err(refusal) = self.client.post(whole, Media::Lfs, body.as_bytes(), at) {
                    return Ok(Err(refusal));
                }
            }
        }
        let Some(verify) = &action.verify else { return Ok(Ok(())) };
        let body = json!({ "oid": oid, "size": size }).to_string();
        Ok(self.client.post(verify, Media::Json, body.as_bytes(), at).map(drop))
    }

    /// What is to be done for each of `files`, by digest. Those that the hub holds are left out.
    fn batch(&self, address: &Address, files: &[&Digested]) -> Result<BTreeMap<String, Action>> {
        let (prefix, repo) = (address.kind.prefix(), &address.repo);
        let url = format!("{}/{prefix}{repo}.git/info/lfs/objects/batch", self.settings.endpoint);
        let objects: Vec<Value> =
            files.iter().map(|file| json!({ "oid": file.sha256, "size": file.file.size() })).collect();
        let question = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": objects,
            "hash_algo": "sha256",
            "ref": { "name": address.revision() },
        });
        let answer = self.client.post(&url, Media::Lfs, question.to_string().as_bytes(), address);
        let answer = answer.map_err(|refusal| refusal.at(address))?;
        if let Some(other) = answer["transfer"].as_str().filter(|chosen| !matches!(*chosen, "basic" | "multipart")) {
            let message = format!("the hub chose the transfer `{other}`, which was not offered");
            return Err(failed(address, &message));
        }
        let mut actions = BTreeMap::new();
        for file in files {
            let of_file = |object: &&Value| object["oid"] == file.sha256;
            let found = answer["objects"].as_array().and_then(|objects| objects.iter().find(of_file));
            let at = address.of(file.file.path());
            let object = found.ok_or_else(|| failed(&at, "the hub does not answer where its content goes"))?;
            if let Some(error) = object.get("error") {
                let said = error["message"].as_str().unwrap_or("no reason");
                let plain: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
                return Err(failed(&at, &format!("the hub does not take its content: {plain}")));
            }
            let action = object.get("actions").filter(|actions| actions.get("upload").is_some());
            if let Some(found) = action {
                let action = action_of(found, file.file.size(), &self.settings.endpoint);
                actions.insert(file.sha256.clone(), action.map_err(|message| failed(&at, &message))?);
            }
        }
        Ok(actions)
    }
}

/// Reads the `actions` of an object of `size` bytes.
fn action_of(actions: &Value, size: u64, endpoint: &str) -> Result<Action, String> {
    let link = |value: &Value| match value.as_str() {
        Some(link) if is_as_safe(endpoint, link) => Ok(link.to_owned()),
        Some(link) => Err(format!("the hub sends its content to {}, which is no safe address", host(link))),
        None => Err("the hub does not say where its content goes".to_owned()),
    };
    let (upload, verify) = (&actions["upload"], &actions["verify"]);
    let href = link(&upload["href"])?;
    let verify = (!verify.is_null()).then(|| link(&verify["href"])).transpose()?;
    let none = Map::new();
    let headers = upload["header"].as_object().unwrap_or(&none);
    let Some(length) = headers.get("chunk_size") else { return Ok(Action { upload: Upload::Single(href), verify }) };
    let length = length.as_u64().or_else(|| length.as_str()?.parse().ok()).filter(|length| *length > 0);
    let length = length.ok_or("the hub's size of parts is no number above 0")?;
    let numbered = headers.iter().filter_map(|(name, to)| Some((name.parse::<usize>().ok()?, to)));
    let places: BTreeMap<usize, &Value> = numbered.collect();
    let count = size.div_ceil(length);
    if count > PARTS as u64 || !places.keys().copied().eq(1..=count as usize) {
        return Err(format!("the hub names {} places for {count} parts", places.len()));
    }
    let places = places.into_values().map(link).collect::<Result<_, _>>()?;
    Ok(Action { upload: Upload::Parts(length, places, href), verify })
}

fn failed(address: &Address, message: &str) -> Error {
    Error::Store { path: address.to_string(), message: message.to_owned(), retryable: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_numbered_from_1_and_cover_the_content() {
        let with = |header: Value| {
            let actions = json!({ "upload": { "href": "https://hub/complete", "header": header } });
            action_of(&actions, 25, "https://hub")
        };
        let header = json!({ "chunk_size": "10", "2": "https://s/2", "1": "https://s/1", "3": "https://s/3" });
        let Upload::Parts(length, places, whole) = with(header).unwrap().upload else { panic!("parts") };
        assert_eq!((length, whole.as_str()), (10, "https://hub/complete"));
        assert_eq!(places, ["https://s/1", "https://s/2", "https://s/3"]);
        for (header, message) in [
            (json!({ "chunk_size": "10", "1": "https://s/1" }), "1 places for 3 parts"),
            (json!({ "chunk_size": 0 }), "no number above 0"),
            (
                json!({ "chunk_size": "10", "1": "https://s", "2": "https://s", "4": "https://s" }),
                "3 places for 3 parts",
            ),
            (json!({ "chunk_size": 25, "1": "http://s" }), "sends its content to s, which is no safe address"),
        ] {
            let error = with(header).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
