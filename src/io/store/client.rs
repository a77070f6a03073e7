//! Clients of stores, one for each bucket, and the paths and URLs that name what is in them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::asked::Asked;
use super::attempts::RetryPolicy;
use super::{Location, failed, wrong};
use crate::error::Result;
use crate::io::storage::{Retry, Storage, variable_with_credentials};

/// One bucket, one web server, or the local disk.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// For files that are written in parts; none where parts go another way (local) or no way (the web).
    pub(super) parts: Option<Arc<dyn MultipartStore>>,
    pub(super) retry_policy: RetryPolicy,
    pub(super) kind: Kind,
}

/// What the differences between stores depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Bucket,
    /// Read only, without listings.
    Web,
}

/// The stores that a pipeline reaches, each through one client. Clones share the clients.
#[derive(Clone, Default)]
pub struct Stores(Arc<Shared>);

#[derive(Default)]
struct Shared {
    options: Storage,
    clients: Mutex<BTreeMap<String, Client>>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stores").field(&self.0.options).finish()
    }
}

/// What the schemes of URLs mean.
const SCHEMES: &str = "supported: local paths, file://, s3://, gs://, az://, abfss://, and for reading http(s)://";

impl Stores {
    /// Stores that are reached with `options`.
    pub fn new(options: Storage) -> Self {
        Self(Arc::new(Shared { options, clients: Mutex::default() }))
    }

    /// Those that the environment alone describes.
    pub(super) fn of_environment() -> &'static Self {
        static STORES: LazyLock<Stores> = LazyLock::new(Stores::default);
        &STORES
    }

    /// The file or folder `text`: a path (relative to the working directory) or a URL.
    ///
    /// # Errors
    /// An unknown scheme, a URL that holds credentials, a store that cannot be reached with the settings at hand.
    pub fn locate(&self, text: &str) -> Result<Location> {
        match text.split_once("://") {
            None => local(text, text),
            Some(("file", path)) => local(text, path),
            Some(("http" | "https", _)) => self.web(text),
            Some((scheme @ ("s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss"), rest)) => {
                self.bucket(text, scheme, rest)
            }
            Some((scheme, _)) => Err(failed(&shown(text), &format!("`{scheme}://` is not supported; {SCHEMES}"))),
        }
    }

    fn bucket(&self, text: &str, scheme: &str, rest: &str) -> Result<Location> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let is_abfs = scheme.starts_with("abfs");
        if bucket.contains(':') || bucket.contains('@') && !is_abfs {
            let help = "credentials do not belong into a URL; put them into the environment (AWS_ACCESS_KEY_ID, …)";
            return Err(failed(&shown(text), &help));
        }
        if let Some(problem) = self.0.options.problem() {
            return Err(failed(&shown(text), &format!("storage: {problem}")));
        }
        if let Some(variable) = variable_with_credentials() {
            let help = "must not hold credentials; other variables do (AWS_ACCESS_KEY_ID, …)";
            return Err(failed(&shown(text), &format!("{variable} {help}")));
        }
        let key = key.trim_matches('/');
        // A key is taken as it stands where it can be one.
        let path = Path::parse(key).unwrap_or_else(|_| Path::from(key));
        let url = format!("{scheme}://{bucket}");
        let client = self.client(&url, || self.build(scheme, &url))?;
        Ok(Location::new(client, path, format!("{url}/{key}").trim_end_matches('/').to_owned(), None))
    }

    fn build(&self, scheme: &str, url: &str) -> Result<Client, object_store::Error> {
        let Storage { endpoint, region, path_style, retry, .. } = &self.0.options;
        let (options, no_retries) = (self.options(), RetryConfig { max_retries: 0, ..RetryConfig::default() });
        let retry_policy = RetryPolicy { retry: retry.clone(), asked: Asked::default() };
        let asked = retry_policy.asked.clone();
        fn client<S: ObjectStore + MultipartStore>(store: S, retry_policy: RetryPolicy) -> Client {
            let store = Arc::new(store);
            Client { objects: store.clone(), parts: Some(store), retry_policy, kind: Kind::Bucket }
        }
        match scheme {
            "gs" => {
                let mut store = GoogleCloudStorageBuilder::from_env().with_url(url).with_client_options(options);
                if let Some(endpoint) = endpoint {
                    store = store.with_base_url(endpoint);
                }
                Ok(client(store.with_http_connector(asked).with_retry(no_retries).build()?, retry_policy))
            }
            "s3" | "s3a" => {
                let mut store = AmazonS3Builder::from_env().with_url(url).with_client_options(options);
                if let Some(endpoint) = endpoint {
                    // AWS_ENDPOINT_URL_S3 would go before it.
                    store = store.with_endpoint(endpoint).with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
                }
                if let Some(region) = region {
                    store = store.with_region(region);
                }
                if let Some(path_style) = path_style {
                    store = store.with_virtual_hosted_style_request(!path_style);
                }
                Ok(client(store.with_http_connector(asked).with_retry(no_retries).build()?, retry_policy))
            }
            _ => {
                let mut store = MicrosoftAzureBuilder::from_env().with_url(url).with_client_options(options);
                if let Some(endpoint) = endpoint {
                    store = store.with_endpoint(endpoint.clone());
                }
                Ok(client(store.with_http_connector(asked).with_retry(no_retries).build()?, retry_policy))
            }
        }
    }

    /// A file of a web server. Its query (a signature, often) stays with the client and is never shown.
    fn web(&self, text: &str) -> Result<Location> {
        let (scheme, rest) = text.split_once("://").expect("a URL was matched");
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = Path::from_url_path(path.trim_matches('/')).map_err(|error| failed(&shown(text), &error))?;
        let url = format!("{scheme}://{host}/{}", query.map(|query| format!("?{query}")).unwrap_or_default());
        let client = self.client(&url, || {
            let no_retries = RetryConfig { max_retries: 0, ..RetryConfig::default() };
            let options = self.options().with_allow_http(true);
            let retry_policy = RetryPolicy { retry: self.0.options.retry.clone(), asked: Asked::default() };
            let store = HttpBuilder::new().with_url(&url).with_client_options(options).with_retry(no_retries);
            let store = store.with_http_connector(retry_policy.asked.clone()).build()?;
            Ok(Client { objects: Arc::new(store), parts: None, retry_policy, kind: Kind::Web })
        })?;
        Ok(Location::new(client, path, shown(text).trim_end_matches('/').to_owned(), None))
    }

    fn options(&self) -> ClientOptions {
        let Storage { allow_http, timeouts, .. } = &self.0.options;
        let mut options = ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(timeouts.connect))
            .with_timeout(Duration::from_secs(timeouts.request));
        if *allow_http {
            options = options.with_allow_http(true);
        }
        options
    }

    fn client(&self, url: &str, build: impl FnOnce() -> Result<Client, object_store::Error>) -> Result<Client> {
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(url) {
            return Ok(client.clone());
        }
        let client = build().map_err(|error| failed(&shown(url), &wrong::message(&error)))?;
        clients.insert(url.to_owned(), client.clone());
        Ok(client)
    }
}

