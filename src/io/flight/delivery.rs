//! One piece on its way to one client: opened when its rows are there, read no further than a few batches ahead of what the
//! client takes, and let go with the client.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tonic::Status;

use super::{Opened, Rows, Shelf, Ticket};
use crate::error::{Error, Result};
use crate::io::Chunk;

/// Batches that wait for a client.
const BATCHES: usize = 2;

/// Between two looks for rows that are not there yet.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// The stream of the rows that `ticket` names. It begins when they are there.
pub(super) async fn deliver(
    shelf: Arc<dyn Shelf>,
    ticket: Ticket,
    streams: Arc<Semaphore>,
) -> Result<BoxStream<'static, Result<FlightData, Status>>, Status> {
    let (schema, rows, is_last) = loop {
        let (shelf, ticket) = (Arc::clone(&shelf), ticket.clone());
        match blocking(move || shelf.open(&ticket)).await? {
            Opened::Rows { schema, rows, is_last } => break (schema, rows, is_last),
            Opened::NotYet => tokio::time::sleep(PAUSE).await,
            Opened::Unknown(message) => return Err(Status::not_found(message)),
        }
    };
    // Clients that wait above hold no rows.
    let permit = streams.try_acquire_owned().map_err(|_| {
        Status::resource_exhausted(
            "as many streams as the server reads at once are open (`--streams`); try again later",
        )
    })?;
    let (sender, receiver) = channel(BATCHES);
    tokio::spawn(async move {
        read(rows, &sender, permit).await;
        if is_last {
            complete(shelf, &sender).await;
        }
    });
    let batches = futures::stream::unfold(receiver, next);
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
    Ok(encoder.map_err(Status::from).boxed())
}

type Sent = Result<RecordBatch, FlightError>;

async fn next(mut receiver: Receiver<Sent>) -> Option<(Sent, Receiver<Sent>)> {
    let batch = receiver.recv().await?;
    Some((batch, receiver))
}

/// Sends `rows`, until the client has them or is gone.
async fn read(rows: Rows, sender: &Sender<Sent>, permit: OwnedSemaphorePermit) {
    let to = sender.clone();
    let reading = spawn_blocking(move || {
        // The rows go before the permit does, also where reading panics.
        let (_permit, rows) = (permit, rows);
        for chunk in rows {
            let batch = chunk.map(|Chunk { batch, .. }| batch).map_err(|error| FlightError::from(status(&error)));
            let is_end = batch.is_err();
            if to.blocking_send(batch).is_err() || is_end {
                return;
            }
        }
    });
    if reading.await.is_err() {
        // Nobody who takes the rows may think that this was the end.
        drop(sender.send(Err(Status::internal("reading the rows failed").into())).await);
    }
}

/// Waits until the rows of the shelf are all there for good, or the client is gone.
async fn complete(shelf: Arc<dyn Shelf>, sender: &Sender<Sent>) {
    while !sender.is_closed() {
        let shelf = Arc::clone(&shelf);
        match blocking(move || shelf.is_complete()).await {
            Ok(true) => return,
            Ok(false) => drop(tokio::time::timeout(PAUSE, sender.closed()).await),
            Err(status) => {
                drop(sender.send(Err(status.into())).await);
                return;
            }
        }
    }
}

/// The outcome of `work`, which blocks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = spawn_blocking(work).await.map_err(|_| Status::internal("the server failed; its log says why"))?;
    done.map_err(|error| status(&error))
}

/// `error` as gRPC says it.
fn status(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        Error::Store { retryable: true, .. } => Status::unavailable(message),
        Error::Data { .. } => Status::data_loss(message),
        _ => Status::internal(message),
    }
}
