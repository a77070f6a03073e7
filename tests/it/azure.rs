//! A run on Azure's blobs, as Azurite serves them: killed and taken up again, it ends with the rows of an unbroken local
//! run.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::Folder;
use crate::s3::{assert_same, finish, pipeline, rows, sources};

/// Signs requests to the account that every Azurite has until the year 2099. Its key is public:
/// <https://learn.microsoft.com/azure/storage/common/storage-connect-azurite>.
const SIGNATURE: &str = "sv=2020-08-04&ss=b&srt=sco&sp=rwlc&se=2099-01-01T00%3A00%3A00Z&spr=https%2Chttp\
                         &sig=w75oNILraCl18f%2B8MLghbXagZkYMqwhYiRYJXpPuauQ%3D";

struct Azurite {
    port: u16,
    process: Child,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing more to do then.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Azurite {
    /// The server, if there is one: `SEPO_AZURITE` names its program. With `SEPO_REQUIRE_SERVERS` a missing one is an
    /// error.
    fn start(folder: &Folder) -> Option<Self> {
        let Ok(program) = std::env::var("SEPO_AZURITE") else {
            assert!(std::env::var_os("SEPO_REQUIRE_SERVERS").is_none(), "SEPO_AZURITE does not name Azurite's program");
            // Written directly, since what a passing test prints is not shown.
            let skipped = "SKIPPED: no Azure server; set SEPO_AZURITE to what tests/servers/azurite.sh prints";
            let _ = writeln!(std::io::stderr(), "{skipped}");
            return None;
        };
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let process = Command::new(program)
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1"])
            .args(["--blobPort", &port.to_string(), "--location", folder.path("azurite").to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { port, process };
        let start = Instant::now();
        while !server.put("runs?restype=container", &[], b"") {
            assert!(start.elapsed() < Duration::from_secs(60), "Azurite does not answer");
            sleep(Duration::from_millis(200));
        }
        Some(server)
    }

    fn put(&self, path: &str, headers: &[&str], body: &[u8]) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let join = if path.contains('?') { '&' } else { '?' };
        let (port, length) = (self.port, body.len());
        let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let head = format!(
            "PUT /devstoreaccount1/{path}{join}{SIGNATURE} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer.starts_with(b"HTTP/1.1 201")
    }

    fn sepo(&self, folder: &Folder, file: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_sepo"))
            .args(["run", file])
            .current_dir(folder.path(""))
            .env("AZURE_STORAGE_USE_EMULATOR", "true")
            .env("AZURITE_BLOB_STORAGE_URL", format!("http://127.0.0.1:{}", self.port))
            .env("NO_PROXY", "127.0.0.1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

#[test]
fn killed_and_taken_up_again_it_ends_with_the_same_rows() {
    let folder = Folder::new();
    let Some(server) = Azurite::start(&folder) else { return };
    std::fs::create_dir(folder.path("rows")).unwrap();
    for (name, text) in sources() {
        folder.write(&format!("rows/{name}"), &text);
        assert!(server.put(&format!("runs/rows/{name}"), &["x-ms-blob-type: BlockBlob"], text.as_bytes()));
    }
    folder.succeeds(&["run", &pipeline(&folder, "local", "rows", "local", None)]);
    let file = pipeline(&folder, "p", "az://runs/rows", "az://runs/run", None);
    let mut unfinished = 0;
    for milliseconds in [500, 700, 900] {
        let mut child = server.sepo(&folder, &file);
        sleep(Duration::from_millis(milliseconds));
        unfinished += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(unfinished > 0, "nothing was broken");
    finish(server.sepo(&folder, &file), 0);
    let account = format!("http://127.0.0.1:{}/devstoreaccount1", server.port);
    let written = rows(format!("{account}/runs/run/scored/train-00000-of-00001.parquet?{SIGNATURE}"));
    assert_same(&written, &rows(folder.path("local/scored").to_str().unwrap().to_owned()));
}
