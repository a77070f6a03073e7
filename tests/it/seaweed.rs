//! A SeaweedFS server on free ports of this machine: the S3 store of the tests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::harness::Folder;

/// What an unhindered test may do in its bucket, and what somebody may who can only look.
const IDENTITIES: &str = r#"{"identities": [
  {"name": "rw", "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
   "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
  {"name": "ro", "credentials": [{"accessKey": "rokey", "secretKey": "rosecret"}], "actions": ["Read", "List"]}]}"#;

/// Ends the server and removes its files when its stdin closes, which happens however the tests end.
const GUARD: &str = r#""$0" "$@" >"$FOLDER/log" 2>&1 & pid=$!; read -r _; kill -9 $pid; rm -rf "$FOLDER" $SOCKETS"#;

pub(crate) struct Server {
    pub(crate) s3: u16,
    filer: u16,
    /// Holds the pipe that keeps the server running.
    _guard: Child,
}

/// The server, if there is one: `SEPO_WEED` names its program. With `SEPO_REQUIRE_SERVERS` a missing one is an error.
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Result<Server, String>>> = OnceLock::new();
    let server = SERVER.get_or_init(|| std::env::var("SEPO_WEED").ok().map(|weed| start(&weed)));
    let server = server.as_ref().map(|server| server.as_ref().unwrap_or_else(|log| panic!("no SeaweedFS:\n{log}")));
    if server.is_none() {
        assert!(std::env::var_os("SEPO_REQUIRE_SERVERS").is_none(), "SEPO_WEED does not name SeaweedFS's program");
        // Written directly, since what a passing test prints is not shown.
        let skipped = "SKIPPED: no S3 server; set SEPO_WEED to what tests/servers/seaweedfs.sh prints";
        let _ = writeln!(std::io::stderr(), "{skipped}");
    }
    server
}

/// A port that is free, as is the one 10,000 above, which SeaweedFS takes too.
fn port() -> u16 {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let port = 10_000 + port % 20_000;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

fn start(weed: &str) -> Result<Server, String> {
    let folder = tempfile::tempdir().unwrap().keep();
    std::fs::write(folder.join("s3.json"), IDENTITIES).unwrap();
    let [master, volume, filer, s3] = std::array::from_fn(|_| port());
    let sockets = [master, volume, filer, s3].map(|port| {
        let grpc = port + 10_000;
        format!("/tmp/seaweedfs-*-{port}.sock /tmp/seaweedfs-*-{grpc}.sock")
    });
    let guard = Command::new("sh")
        .args(["-c", GUARD, weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"])
        .args(["-filer", "-s3", "-volume.max=500", "-master.volumeSizeLimitMB=64"])
        // Further services, which would take fixed ports.
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .args([format!("-dir={}", folder.display()), format!("-s3.config={}/s3.json", folder.display())])
        .args([format!("-master.port={master}"), format!("-volume.port={volume}")])
        .args([format!("-filer.port={filer}"), format!("-s3.port={s3}")])
        .env("FOLDER", &folder)
        .env("SOCKETS", sockets.join(" "))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let server = Server { s3, filer, _guard: guard };
    let start = Instant::now();
    let up = || server.request(s3, "GET", "/", b"").is_some_and(|answer| answer.starts_with(b"HTTP/1.1 403"));
    // The first writes wait for the first volume.
    while !(up() && server.put("warm/up", b"x")) {
        if start.elapsed() > Duration::from_secs(60) {
            return Err(std::fs::read_to_string(folder.join("log")).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(server)
}

impl Server {
    fn request(&self, port: u16, method: &str, path: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(answer)
    }

    /// Puts a file under `path`, the first part of which is its bucket.
    pub(crate) fn put(&self, path: &str, bytes: &[u8]) -> bool {
        // While a bucket's first volume grows, a write may be refused.
        (0..5).any(|tries| {
            std::thread::sleep(Duration::from_millis(tries * 300));
            let answer = self.request(self.filer, "PUT", &format!("/buckets/{path}"), bytes);
            answer.is_some_and(|answer| answer.starts_with(b"HTTP/1.1 201"))
        })
    }

    /// A URL under which the file `path` can be read without credentials.
    pub(crate) fn open_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/buckets/{path}", self.filer)
    }

    /// `sepo run` of `file` in `folder` with this server's credentials.
    pub(crate) fn sepo(&self, folder: &Folder, file: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sepo"));
        command.args(["run", file]).current_dir(folder.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("AWS_ACCESS_KEY_ID", "testkey").env("AWS_SECRET_ACCESS_KEY", "testsecret");
        command.env("SEPO_CACHE", folder.path("cache")).env("NO_PROXY", "127.0.0.1");
        command
    }
}
