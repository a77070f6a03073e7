//! Rows for programs on other machines, by Arrow Flight (<https://arrow.apache.org/docs/format/Flight.html>): gRPC calls that list
//! pieces of rows, and streams of record batches for each piece.
//!
//! ```text
//! Shelf --look--> Contents { schema, pieces } --GetFlightInfo--> client
//! client --DoGet(Ticket)--> Shelf::open --Rows--> delivery, a few batches ahead --> client
//! ```
//!
//! What a client does not take is not read: a stream holds the messages of `delivery.rs`, a page of every column, and what HTTP/2
//! buffers, whatever the size of a piece. A stream is closed with the connection of its client, and its reader with it.

mod access;
mod delivery;
mod files;
mod readers;
mod service;
mod ticket;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_server::FlightServiceServer;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server as Transport, ServerTlsConfig};

use super::Chunk;
use super::portion::Portion;
use super::store::runtime;
use crate::error::{Error, Result};
pub use access::Token;
use delivery::MESSAGE;
pub use files::Files;
use readers::Readers;
use service::Service;
pub use ticket::{Groups, Ticket};

/// After this long without a sign of life, a client is asked for one.
const SILENCE: Duration = Duration::from_secs(20);

/// How long a client may take to answer that, and to agree on keys.
const ANSWER: Duration = Duration::from_secs(20);

/// How long streams may go on after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Between two looks whether the server is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The largest request that is read. Tickets and descriptors are small.
const REQUEST_BYTES: usize = 64 << 10;

/// What a stream reads at a time: about as much as a message carries.
pub const PORTION: Portion = Portion { rows: 1024, bytes: MESSAGE, window: 16 << 10, store_window: 1 << 20 };

/// Rows of a piece, in order.
pub type Rows = Box<dyn Iterator<Item = Result<Chunk>> + Send>;

/// What a server offers: rows in pieces, of which some may not be there yet. Its methods block.
pub trait Shelf: Send + Sync + 'static {
    /// What there is to take; nothing while that is not known.
    ///
    /// # Errors
    /// A store that fails; files that cannot be read.
    fn look(&self) -> Result<Option<Contents>>;

    /// The rows that `ticket` names.
    ///
    /// # Errors
    /// A store that fails; a piece that cannot be read.
    fn open(&self, ticket: &Ticket) -> Result<Opened>;

    /// Whether a client that took the last piece has seen all rows for good.
    ///
    /// # Errors
    /// A store that fails.
    fn is_complete(&self) -> Result<bool>;
}

/// What a shelf holds.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The columns of all pieces.
    pub schema: SchemaRef,
    /// In order; together they are all rows.
    pub pieces: Vec<Piece>,
}

/// Some rows.
#[derive(Debug, Clone)]
pub struct Piece {
    /// What names it.
    pub ticket: Ticket,
    /// Their number, where it is known.
    pub rows: Option<u64>,
}

/// What became of a ticket.
pub enum Opened {
    /// Its rows.
    Rows {
        /// Their columns.
        schema: SchemaRef,
        /// The rows themselves.
        rows: Rows,
        /// Whether they are those of the last piece.
        is_last: bool,
    },
    /// They are not there yet.
    NotYet,
    /// The shelf has no such rows; what it has instead.
    Unknown(String),
}

/// A certificate with its private key, both PEM.
pub struct Tls {
    /// The certificate, and those that lead to a known one.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

/// How a server is reached.
pub struct Server {
    /// Where it listens; port 0 is any free one.
    pub listen: SocketAddr,
    /// What clients have to show.
    pub token: Option<Token>,
    /// With TLS, or in the clear.
    pub tls: Option<Tls>,
    /// The most streams that are read at once.
    pub streams: usize,
}

impl Server {
    /// Serves `shelf` until `stopping` says so. `started` gets the server's URL once it listens.
    ///
    /// # Errors
    /// An address that cannot be listened at; a certificate that cannot be used; an error of `started`.
    pub fn serve(
        self,
        shelf: impl Shelf,
        started: impl FnOnce(&str) -> Result<()>,
        stopping: impl Fn() -> bool,
    ) -> Result<()> {
        let scheme = if self.tls.is_some() { "grpc+tls" } else { "grpc" };
        let refused = |error: &dyn std::fmt::Display| Error::Store {
            path: format!("{scheme}://{}", self.listen),
            message: error.to_string(),
            retryable: false,
        };
        let mut transport =
            Transport::builder().http2_keepalive_interval(Some(SILENCE)).http2_keepalive_timeout(Some(ANSWER));
        if let Some(tls) = &self.tls {
            let identity = Identity::from_pem(&tls.certificate, &tls.key);
            let tls = ServerTlsConfig::new().identity(identity).timeout(ANSWER);
            transport = transport.tls_config(tls).map_err(|error| refused(&chain(&error)))?;
        }
        let (readers, threads) = Readers::start(self.streams).map_err(|error| refused(&error))?;
        let service = FlightServiceServer::new(Service::new(Arc::new(shelf), readers));
        let service = service.max_decoding_message_size(REQUEST_BYTES);
        let guarded = tonic::service::interceptor::InterceptedService::new(service, access::guard(self.token.clone()));
        let served = runtime().block_on(async {
            let incoming = TcpIncoming::bind(self.listen).map_err(|error| refused(&error))?;
            let address = incoming.local_addr().map_err(|error| refused(&error))?;
            let incoming = incoming.with_nodelay(Some(true)).with_keepalive(Some(SILENCE));
            started(&format!("{scheme}://{address}"))?;
            let server = transport.add_service(guarded).serve_with_incoming_shutdown(incoming, until(&stopping));
            let served = with_grace(server, until(&stopping)).await;
            served.unwrap_or(Ok(())).map_err(|error| refused(&chain(&error)))
        });
        // A store may let a reader wait for long.
        threads.shutdown_background();
        served
    }
}

/// Waits until `stopping` says so.
async fn until(stopping: &impl Fn() -> bool) {
    while !stopping() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The outcome of `work`; none where it goes on for too long after `stop`.
async fn with_grace<T>(work: impl Future<Output = T>, stop: impl Future<Output = ()>) -> Option<T> {
    use futures::future::{Either, select};
    let deadline = std::pin::pin!(async {
        stop.await;
        tokio::time::sleep(GRACE).await;
    });
    match select(std::pin::pin!(work), deadline).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// `error` and what led to it: the outermost says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}