fn local(text: &str, path: &str) -> Result<Location> {
    let absolute = normalize(path).map_err(|error| failed(text, &error))?;
    let path = Path::from_absolute_path(&absolute).map_err(|error| failed(text, &error))?;
    let objects = Arc::new(LocalFileSystem::new());
    let retry = Retry { max_retries: 0, ..Retry::default() };
    let retry_policy = RetryPolicy { retry, asked: Asked::default() };
    let client = Client { objects, parts: None, retry_policy, kind: Kind::Local };
    Ok(Location::new(client, path, text.trim_end_matches('/').to_owned(), Some(absolute)))
}

/// A folder of a bucket whose objects are `objects`.
#[cfg(test)]
pub(crate) fn bucket_of(objects: impl ObjectStore, name: &str) -> Location {
    let objects = Arc::new(objects);
    let client = Client { objects, parts: None, retry_policy: RetryPolicy::default(), kind: Kind::Bucket };
    Location::new(client, Path::from(name), format!("test://{name}"), None)
}

/// An absolute path without `..`, which the store does not take: the folder above a link is that of its target.
fn normalize(path: &str) -> io::Result<PathBuf> {
    let mut normalized = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        if part == Component::ParentDir {
            normalized = normalized.canonicalize()?;
            normalized.pop();
        } else {
            normalized.push(part);
        }
    }
    Ok(normalized)
}

/// A URL without user, password, query and fragment; a path as it is.
pub fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let is_web = scheme.starts_with("http");
    let rest = if is_web { rest.split(['?', '#']).next().unwrap_or_default() } else { rest };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = match scheme.starts_with("abfs") {
        true => host,
        false => host.rsplit('@').next().unwrap_or_default(),
    };
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_one_client() {
        let stores = Stores::default();
        for url in ["s3://one/a", "s3://one/b/c.parquet", "gs://two", "https://host/x?sig=1", "https://host/y?sig=1"] {
            assert!(stores.locate(url).is_ok() || url.starts_with("gs"), "{url}");
        }
        let clients = stores.0.clients.lock().unwrap();
        let keys: Vec<&str> = clients.keys().map(String::as_str).filter(|key| !key.starts_with("gs")).collect();
        assert_eq!(keys, ["https://host/?sig=1", "s3://one"]);
    }

    #[test]
    fn what_a_url_holds_beside_its_place_is_not_shown() {
        let stores = Stores::default();
        let web = stores.locate("https://me:secret@host/a%20b/x.parquet?X-Amz-Signature=abc").unwrap();
        assert_eq!(web.to_string(), "https://host/a%20b/x.parquet");
        assert_eq!(web.name(), "x.parquet");
        assert_eq!(format!("{web:?}"), "Location(https://host/a%20b/x.parquet)");
        let error = stores.locate("s3://AKIA:secret@bucket/x").unwrap_err().to_string();
        assert!(error.contains("s3://bucket/x: credentials do not belong into a URL"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(stores.locate("s3://bucket/a=1/b c/").unwrap().to_string(), "s3://bucket/a=1/b c");
    }
}
