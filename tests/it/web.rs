//! Files of a web server: read by ranges, read on where a body broke off, never with their URL's secrets in any output.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use chrono::{DateTime, Utc};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use sepo::columns::lists::from_rows;

use crate::harness::{Folder, repository};
use crate::inputs::{parquet, versions};
use crate::proxy::{Fault, Proxy};
use crate::s3::rows;

/// Serves the files of `folder` on the port that is returned, for GET alone if `signed`, as signed URLs are.
fn serve(folder: PathBuf, signed: bool) -> u16 {
    serve_counted(folder, signed, Arc::default())
}

/// [`serve`]; `sent` counts the bytes.
fn serve_counted(folder: PathBuf, signed: bool, sent: Arc<AtomicUsize>) -> u16 {
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
            sent.fetch_add(answer.len(), Ordering::Relaxed);
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
    if path.contains("redirected") && head.to_ascii_lowercase().contains("\r\nif-match:") {
        return refuse("412 Precondition Failed").into();
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
    // Servers tell versions of a file apart by a tag, or by the time alone.
    let version = match path.contains("dated") {
        true => {
            let modified = std::fs::metadata(folder.join(path)).unwrap().modified().unwrap();
            format!("Last-Modified: {}", DateTime::<Utc>::from(modified).format("%a, %d %b %Y %H:%M:%S GMT"))
        }
        false => format!("ETag: \"{}\"", blake3::hash(&bytes).to_hex()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{version}\r\n{extra}Connection: close\r\n\r\n");
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
fn a_server_that_says_when_to_come_again_is_asked_then() {
    let folder = Folder::new();
    let proxy = Proxy::before(serve(repository().join("data/quickstart"), false));
    // The proxy's refusals say `Retry-After: 1`; the first pause alone would be a tenth of that.
    proxy.plan(|request| if request.number == 0 { Fault::Status(503) } else { Fault::None });
    let file = pipeline(&folder, &format!("http://127.0.0.1:{}/train.parquet", proxy.port));
    let start = std::time::Instant::now();
    folder.succeeds(&["check", &file]);
    assert_eq!(proxy.broken(), 1);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

/// 40,000 rows in one row group of many pages: an ascending number, token ids, and 20 MB of a text that stays large.
fn paged(folder: &Folder) {
    const ROWS: usize = 40_000;
    let random = |seed: usize| blake3::hash(&seed.to_le_bytes()).to_hex().repeat(8);
    let ids = || from_rows::<Int32Type>((0..ROWS).map(|row| [row as i32 % 90 + 1]));
    let columns: [(&str, ArrayRef); 5] = [
        ("number", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
        ("text", Arc::new(StringArray::from_iter_values((0..ROWS).map(random)))),
        ("prompt_ids", ids()),
        ("chosen_ids", ids()),
        ("rejected_ids", from_rows::<Int32Type>((0..ROWS).map(|_| [99]))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_data_page_row_count_limit(1000).set_write_batch_size(500).build();
    let file = std::fs::File::create(folder.path("paged.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    assert_eq!(writer.close().unwrap().num_row_groups(), 1);
}

#[test]
fn only_the_pages_and_columns_that_are_wanted_are_fetched() {
    let folder = Folder::new();
    paged(&folder);
    let whole = std::fs::metadata(folder.path("paged.parquet")).unwrap().len() as usize;
    assert!(whole > 20 << 20, "{whole}");
    let read = |options: &str| {
        let sent = Arc::new(AtomicUsize::new(0));
        let port = serve_counted(folder.path(""), false, sent.clone());
        let text = format!(
            "workdir: run\nallow_empty: true\nstages:\n  rows: {{ read: {{ from: \"http://127.0.0.1:{port}/paged.parquet\"{options} }} }}\n  \
             out: {{ write: {{ input: rows, to: out }} }}\n"
        );
        let file = folder.write("p.yaml", &text);
        folder.succeeds(&["run", file.to_str().unwrap()]);
        (rows(folder.path("out").to_str().unwrap().to_owned()), sent.load(Ordering::Relaxed))
    };
    let (all, sent) = read("");
    assert_eq!((all.num_rows(), sent > whole), (40_000, true));
    let (selected, sent) = read(", select: [number]");
    assert_eq!(selected.column_by_name("number"), all.column_by_name("number"));
    assert!(selected.column_by_name("text").is_none() && sent < whole / 20, "{sent} of {whole}");

    let (pages, sent) = read(", where: \"number >= 12345 AND number < 14321\"");
    let expected = all.slice(12345, 14321 - 12345);
    for name in ["number", "text", "chosen_ids"] {
        assert_eq!(pages.column_by_name(name).unwrap(), expected.column_by_name(name).unwrap(), "{name}");
    }
    assert!(sent < whole / 5, "{sent} of {whole}");
    // A row keeps its number in the file.
    let id = |rows: &RecordBatch| rows.column_by_name("row_id").unwrap().as_string::<i32>().value(0).to_owned();
    assert!(id(&pages).ends_with("paged.parquet:12346"), "{}", id(&pages));
    let (none, _) = read(", where: \"number < 0\"");
    assert_eq!(none.num_rows(), 0);
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

#[test]
fn a_file_that_a_server_replaces_in_mid_run_is_named() {
    for (name, difference) in
        [("tagged.parquet", "its ETag is another"), ("dated.parquet", "its Last-Modified is another")]
    {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("served")).unwrap();
        let (path, new) = (folder.path("served").join(name), folder.path("new.parquet"));
        parquet(&path, 1, 8000);
        parquet(&new, 2, 8000);
        let later = std::time::SystemTime::now() + Duration::from_secs(60);
        std::fs::File::options().write(true).open(&new).unwrap().set_modified(later).unwrap();
        let proxy = Proxy::before(serve(folder.path("served"), false));
        // The footer is the first range, and every row group another one.
        let (mut ranges, at) = (0, path.clone());
        proxy.plan(move |request| {
            ranges += usize::from(request.method == "GET");
            if ranges == 4 && new.exists() {
                std::fs::rename(&new, &at).unwrap();
            }
            Fault::None
        });
        let file = pipeline(&folder, &format!("http://127.0.0.1:{}/{name}", proxy.port));
        let stderr = folder.fails(&["run", &file], 1);
        assert!(stderr.contains(&format!("{name}: the file changed since this run opened it: ")), "{stderr}");
        assert!(stderr.contains(difference) && stderr.contains("run the same command again"), "{stderr}");
        assert!(!folder.path("out").exists());
        folder.succeeds(&["run", &file]);
        assert_eq!(versions(&folder).into_iter().collect::<Vec<_>>(), [2]);
    }
}

#[test]
fn a_server_that_refuses_a_condition_is_not_asked_again() {
    let folder = Folder::new();
    let proxy = Proxy::before(serve(repository().join("data/quickstart"), false));
    proxy.plan(|request| if request.method == "GET" { Fault::Status(412) } else { Fault::None });
    let file = pipeline(&folder, &format!("http://127.0.0.1:{}/train.parquet", proxy.port));
    let stderr = folder.fails(&["run", &file], 1);
    assert!(
        stderr.contains("train.parquet: the file changed since this run opened it: the store has another"),
        "{stderr}"
    );
    // A reader of Parquet looks for the footer in two ways, each with the condition and without. What is tried again is
    // tried seven times.
    assert!(proxy.broken() <= 4, "{}", proxy.broken());

    // A server that holds the condition against something else than the file.
    std::fs::copy(repository().join("data/quickstart/train.parquet"), folder.path("redirected.parquet")).unwrap();
    let port = serve(folder.path(""), false);
    folder.succeeds(&["run", &pipeline(&folder, &format!("http://127.0.0.1:{port}/redirected.parquet"))]);
}
