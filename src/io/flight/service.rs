//! The calls of Arrow Flight that a shelf answers: what there is, and its rows. Nothing can be put or done.

use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaAsIpc, SchemaResult, Ticket as FlightTicket,
};
use futures::StreamExt;
use futures::stream::{BoxStream, empty, iter};
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::delivery::{PAUSE, blocking, deliver};
use super::readers::Readers;
use super::{Contents, Piece, Shelf, Ticket};

type Stream<T> = BoxStream<'static, Result<T, Status>>;
type Answer<T> = Result<Response<T>, Status>;

/// A shelf behind gRPC.
pub(super) struct Service {
    shelf: Arc<dyn Shelf>,
    readers: Readers,
}

impl Service {
    /// `readers` read what `shelf` holds.
    pub(super) fn new(shelf: Arc<dyn Shelf>, readers: Readers) -> Self {
        Self { shelf, readers }
    }

    /// What there is, with the columns as they are sent: dictionaries are written out.
    async fn look(&self) -> Result<Option<Contents>, Status> {
        let shelf = Arc::clone(&self.shelf);
        let contents = blocking(move || shelf.look()).await?;
        Ok(contents.map(|contents| {
            let encoder = FlightDataEncoderBuilder::new().with_schema(contents.schema.clone()).build(empty());
            Contents { schema: encoder.known_schema().unwrap_or(contents.schema), ..contents }
        }))
    }

    /// As [`Self::look`], once there is something.
    async fn contents(&self) -> Result<Contents, Status> {
        loop {
            match self.look().await? {
                Some(contents) => return Ok(contents),
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// What `descriptor` asks for: a file, or everything.
fn asked(descriptor: &FlightDescriptor) -> Result<Option<String>, Status> {
    match descriptor.r#type() {
        DescriptorType::Path if descriptor.path.iter().any(|name| !name.is_empty()) => {
            Ok(Some(descriptor.path.join("/")))
        }
        DescriptorType::Cmd if !descriptor.cmd.is_empty() => Err(Status::invalid_argument(
            "commands are not known here; ask for a path: `FlightDescriptor.for_path(\"\")`",
        )),
        _ => Ok(None),
    }
}

/// `contents` as `descriptor` asks for them.
fn info(contents: &Contents, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let file = asked(&descriptor)?;
    let wanted = |piece: &&Piece| file.as_ref().is_none_or(|file| piece.ticket.file == *file);
    let pieces: Vec<&Piece> = contents.pieces.iter().filter(wanted).collect();
    if let Some(file) = file.filter(|_| pieces.is_empty()) {
        return Err(Status::not_found(format!("no file `{file}` is served")));
    }
    let rows = pieces.iter().map(|piece| piece.rows).sum::<Option<u64>>();
    let rows = rows.and_then(|rows| i64::try_from(rows).ok()).unwrap_or(UNKNOWN);
    let endpoint = |piece: &Piece| FlightEndpoint::new().with_ticket(FlightTicket::new(piece.ticket.to_bytes()));
    let info = FlightInfo::new()
        .try_with_schema(&contents.schema)
        .map_err(|error| Status::internal(error.to_string()))?
        .with_endpoints(pieces.into_iter().map(endpoint).collect())
        .with_total_records(rows)
        .with_total_bytes(UNKNOWN)
        .with_ordered(true);
    Ok(info.with_descriptor(descriptor))
}

/// A number of rows or bytes that is not known, in the protocol.
const UNKNOWN: i64 = -1;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("rows can be read here, and nothing else"))
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = Stream<HandshakeResponse>;
    type ListFlightsStream = Stream<FlightInfo>;
    type DoGetStream = Stream<FlightData>;
    type DoPutStream = Stream<PutResult>;
    type DoActionStream = Stream<ActionResult>;
    type ListActionsStream = Stream<ActionType>;
    type DoExchangeStream = Stream<FlightData>;

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        let contents = self.look().await?;
        let everything = FlightDescriptor::new_path(vec![String::new()]);
        let flights: Vec<_> = contents.iter().map(|contents| info(contents, everything.clone())).collect();
        Ok(Response::new(iter(flights).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        info(&self.contents().await?, request.into_inner()).map(Response::new)
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        let contents = self.contents().await?;
        info(&contents, request.into_inner())?;
        let schema: Result<SchemaResult, ArrowError> =
            SchemaAsIpc::new(&contents.schema, &IpcWriteOptions::default()).try_into();
        schema.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }

    async fn do_get(&self, request: Request<FlightTicket>) -> Answer<Self::DoGetStream> {
        let from = request.remote_addr();
        let ticket = Ticket::parse(&request.into_inner().ticket).map_err(Status::invalid_argument)?;
        info!("{from:?} takes {ticket:?}");
        deliver(Arc::clone(&self.shelf), ticket, self.readers.clone()).await.map(Response::new)
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Ok(Response::new(empty().boxed()))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        not_here()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        not_here()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        not_here()
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        not_here()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        not_here()
    }
}
