//! No key, token, password or signature in the log, whatever of it is asked for: HTTP clients print headers and URLs.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use crate::harness::Folder;

/// What nobody may read.
const SECRETS: [&str; 6] =
    ["AKIATESTKEY", "verysecretkey", "sessiontoken", "hubtoken", "passwordinurl", "urlsignature"];

/// A server that refuses everything, as `http://127.0.0.1:PORT`.
fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            // A body that echoes the request, as S3's own does.
            let body = format!("<Error><Code>SignatureDoesNotMatch</Code><Echo>{}</Echo></Error>", head.join(" "));
            let answer =
                format!("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    endpoint
}

/// Exit code and stderr of `sepo` with all of the log and `variables`.
fn run(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sepo"));
    for variable in ["HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        command.env_remove(variable);
    }
    command.envs([
        ("RUST_LOG", "trace"),
        ("AWS_ACCESS_KEY_ID", SECRETS[0]),
        ("AWS_SECRET_ACCESS_KEY", SECRETS[1]),
        ("AWS_SESSION_TOKEN", SECRETS[2]),
        ("AWS_ALLOW_HTTP", "true"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "dmVyeXNlY3JldGtleQ=="),
        ("AZURE_ALLOW_HTTP", "true"),
        ("HF_TOKEN", SECRETS[3]),
        ("HF_HUB_CACHE", "hub"),
    ]);
    command.envs(variables.iter().copied()).current_dir(folder.path(".")).args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for secret in SECRETS.iter().copied().chain(["dmVyeXNlY3JldGtleQ", "Signature="]) {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    (output.status.code().unwrap(), said)
}

#[test]
fn no_secret_reaches_the_log() {
    let (folder, server) = (Folder::new(), refusing());
    let host = server.trim_start_matches("http://");
    let web = format!("http://me:passwordinurl@{host}/x.parquet?X-Amz-Signature=urlsignature");
    for from in ["s3://bucket/x.parquet", "az://container/x.parquet", &web] {
        let storage = format!("storage: {{ endpoint: '{server}', allow_http: true }}");
        let stages = format!("stages:\n  rows: {{ read: {{ from: '{from}' }} }}");
        folder.write("x.yaml", &format!("workdir: run\n{storage}\n{stages}\n"));
        let (code, said) = run(&folder, &["check", "x.yaml"], &[]);
        assert_eq!(code, 1, "{from}: {said}");
        assert!(said.contains("403") || said.contains("permission denied"), "{from}: {said}");
    }
    let (code, said) = run(&folder, &["inspect", "hf://datasets/org/rows"], &[("HF_ENDPOINT", &server)]);
    assert!(code != 0 && said.contains("hf://datasets/org/rows: "), "{said}");
    folder.write("rows.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n");
    let stages = "rows: { read: { from: rows.jsonl } }\n  out: { write: { input: rows, to: hf://datasets/org/rows } }";
    folder.write("x.yaml", &format!("workdir: run\nstages:\n  {stages}\n"));
    let (code, said) = run(&folder, &["run", "x.yaml"], &[("HF_ENDPOINT", &server)]);
    assert!(code == 78 && said.contains("x.yaml:4:"), "{said}");
}

#[test]
fn an_endpoint_with_credentials_is_refused_before_it_is_used() {
    let folder = Folder::new();
    let pipeline = |endpoint: &str| {
        folder.write(
            "x.yaml",
            &format!("workdir: s3://bucket/run\nstorage: {{ endpoint: '{endpoint}', allow_http: true }}\nstages:\n  rows: {{ read: {{ from: s3://bucket/in }} }}\n"),
        );
    };
    for endpoint in [
        "http://me:passwordinurl@127.0.0.1:1",
        "http://me:passwordinurl%40127.0.0.1:1",
        "http://127.0.0.1:1?sig=urlsignature",
    ] {
        pipeline(endpoint);
        for command in [&["check", "x.yaml"][..], &["plan", "x.yaml"], &["run", "x.yaml"], &["runs", "list", "x.yaml"]]
        {
            let (code, said) = run(&folder, command, &[]);
            assert!(code == 78 || code == 1, "{command:?}: {said}");
            assert!(said.contains("endpoint must not hold credentials"), "{command:?}: {said}");
        }
    }
    let hidden = "http://me:passwordinurl@127.0.0.1:1";
    for (variable, from) in [
        ("AWS_ENDPOINT", "s3://bucket/x.parquet"),
        ("AWS_ENDPOINT_URL", "s3://bucket/x.parquet"),
        ("AWS_ENDPOINT_URL_S3", "s3://bucket/x.parquet"),
        ("AZURE_STORAGE_ENDPOINT", "az://container/x.parquet"),
        ("AZURE_ENDPOINT", "az://container/x.parquet"),
        ("GOOGLE_BASE_URL", "gs://bucket/x.parquet"),
        ("HF_ENDPOINT", "hf://datasets/org/rows"),
    ] {
        let (code, said) = run(&folder, &["inspect", from], &[(variable, hidden)]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("{variable} must not hold credentials")), "{variable}: {said}");
    }
}
