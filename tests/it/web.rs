//! Files of a web server: read by ranges, read on where a body broke off, never with their URL's secrets in any output.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::harness::{Folder, repository};
use crate::proxy::{Fault, Proxy};
use crate::s3::rows;

/// Serves the files of `folder` on the port that is returned, for GET alone if `signed`, as signed URLs are.
fn serve(folder: PathBuf, signed: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read > 0) {
                head.push(byte[0]);
            }
            let answer = answer(&folder, &String::from_utf8_lossy(&head), signed);
            // A client that has gone away is no concern of ours.
            drop(client.write_all(&answer));
        }
    });
    port
}

fn answer(folder: &Path, head: &str, signed: bool) -> Vec<u8> {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
    let refuse = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    if signed && (method != "GET" || !target.contains("X-Amz-Signature=topsecret")) {
        return refuse("403 Forbidden").into();
    }
    let Ok(bytes) = std::fs::read(folder.join(path)) else { return refuse("404 Not Found").into() };
    let range =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let (status, part, extra) = match range.as_deref().and_then(|range| range.split_once('-')) {
        Some((start, end)) => {
            let start: usize = start.parse().unwrap();
            let end = end.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
            let extra = format!("Content-Range: bytes {start}-{end}/{}\r\n", bytes.len());
            ("206 Partial Content", &bytes[start..=end], extra)
        }
        None => ("200 OK", &bytes[..], String::new()),
    };
    let length = part.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"1\"\r\n{extra}Connection: close\r\n\r\n");
    if method == "HEAD" { head.into() } else { [head.as_bytes(), part].concat() }
}

fn pipeline(folder: &Folder, from: &str) -> String {
    let text = format!(
        "workdir: run\nstorage: {{ retry: {{ max_retries: 6, timeout: 20 }} }}\nstages:\n  \
         pairs: {{ read: {{ from: \"{from}\" }} }}\n  out: {{ write: {{ input: pairs, to: out }} }}\n"
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

#[test]
fn a_signed_url_is_read_and_never_shown() {
    let folder = Folder::new();
    let port = serve(repository().join("data/quickstart"), true);
    let url = |signature: &str| {
        format!("http://me:userinfo@127.0.0.1:{port}/train.parquet?X-Amz-Signature={signature}&X-Amz-Credential=AKIA0")
    };
    let file = pipeline(&folder, &url("topsecret"));
    let mut said = String::new();
    for arguments in [&["check", &file][..], &["plan", &file], &["run", &file, "--json"], &["run", &file]] {
        let output = folder.sepo(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        said += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    }
    let refused = pipeline(&folder, &url("guessedsecret"));
    said += &folder.fails(&["run", &refused], 1);
    assert!(said.contains("permission denied"), "{said}");
    let mut files = Vec::new();
    all_files(&folder.path("run"), &mut files);
    all_files(&folder.path("out"), &mut files);
    assert!(files.len() > 1);
    let kept: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
    for secret in ["topsecret", "guessedsecret", "userinfo", "AKIA0"] {
        assert!(!said.contains(secret), "{said}");
        assert!(!kept.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{secret}");
    }
}

fn all_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all_files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn a_body_that_breaks_off_is_fetched_again() {
    let folder = Folder::new();
    let proxy = Proxy::before(serve(repository().join("data/quickstart"), false));
    // Of every four requests one breaks in its body, one is reset, one is slow.
    proxy.plan(|request| match request.number % 4 {
        0 => Fault::Truncated,
        1 => Fault::Reset,
        2 => Fault::Slow,
        _ => Fault::None,
    });
    let whole = repository().join("data/quickstart/train.parquet");
    folder.succeeds(&["run", &pipeline(&folder, whole.to_str().unwrap())]);
    let out = || rows(folder.path("out").to_str().unwrap().to_owned());
    let expected = out();
    let url = format!("http://127.0.0.1:{}/train.parquet", proxy.port);
    folder.succeeds(&["run", &pipeline(&folder, &url)]);
    assert!(proxy.broken() > 2);
    let read = out();
    for name in ["prompt", "chosen", "rejected"] {
        assert_eq!(read.column_by_name(name), expected.column_by_name(name), "{name}");
    }
}

#[test]
fn a_server_that_stays_away_ends_the_run_with_75() {
    let folder = Folder::new();
    let proxy = Proxy::before(1);
    proxy.plan(|_| Fault::Status(503));
    let file = pipeline(&folder, &format!("http://127.0.0.1:{}/train.parquet", proxy.port));
    let start = std::time::Instant::now();
    let stderr = folder.fails(&["run", &file], 75);
    assert!(stderr.contains("train.parquet: 503") && stderr.contains("run the same command again"), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(25));
}

#[test]
fn what_cannot_be_had_from_a_web_server_is_said() {
    let folder = Folder::new();
    let port = serve(repository().join("data/quickstart"), false);
    let missing = pipeline(&folder, &format!("http://127.0.0.1:{port}/nothing.parquet"));
    let stderr = folder.fails(&["run", &missing], 78);
    assert!(stderr.contains("nothing.parquet: no such file"), "{stderr}");
    let url = format!("http://127.0.0.1:{port}/train.parquet");
    let text = std::fs::read_to_string(pipeline(&folder, &url)).unwrap();
    let file = folder.write("w.yaml", &text.replace("to: out", &format!("to: \"http://127.0.0.1:{port}/out\"")));
    let stderr = folder.fails(&["run", file.to_str().unwrap()], 1);
    assert!(stderr.contains("http:// and https:// can only be read"), "{stderr}");
}
