//! A proxy that stands before a store and breaks requests as it is told: the faults that real networks and stores have.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The connection is reset; the store never sees the request.
    Reset,
    /// The store does what it was asked, but the connection ends before its answer.
    Lost,
    /// An answer of this status instead of the store's.
    Status(u16),
    /// The answer's body ends in the middle.
    Truncated,
    /// The answer comes this much later.
    Late(Duration),
    /// The answer's body comes in small pieces.
    Slow,
}

/// What the fault depends on.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// From 0.
    pub(crate) number: u64,
}

type Plan = Box<dyn FnMut(&Request) -> Fault + Send>;

/// A running proxy; its threads end with the process.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    plan: Arc<Mutex<Plan>>,
    broken: Arc<AtomicU64>,
}

impl Proxy {
    /// A proxy before the server on `upstream`, which does nothing yet.
    pub(crate) fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan: Arc<Mutex<Plan>> = Arc::new(Mutex::new(Box::new(|_| Fault::None)));
        let (broken, number) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let proxy = Self { port, plan: plan.clone(), broken: broken.clone() };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (plan, broken, number) = (plan.clone(), broken.clone(), number.clone());
                thread::spawn(move || {
                    let decide = |method: &str, path: &str| {
                        let number = number.fetch_add(1, Ordering::SeqCst);
                        let request = Request { method: method.into(), path: path.into(), number };
                        let fault = plan.lock().unwrap()(&request);
                        let counts = !matches!(fault, Fault::None | Fault::Late(_) | Fault::Slow);
                        broken.fetch_add(u64::from(counts), Ordering::SeqCst);
                        fault
                    };
                    // A connection that broke is the client's business.
                    drop(pass(client, upstream, decide));
                });
            }
        });
        proxy
    }

    /// From now on, `plan` decides.
    pub(crate) fn plan(&self, plan: impl FnMut(&Request) -> Fault + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// Requests that were broken so far.
    pub(crate) fn broken(&self) -> u64 {
        self.broken.load(Ordering::SeqCst)
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// One request and its answer; the connection ends with it.
fn pass(mut client: TcpStream, upstream: u16, decide: impl FnOnce(&str, &str) -> Fault) -> std::io::Result<()> {
    let mut seen = vec![0; 64 << 10];
    let head = loop {
        let length = client.peek(&mut seen)?;
        match end_of_head(&seen[..length]) {
            Some(end) => break String::from_utf8_lossy(&seen[..end]).into_owned(),
            None if length == 0 => return Ok(()),
            None => sleep(Duration::from_millis(1)),
        }
    };
    let mut words = head.split(' ');
    let fault = decide(words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if fault == Fault::Reset {
        // Closed with bytes unread: the kernel answers with a reset.
        return Ok(());
    }
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut request = vec![0; head.len() + length];
    client.read_exact(&mut request)?;
    if let Fault::Status(status) = fault {
        let answer =
            format!("HTTP/1.1 {status} Fault\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let others: Vec<&str> =
        head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    server.write_all(format!("{}\r\nConnection: close\r\n\r\n", others.join("\r\n")).as_bytes())?;
    server.write_all(&request[head.len()..])?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let body = end_of_head(&answer).unwrap_or(answer.len());
    match fault {
        Fault::Lost => return Ok(()),
        Fault::Truncated => answer.truncate(body + (answer.len() - body) / 2),
        Fault::Late(by) => sleep(by),
        Fault::Slow => {
            for piece in answer.chunks(answer.len() / 20 + 1) {
                client.write_all(piece)?;
                sleep(Duration::from_millis(10));
            }
            return Ok(());
        }
        _ => {}
    }
    client.write_all(&answer)
}
