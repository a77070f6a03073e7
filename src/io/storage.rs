//! `storage:` of a pipeline file: how object stores are reached. Keys are no part of it; they come from the environment or
//! from the machine's own identity, so that no pipeline file and no manifest ever holds one.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How object stores are accessed. Settings that are left out come from the usual environment variables (`AWS_*`,
/// `GOOGLE_*`, `AZURE_*`). Credentials always come from the environment, or else from the identity of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// URL of an S3-compatible store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["http://127.0.0.1:8333"]))]
    pub endpoint: Option<String>,
    /// Region of `s3://` buckets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["eu-central-1"]))]
    pub region: Option<String>,
    /// Whether `s3://` requests name the bucket in the path (true) or in the host name (false).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [true]))]
    pub path_style: Option<bool>,
    /// Allows an endpoint without TLS.
    #[schemars(extend("examples" = [true]))]
    pub allow_http: bool,
    /// Retries of failed requests.
    #[schemars(extend("examples" = [{"max_retries": 5}]))]
    pub retry: Retry,
    /// Time limits of a request.
    #[schemars(extend("examples" = [{"request": 120}]))]
    pub timeouts: Timeouts,
}

/// Retries of failed requests that may succeed later, with a pause that doubles each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Number of retries.
    #[schemars(extend("examples" = [5]))]
    pub max_retries: u32,
    /// Time after which no retry is started; the run then stops with exit code 75.
    #[schemars(extend("examples" = [600], "x-unit" = "seconds"))]
    pub timeout: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_retries: 10, timeout: 180 }
    }
}

/// Time limits of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until the connection is established.
    #[schemars(extend("examples" = [10], "x-unit" = "seconds"))]
    pub connect: u64,
    /// Until the whole response has arrived. A request moves at most 8 MiB.
    #[schemars(extend("examples" = [120], "x-unit" = "seconds"))]
    pub request: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: 5, request: 60 }
    }
}

impl Storage {
    /// What is wrong with the settings.
    pub fn problem(&self) -> Option<&'static str> {
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        let says = [
            (holds_credentials(endpoint), "endpoint must not hold credentials; the environment does"),
            (!endpoint.is_empty() && !is_url(endpoint), "endpoint must be a URL, such as http://127.0.0.1:8333"),
            (self.timeouts.connect == 0 || self.timeouts.request == 0, "timeouts must be 1 second or more"),
        ];
        says.into_iter().find_map(|(wrong, message)| wrong.then_some(message))
    }
}

/// A variable of the environment that names a store's endpoint, and holds credentials there: HTTP clients print URLs.
pub(super) fn variable_with_credentials() -> Option<String> {
    let vendor = |name: &str| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| name.starts_with(prefix));
    let names =
        |name: &str| ["ENDPOINT", "BASE_URL", "AUTHORITY_HOST", "FULL_URI"].iter().any(|word| name.contains(word));
    let named = |name: &str| vendor(name) && names(name);
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let mut held = variables.filter(|(name, value)| named(&name.to_ascii_uppercase()) && holds_credentials(value));
    held.next().map(|(name, _)| name)
}

/// Whether `endpoint` has a user, a password, or a query, which may be a signature.
pub(super) fn holds_credentials(endpoint: &str) -> bool {
    endpoint.contains(['@', '?', '#']) || endpoint.to_ascii_lowercase().contains("%40")
}

fn is_url(endpoint: &str) -> bool {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let (host, path) = rest.map_or(("", ""), |rest| rest.split_at(rest.find('/').unwrap_or(rest.len())));
    let is_host = |c: char| c.is_alphanumeric() || "-._:[]".contains(c);
    !host.is_empty() && host.chars().all(is_host) && !path.contains(|c: char| c == '\\' || c.is_whitespace())
}

impl Retry {
    /// The pause before try `tries` (from 1), half of it random so that many workers do not come back at once.
    pub(super) fn pause(&self, tries: u32) -> Duration {
        const FIRST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(10);
        let whole = FIRST.saturating_mul(1 << (tries - 1).min(10)).min(LONGEST);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        whole / 2 + whole.mul_f64(f64::from(now.subsec_nanos() % 1000) / 2000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_credentials() {
        let problem = |endpoint: &str| Storage { endpoint: Some(endpoint.into()), ..Storage::default() }.problem();
        assert_eq!(problem("http://127.0.0.1:8333"), None);
        assert!(problem("127.0.0.1:8333").unwrap().contains("must be a URL"));
        assert!(problem("https://key:secret@host").unwrap().contains("must not hold credentials"));
        assert!(problem("https://host/?sig=x").unwrap().contains("must not hold credentials"));
        for hidden in
            ["https://key:secret%40host", "key:secret@host", "https:\\\\key:secret@host", "http://host#key:x@y"]
        {
            assert!(problem(hidden).unwrap().contains("must not hold credentials"), "{hidden}");
        }
        assert_eq!(problem("https://[::1]:8333/a/b"), None);
        for wrong in ["https://", "https://ho st", "ftp://host", "https:\\\\host", "https://host/\\x"] {
            assert!(problem(wrong).unwrap().contains("must be a URL"), "{wrong}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pause = |tries| Retry::default().pause(tries).as_millis();
        assert!((50..=100).contains(&pause(1)));
        assert!((200..=400).contains(&pause(3)));
        assert!((5000..=10_000).contains(&pause(40)));
    }
}
