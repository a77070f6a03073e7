//! One piece on its way to one client: opened when its rows are there, read no further than a few messages ahead of what the
//! client takes, and closed with the client's connection.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::spawn_blocking;
use tonic::Status;

use super::readers::Readers;
use super::{Opened, Rows, Shelf, Ticket};
use crate::error::{Error, Result};
use crate::io::Chunk;
use crate::io::expansion::size;

/// Bytes that a message carries, up to twice as many, or one row that takes more.
pub(super) const MESSAGE: u64 = 512 << 10;

/// Messages that wait for a client, beside the one that is sent.
const MESSAGES: usize = 4;

/// Between two looks for rows that are not there yet.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// The stream of the rows that `ticket` names. It begins when they are there.
pub(super) async fn deliver(
    shelf: Arc<dyn Shelf>,
    ticket: Ticket,
    readers: Readers,
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
    let permit = readers.admit().ok_or_else(|| {
        Status::resource_exhausted(
            "as many streams as the server reads at once are open (`--streams`); try again later",
        )
    })?;
    let (sender, receiver) = channel(MESSAGES);
    tokio::spawn(async move {
        read(rows, &sender, &readers).await;
        drop(permit);
        if is_last {
            complete(shelf, &sender).await;
        }
    });
    let batches = futures::stream::unfold(receiver, next);
    let encoder =
        FlightDataEncoderBuilder::new().with_schema(schema).with_max_flight_data_size(usize::MAX).build(batches);
    Ok(encoder.map_err(Status::from).boxed())
}

type Sent = Result<RecordBatch, FlightError>;

async fn next(mut receiver: Receiver<Sent>) -> Option<(Sent, Receiver<Sent>)> {
    let batch = receiver.recv().await?;
    Some((batch, receiver))
}

/// Sends `rows`, until the client has them or is gone. Messages are read when there is room for them: whoever waits for a slow
/// client holds no thread, and no rows beside those in the channel.
async fn read(rows: Rows, sender: &Sender<Sent>, readers: &Readers) {
    let mut left = messages(rows);
    while sender.reserve().await.is_ok() {
        let to = sender.clone();
        match readers.run(move || fill(&to, left)).await {
            Ok(Some(rest)) => left = rest,
            Ok(None) => return,
            // Nobody who takes the rows may think that this was the end.
            Err(_) => return drop(sender.send(Err(Status::internal("reading the rows failed").into())).await),
        }
    }
}

/// Reads while `sender` has room, for a few messages, since other streams wait for the thread; what is left.
fn fill<M: Iterator<Item = Sent>>(sender: &Sender<Sent>, mut left: M) -> Option<M> {
    for _ in 0..MESSAGES {
        let Ok(room) = sender.try_reserve() else { break };
        let message = left.next()?;
        let is_end = message.is_err();
        room.send(message);
        if is_end {
            return None;
        }
    }
    Some(left)
}

/// `rows` in batches of which each makes one message.
fn messages(rows: Rows) -> impl Iterator<Item = Sent> + Send {
    rows.flat_map(|chunk| {
        let (batch, failed) = match chunk {
            Ok(Chunk { batch, .. }) => (Some(batch), None),
            Err(error) => (None, Some(Err(FlightError::from(status(&error))))),
        };
        batch.into_iter().flat_map(pieces).map(Ok).chain(failed)
    })
}

/// `batch`, cut where it makes two messages or more. Readers of text and of Arrow files take rows without regard to their length.
fn pieces(batch: RecordBatch) -> impl Iterator<Item = RecordBatch> + Send {
    let rows = batch.num_rows();
    let count = usize::try_from(size(&batch) / MESSAGE).unwrap_or(rows);
    let each = rows.div_ceil(count.max(1)).max(1);
    (0..rows).step_by(each).map(move |start| batch.slice(start, each.min(rows - start)))
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{ArrayRef, AsArray, FixedSizeBinaryArray, Int64Array};
    use arrow::datatypes::{Int64Type, SchemaRef};
    use arrow_flight::decode::FlightRecordBatchStream;

    use super::super::Contents;
    use super::*;
    use crate::io::store::runtime;

    /// Batches of four rows, which make a message each, and how many of them were read.
    struct Counted {
        batches: usize,
        read: Arc<AtomicUsize>,
    }

    fn batch(number: usize) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..4).map(|row| (number * 4 + row) as i64)));
        let bytes = vec![0_u8; MESSAGE as usize / 4 - 16];
        let bytes: ArrayRef = Arc::new(FixedSizeBinaryArray::try_from_iter(std::iter::repeat_n(bytes, 4)).unwrap());
        RecordBatch::try_from_iter([("number", numbers), ("bytes", bytes)]).unwrap()
    }

    fn schema() -> SchemaRef {
        batch(0).schema()
    }

    impl Shelf for Counted {
        fn look(&self) -> Result<Option<Contents>> {
            Ok(None)
        }

        fn open(&self, _: &Ticket) -> Result<Opened> {
            let read = Arc::clone(&self.read);
            let rows = (0..self.batches).map(move |number| {
                read.fetch_add(1, Ordering::SeqCst);
                Ok(Chunk { batch: batch(number), first_row: number as u64 * 4 + 1 })
            });
            Ok(Opened::Rows { schema: schema(), rows: Box::new(rows), is_last: false })
        }

        fn is_complete(&self) -> Result<bool> {
            Ok(true)
        }
    }

    async fn settled(read: &AtomicUsize) -> usize {
        let mut before = usize::MAX;
        loop {
            let now = read.load(Ordering::SeqCst);
            if now == before {
                return now;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[test]
    fn no_more_is_read_than_a_client_takes_and_a_few_messages() {
        let read = Arc::new(AtomicUsize::new(0));
        let (readers, _threads) = Readers::start(1).unwrap();
        let shelf = Arc::new(Counted { batches: 100, read: Arc::clone(&read) });
        runtime().block_on(async {
            let open = || deliver(shelf.clone(), Ticket::whole("x"), readers.clone());
            let mut stream = open().await.unwrap();
            // Nobody asks: the channel fills up.
            assert_eq!(settled(&read).await, MESSAGES);
            // The schema, and five messages.
            for _ in 0..6 {
                stream.next().await.unwrap().unwrap();
            }
            assert_eq!(settled(&read).await, 5 + MESSAGES);
            assert!(open().await.is_err_and(|status| status.code() == tonic::Code::ResourceExhausted));
            drop(stream);
            assert_eq!(settled(&read).await, 5 + MESSAGES);
            // The reader ended with its client.
            let stream = open().await.unwrap().map_err(FlightError::from);
            let batches: Vec<RecordBatch> =
                FlightRecordBatchStream::new_from_flight_data(stream).try_collect().await.unwrap();
            let numbers = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(batches.iter().flat_map(numbers).collect::<Vec<_>>(), (0..400).collect::<Vec<i64>>());
        });
    }

    #[test]
    fn a_long_batch_goes_in_many_messages() {
        let whole = arrow::compute::concat_batches(&schema(), &(0..10).map(batch).collect::<Vec<_>>()).unwrap();
        let cut: Vec<RecordBatch> = pieces(whole.slice(1, 38)).collect();
        assert!(cut.iter().all(|piece| size(piece) < 2 * MESSAGE) && cut.len() >= 8, "{}", cut.len());
        assert_eq!(arrow::compute::concat_batches(&schema(), &cut).unwrap(), whole.slice(1, 38));
        assert_eq!(pieces(whole.slice(0, 0)).count(), 0);
    }
}
