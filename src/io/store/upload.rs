//! A file that is written bit by bit and appears when it is finished.
//!
//! A small file goes out in one request. A larger one goes out in parts, one on its way while the next fills: three blocks
//! are the most that is in memory.

use std::io::{self, Write};
use std::mem::take;

use object_store::multipart::PartId;
use object_store::{
    Error as StoreError, MultipartId, MultipartUpload, ObjectStoreExt, PutPayload, Result as StoreResult,
};
use tokio::task::JoinHandle;

use super::attempts::{attempt, block_on, persist, spawn};
use super::{BLOCK, Location};
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
    Local(Box<dyn MultipartUpload>),
    Remote { id: MultipartId, sent: Vec<PartId>, flying: Option<JoinHandle<StoreResult<PartId>>> },
}

impl Upload {
    pub(super) fn new(location: Location) -> Self {
        Self { location, parts: Parts::None, buffer: Vec::new(), sent: 0, digest: blake3::Hasher::new() }
    }

    /// Publishes the file.
    pub fn finish(mut self) -> Result<Written> {
        let blake3 = self.digest.finalize().to_hex().to_string();
        if matches!(self.parts, Parts::None) {
            let content = take(&mut self.buffer);
            let bytes = content.len() as u64;
            return self.location.write(content).map(|()| Written { bytes, blake3 });
        }
        let finished = self.send().and_then(|()| self.land()).and_then(|()| self.complete());
        finished.map_err(|error| self.location.error(&error))?;
        Ok(Written { bytes: self.sent, blake3 })
    }

    fn part_bytes(&self) -> usize {
        match &self.parts {
            Parts::Remote { sent, .. } => BLOCK << (sent.len() / EQUAL_PARTS),
            _ => BLOCK,
        }
    }

    fn send(&mut self) -> StoreResult<()> {
        let (client, path) = (self.location.client.clone(), self.location.path.clone());
        if let Parts::None = self.parts {
            self.parts = match &client.parts {
                None => Parts::Local(persist(&client.patience, |_| client.objects.put_multipart(&path))?),
                Some(store) => {
                    let id = persist(&client.patience, |_| store.create_multipart(&path))?;
                    Parts::Remote { id, sent: Vec::new(), flying: None }
                }
            };
        }
        self.land()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.sent += self.buffer.len() as u64;
        let payload = PutPayload::from(take(&mut self.buffer));
        match &mut self.parts {
            Parts::Local(upload) => block_on(upload.put_part(payload)),
            Parts::Remote { id, sent, flying } => {
                let (id, index) = (id.clone(), sent.len());
                let store = client.parts.clone().expect("parts were begun in such a store");
                *flying = Some(spawn(async move {
                    attempt(&client.patience, |_| store.put_part(&path, &id, index, payload.clone())).await
                }));
                Ok(())
            }
            Parts::None => Ok(()),
        }
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

    fn complete(&mut self) -> StoreResult<()> {
        let Location { client, path, .. } = &self.location;
        let completed = match std::mem::replace(&mut self.parts, Parts::None) {
            Parts::None => return Ok(()),
            Parts::Local(mut upload) => return block_on(upload.complete()).map(drop),
            Parts::Remote { id, sent, .. } => {
                let store = client.parts.as_ref().expect("parts were begun in such a store");
                let complete = |_| store.complete_multipart(path, &id, sent.clone());
                persist(&client.patience, complete)
            }
        };
        match completed {
            // A try whose answer was lost may have done it; the upload is then gone, and the file is there.
            Err(error @ StoreError::NotFound { .. }) => {
                let meta = persist(&client.patience, |_| client.objects.head(path));
                if meta.is_ok_and(|meta| meta.size == self.sent) { Ok(()) } else { Err(error) }
            }
            completed => completed.map(drop),
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digest.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= self.part_bytes() {
            self.send().map_err(|error| io::Error::other(self.location.note(&error)))?;
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
            Parts::None => {}
            Parts::Local(mut upload) => drop(block_on(upload.abort())),
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
