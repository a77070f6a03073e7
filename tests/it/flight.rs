//! `sepo serve` as its clients see it: the rows of the files, tickets that go on, a stage of a run that is not finished, who is let in, and
//! clients that are slow or gone. tests/peers/flight.py asks the same of pyarrow.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightClient, FlightDescriptor, FlightInfo, Ticket};
use futures::{StreamExt, TryStreamExt};
use sepo::columns::row_as_json;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::Channel;

use crate::formats::rows_of;
use crate::harness::{Folder, repository};

/// A server that ends with the test.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start(folder: &Folder, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sepo"))
            .current_dir(folder.path(""))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("grpc"), "no server: {url:?}");
        Self { child, url: url.trim().to_owned() }
    }

    async fn client(&self) -> FlightClient {
        let address = self.url.replace("grpc://", "http://");
        FlightClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
    }

    /// Asks it to stop; its exit code and what it said.
    fn stop(mut self) -> (Option<i32>, String) {
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap().success());
        let mut said = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json_of(batches: &[RecordBatch]) -> Vec<Value> {
    let text: Vec<String> = batches.iter().map(row_as_json).collect();
    text.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn everything() -> FlightDescriptor {
    FlightDescriptor::new_path(Vec::new())
}

fn tickets(info: &FlightInfo) -> Vec<Ticket> {
    info.endpoint.iter().map(|endpoint| endpoint.ticket.clone().unwrap()).collect()
}

async fn take(client: &mut FlightClient, ticket: Ticket) -> Result<Vec<RecordBatch>, FlightError> {
    client.do_get(ticket).await?.try_collect().await
}

async fn take_all(client: &mut FlightClient, tickets: impl IntoIterator<Item = Ticket>) -> Vec<Value> {
    let mut rows = Vec::new();
    for ticket in tickets {
        rows.extend(json_of(&take(client, ticket).await.unwrap()));
    }
    rows
}

fn code<T>(outcome: Result<T, FlightError>) -> Code {
    match outcome.map(drop) {
        Err(FlightError::Tonic(status)) => status.code(),
        other => panic!("{other:?}"),
    }
}

/// Two files of token ids below `data`, the first with several row groups, and one that is not served.
fn dataset(folder: &Folder) {
    let rows = |name: &str, count: usize| {
        let row = |row: usize| json!({"row_id": row, "prompt_ids": [1, 2], "chosen_ids": vec![row % 90; 200], "rejected_ids": [3]});
        let text: String = (0..count).map(|number| format!("{}\n", row(number))).collect();
        folder.write(&format!("{name}.jsonl"), &text);
        let text = format!(
            "workdir: made/{name}\nstages:\n  rows: {{ read: {{ from: {name}.jsonl }} }}\n  \
             out: {{ write: {{ input: rows, to: {name} }} }}\n"
        );
        folder.write("write.yaml", &text);
        folder.succeeds(&["run", "write.yaml"]);
    };
    rows("long", 9000);
    rows("short", 3);
    std::fs::create_dir_all(folder.path("data/sub")).unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(folder.path(from), folder.path(to)).map(|_| ()).unwrap();
    copy("long/train-00000-of-00001.parquet", "data/a.parquet");
    copy("short/train-00000-of-00001.parquet", "data/sub/b.parquet");
    copy("short/train-00000-of-00001.parquet", "secret.parquet");
}

#[test]
fn rows_are_those_of_the_files_and_tickets_go_on_where_a_client_stopped() {
    let folder = Folder::new();
    dataset(&folder);
    let server = Served::start(&folder, &["data"]);
    let expected = rows_of(&folder.path("data"));
    Runtime::new().unwrap().block_on(async {
        let client = &mut server.client().await;
        let info = client.get_flight_info(everything()).await.unwrap();
        assert_eq!((info.total_records, info.ordered), (9003, true));
        let tickets = tickets(&info);
        assert!(tickets.len() > 3, "{tickets:?}");
        assert_eq!(take_all(client, tickets.clone()).await, expected);
        let resumed = take_all(client, tickets[2..].to_vec()).await;
        assert_eq!(resumed, expected[expected.len() - resumed.len()..]);

        let schema = client.get_schema(everything()).await.unwrap();
        assert_eq!(schema, info.clone().try_decode_schema().unwrap());
        assert!(schema.metadata().contains_key("huggingface"), "{schema:?}");
        let flights: Vec<FlightInfo> = client.list_flights("").await.unwrap().try_collect().await.unwrap();
        assert_eq!(flights.iter().map(|flight| flight.total_records).collect::<Vec<_>>(), [9003]);
        let one = FlightDescriptor::new_path(vec!["sub".into(), "b.parquet".into()]);
        assert_eq!(client.get_flight_info(one).await.unwrap().total_records, 3);

        // Tickets that clients make themselves.
        let made = |text: &str| Ticket::new(text.to_owned());
        assert_eq!(take_all(client, [made(r#"{"file": "sub/b.parquet"}"#)]).await, expected[9000..]);
        for outside in ["../secret.parquet", "secret.parquet", "/etc/passwd", "sub/../a.parquet", "./a.parquet", ""] {
            let ticket = Ticket::new(json!({ "file": outside }).to_string());
            assert_eq!(code(take(client, ticket).await), Code::NotFound, "{outside}");
        }
        let beyond = made(r#"{"file": "a.parquet", "groups": {"start": 0, "end": 99}}"#);
        assert_eq!(code(take(client, beyond).await), Code::NotFound);
        assert_eq!(code(take(client, made("a.parquet")).await), Code::InvalidArgument);
        let nothing = FlightDescriptor::new_path(vec!["secret.parquet".into()]);
        assert_eq!(code(client.get_flight_info(nothing).await), Code::NotFound);
        assert_eq!(code(client.get_flight_info(FlightDescriptor::new_cmd("SELECT 1")).await), Code::InvalidArgument);
        assert_eq!(code(client.do_put(futures::stream::empty()).await), Code::Unimplemented);
    });
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said, "data: 9003 rows in 2 files\nstopping\n");
}

#[test]
fn a_link_that_leads_out_is_not_served() {
    let folder = Folder::new();
    dataset(&folder);
    std::os::unix::fs::symlink(folder.path("secret.parquet"), folder.path("data/link.parquet")).unwrap();
    let said = folder.fails(&["serve", "--listen", "127.0.0.1:0", "data"], 1);
    assert!(said.contains("link.parquet: is a link out of data"), "{said}");
}

#[test]
fn slow_and_vanished_clients_take_nothing_from_others() {
    let folder = Folder::new();
    dataset(&folder);
    let server = Served::start(&folder, &["data", "--streams", "2"]);
    let expected = rows_of(&folder.path("data"));
    Runtime::new().unwrap().block_on(async {
        let client = &mut server.client().await;
        let tickets = tickets(&client.get_flight_info(everything()).await.unwrap());
        let slow_client = &mut server.client().await;
        let whole = Ticket::new(r#"{"file": "a.parquet"}"#);
        let mut slow = slow_client.do_get(whole.clone()).await.unwrap();
        let first = slow.next().await.unwrap().unwrap();
        // The other one gets everything while the first one waits.
        assert_eq!(take_all(client, tickets.clone()).await, expected);
        let more = &mut server.client().await;
        let held = more.do_get(whole.clone()).await.unwrap();
        assert_eq!(code(take(client, whole.clone()).await), Code::ResourceExhausted);
        // A client that goes away gives its reader back.
        drop(held);
        let mut freed = false;
        for _ in 0..100 {
            freed = take(client, whole.clone()).await.is_ok();
            if freed {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(freed);
        let rest: Vec<RecordBatch> = slow.try_collect().await.unwrap();
        assert_eq!([json_of(&[first]), json_of(&rest)].concat(), expected[..9000]);
    });
    assert_eq!(server.stop().0, Some(0));
}

/// A row group of 128 MiB, as other programs write them, of numbers that do not compress.
#[cfg(target_os = "linux")]
fn large_group(folder: &Folder) -> usize {
    use arrow::array::{ArrayRef, Float32Array, ListArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field};
    use std::sync::Arc;

    let (rows, length) = (8192, 1024);
    let mut state = 1_u32;
    let mut lists = |rows: usize| -> ArrayRef {
        let values = (0..rows * length).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32
        });
        let element = Arc::new(Field::new("element", DataType::Float32, true));
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(length, rows));
        Arc::new(ListArray::new(element, offsets, Arc::new(Float32Array::from_iter_values(values)), None))
    };
    let mut batch = |rows| RecordBatch::try_from_iter(["a", "b", "c", "d"].map(|name| (name, lists(rows)))).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(None).build();
    let file = std::fs::File::create(folder.path("large.parquet")).unwrap();
    let first = batch(1024);
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, first.schema(), Some(properties)).unwrap();
    writer.write(&first).unwrap();
    (1..rows / 1024).for_each(|_| writer.write(&batch(1024)).unwrap());
    assert_eq!(writer.close().unwrap().num_row_groups(), 1);
    rows
}

#[cfg(target_os = "linux")]
#[test]
fn a_stream_holds_a_small_part_of_a_large_row_group() {
    let folder = Folder::new();
    let rows = large_group(&folder);
    let server = Served::start(&folder, &["large.parquet"]);
    let resident = |what: &str| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let before = resident("VmRSS");
    Runtime::new().unwrap().block_on(async {
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut client = server.client().await;
            let mut stream = client.do_get(Ticket::new(r#"{"file": "large.parquet"}"#)).await.unwrap();
            let first = stream.next().await.unwrap().unwrap().num_rows();
            streams.push((client, stream, first));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held = resident("VmRSS") - before;
        // It was 400 MiB while streams held windows of 8 MiB of every column and had a thread each.
        assert!(held < 200, "{held} MiB for four streams of a group of 128 MiB");
        let counts = streams.into_iter().map(async |(_client, stream, first)| {
            stream.try_fold(first, async |rows, batch| Ok(rows + batch.num_rows())).await.unwrap()
        });
        assert_eq!(futures::future::join_all(counts).await, [rows; 4]);
        let most = resident("VmHWM") - before;
        assert!(most < 240, "{most} MiB");
    });
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn only_the_token_opens_and_other_machines_need_one() {
    let folder = Folder::new();
    dataset(&folder);
    folder.write("token", "a long secret\n");
    folder.write("empty", "\n");
    let server = Served::start(&folder, &["data", "--token-file", "token"]);
    Runtime::new().unwrap().block_on(async {
        for (header, expected) in
            [(None, false), (Some("Bearer a long secre"), false), (Some("Bearer a long secret"), true)]
        {
            let client = &mut server.client().await;
            if let Some(header) = header {
                client.add_header("authorization", header).unwrap();
            }
            let info = client.get_flight_info(everything()).await;
            let rows = take(client, Ticket::new(r#"{"file": "sub/b.parquet"}"#)).await;
            if expected {
                assert_eq!((info.unwrap().total_records, json_of(&rows.unwrap()).len()), (9003, 3));
            } else {
                assert_eq!((code(info), code(rows)), (Code::Unauthenticated, Code::Unauthenticated));
            }
        }
    });
    let (_, said) = server.stop();
    assert!(!said.contains("secret"), "{said}");
    let said = folder.fails(&["serve", "data", "--listen", "0.0.0.0:0"], 2);
    assert!(said.contains("no token is set: give --token-file or SEPO_FLIGHT_TOKEN"), "{said}");
    let said = folder.fails(&["serve", "data", "--token-file", "empty"], 1);
    assert!(said.contains("empty: holds no token"), "{said}");
    let said =
        folder.fails(&["serve", "data", "--tls-cert", "token", "--tls-key", "token", "--listen", "127.0.0.1:0"], 1);
    assert!(said.contains("grpc+tls://127.0.0.1:0: "), "{said}");
}

/// Scores four files, each of them one unit.
fn scoring(folder: &Folder) {
    std::fs::create_dir(folder.path("rows")).unwrap();
    for file in 0..4 {
        let row = |row: i32| json!({"prompt_ids": [file + 1], "chosen_ids": [row, 4], "rejected_ids": [5, row]});
        let rows: String = (0..=file).map(|number| format!("{}\n", row(number))).collect();
        folder.write(&format!("rows/{file}.jsonl"), &rows);
    }
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    let text = format!(
        "workdir: run\nmodels: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: rows }} }}\n  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         out: {{ write: {{ input: scored, to: out }} }}\n",
        fixture("llama-tied"),
        fixture("llama-untied")
    );
    folder.write("p.yaml", &text);
}

#[test]
fn a_stage_is_served_while_its_run_goes_on() {
    let folder = Folder::new();
    scoring(&folder);
    folder.succeeds(&["run", "p.yaml", "--units", "1/2"]);
    let server = Served::start(&folder, &["run", "--stage", "scored"]);
    let rows = Runtime::new().unwrap().block_on(async {
        let client = &mut server.client().await;
        let info = client.get_flight_info(everything()).await.unwrap();
        assert_eq!((info.endpoint.len(), info.total_records), (4, -1));
        let tickets = tickets(&info);
        // Units 0 and 2 are there.
        let mut rows = take_all(client, tickets[..1].to_vec()).await;
        let soon = tokio::time::timeout(Duration::from_millis(1500), take(client, tickets[1].clone())).await;
        assert!(soon.is_err(), "unit 1 is not finished: {soon:?}");
        let client = &mut server.client().await;
        let reading = take_all(client, tickets[1..].to_vec());
        let running = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| folder.succeeds(&["run", "p.yaml", "--units", "2/2"]));
        };
        let (rest, ()) = futures::future::join(reading, running).await;
        rows.extend(rest);
        let client = &mut server.client().await;
        assert_eq!(client.get_flight_info(everything()).await.unwrap().total_records, 10);
        for outside in ["part-00004", "part-0", "../p.yaml", "part-00000-x.parquet"] {
            let ticket = Ticket::new(json!({ "file": outside }).to_string());
            assert_eq!(code(take(client, ticket).await), Code::NotFound, "{outside}");
        }
        rows
    });
    assert_eq!(rows, rows_of(&folder.path("out")));
    let (code, said) = server.stop();
    assert_eq!(code, Some(0));
    assert!(said.contains("stage `scored@") && said.contains("`: 2 of 4 units are finished\n"), "{said}");
}

#[test]
fn a_stage_has_to_be_one() {
    let folder = Folder::new();
    scoring(&folder);
    let said = folder.fails(&["serve", "rows", "--stage", "scored", "--listen", "127.0.0.1:0"], 1);
    assert!(said.contains("rows: is not the workdir of a run"), "{said}");
    folder.succeeds(&["run", "p.yaml"]);
    let text = std::fs::read_to_string(folder.path("p.yaml")).unwrap();
    folder.write("p.yaml", &text.replace("oracle: a, reference: b", "oracle: b, reference: a"));
    folder.succeeds(&["run", "p.yaml"]);
    let said = folder.fails(&["serve", "run", "--stage", "scored", "--listen", "127.0.0.1:0"], 1);
    let names: Vec<&str> = said.split('`').filter(|name| name.starts_with("scored@")).collect();
    assert!(said.contains("under several settings") && names.len() == 2, "{said}");
    let server = Served::start(&folder, &["run", "--stage", names[0]]);
    let (_, said) = server.stop();
    assert!(said.starts_with(&format!("stage `{}`: 4 of 4 units are finished", names[0])), "{said}");
    let server = Served::start(&folder, &["run", "--stage", "keyed"]);
    let (_, said) = server.stop();
    assert!(said.contains("waiting for stage `keyed`; stages with rows in run: scored"), "{said}");
}
