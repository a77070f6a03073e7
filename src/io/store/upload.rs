//! A file that is written bit by bit and appears when it is finished.
//!
//! A small file goes out in one request. A larger one goes out in parts, one on its way while the next fills: three blocks
//! are the most that is in memory.

use std::io::{self, Write};
use std::mem::take;

use object_store::multipart::PartId;
use object_store::{Error as StoreError, MultipartId, ObjectStoreExt, PutPayload, Result as StoreResult};
use tokio::task::JoinHandle;

use super::attempts::{attempt, block_on, persist, spawn};
use super::local::Draft;
use super::{BLOCK, Location, failed};
use crate::error::Result;
use crate::io::Written;

/// Stores take 10,000 parts; after every so many of them, parts are twice as large.
const EQUAL_PARTS: usize = 2000;

/// A file being written. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    location: Location,
    parts: Parts,
    buffer: Vec<u8>,
    sent: u64,
    digest: blake3::Hasher,
}

/// What is there of a file beside its last block.
#[derive(Debug)]
enum Parts {
    None,
    Local(Draft),
    Remote { id: MultipartId, sent: Vec<PartId>, flying: Option<JoinHandle<StoreResult<PartId>>> },
}

impl Upload {
    pub(super) fn new(location: Location) -> Self {
        Self { location, parts: Parts::None, buffer: Vec::new(), sent: 0, digest: blake3::Hasher::new() }
    }

    /// Publishes the file.
    ///
    /// # Errors
    /// A store that fails.
    pub fn finish(mut self) -> Result<Written> {
        let blake3 = self.digest.finalize().to_hex().to_string();
        if matches!(self.parts, Parts::None) {
            let content = take(&mut self.buffer);
            let bytes = content.len() as u64;
            return self.location.write(content).map(|()| Written { bytes, blake3 });
        }
        self.send()?;
        self.complete()?;
        Ok(Written { bytes: self.sent, blake3 })
    }

    fn part_bytes(&self) -> usize {
        match &self.parts {
            Parts::Remote { sent, .. } => BLOCK << (sent.len() / EQUAL_PARTS),
            _ => BLOCK,
        }
    }

    /// Sends what is in the buffer, the first time after beginning the file.
    fn send(&mut self) -> Result<()> {
        let location = self.location.clone();
        match &mut self.parts {
            Parts::None => {
                self.parts = Self::begin(&location)?;
                return self.send();
            }
            Parts::Local(draft) => {
                let written = draft.write_all(&self.buffer);
                written.map_err(|error| failed(&location.shown, &error))?;
                self.sent += self.buffer.len() as u64;
                self.buffer.clear();
            }
            Parts::Remote { .. } => {
                location.pass()?;
                self.land().map_err(|error| location.error(&error))?;
                if !self.buffer.is_empty() {
                    self.launch();
                }
            }
        }
        Ok(())
    }

    fn begin(location: &Location) -> Result<Parts> {
        let Location { client, path, .. } = location;
        if let Some(local) = &location.local {
            return Draft::beside(local).map(Parts::Local).map_err(|error| failed(&location.shown, &error));
        }
        let store = client.parts.as_ref().ok_or_else(|| failed(&location.shown, &"this store can only be read"))?;
        location.pass()?;
        let id =
            persist(&client.retry_policy, |_| store.create_multipart(path)).map_err(|error| location.error(&error))?;
        Ok(Parts::Remote { id, sent: Vec::new(), flying: None })
    }

    /// Puts the buffer on its way as the next part.
    fn launch(&mut self) {
        let Location { client, path, .. } = self.location.clone();
        let Parts::Remote { id, sent, flying } = &mut self.parts else { return };
        self.sent += self.buffer.len() as u64;
        let payload = PutPayload::from(take(&mut self.buffer));
        let (id, index) = (id.clone(), sent.len());
        let store = client.parts.clone().expect("parts were begun in such a store");
        *flying = Some(spawn(async move {
            attempt(&client.retry_policy, |_| store.put_part(&path, &id, index, payload.clone())).await
        }));
    }

    /// Waits for the part that is on its way.
    fn land(&mut self) -> StoreResult<()> {
        if let Parts::Remote { sent, flying, .. } = &mut self.parts
            && let Some(part) = flying.take()
        {
            sent.push(block_on(part).map_err(|source| StoreError::JoinError { source })??);
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        let location = self.location.clone();
        self.land().map_err(|error| location.error(&error))?;
        let Location { client, path, .. } = &location;
        let completed = match std::mem::replace(&mut self.parts, Parts::None) {
            Parts::None => return Ok(()),
            Parts::Local(draft) => {
                let local = location.local.as_deref().expect("a draft lies on the local disk");
                return draft.replace(local).map_err(|error| failed(&location.shown, &error));
            }
            Parts::Remote { id, sent, .. } => {
                location.pass()?;
                let store = client.parts.as_ref().expect("parts were begun in such a store");
                persist(&client.retry_policy, |_| store.complete_multipart(path, &id, sent.clone()))
            }
        };
        let completed = match completed {
            // A try whose answer was lost may have done it; the upload is then gone, and the file is there.
            Err(error @ StoreError::NotFound { .. }) => {
                let meta = persist(&client.retry_policy, |_| client.objects.head(path));
                if meta.is_ok_and(|meta| meta.size == self.sent) { Ok(()) } else { Err(error) }
            }
            completed => completed.map(drop),
        };
        completed.map_err(|error| location.error(&error))
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digest.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= self.part_bytes() {
            self.send().map_err(|error| io::Error::other(self.location.keep(error)))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Nobody is left to tell; an orphaned part is what the store's own clean-up is for.
        match std::mem::replace(&mut self.parts, Parts::None) {
            Parts::None | Parts::Local(_) => {}
            Parts::Remote { id, flying, .. } => {
                if let Some(part) = flying {
                    part.abort();
                }
                if let Some(store) = &self.location.client.parts {
                    drop(block_on(store.abort_multipart(&self.location.path, &id)));
                }
            }
        }
    }
}
