//! `sepo serve` — rows for trainers on other machines, over Arrow Flight.

use std::fs;
use std::io::{Write, stderr};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use tracing::warn;

use super::dataset::refuse_workdir;
use super::terminal::plain;
use super::{Cli, print};
use crate::error::{Error, Result};
use crate::io::flight::{Files, Server, Tls, Token};
use crate::io::{Location, Stores};
use crate::pipeline::run::ServedStage;

/// The variable that may hold the token.
const TOKEN: &str = "SEPO_FLIGHT_TOKEN";

static STOPPING: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Dataset (a file or folder, local or a URL); with --stage, the workdir of a run.
    path: String,
    /// Serve the rows of this stage of the run, each unit as soon as it is finished. STAGE@FINGERPRINT names one of several
    /// that differ in their settings.
    #[arg(long)]
    stage: Option<String>,
    /// Address and port to listen at; port 0 is any free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8815)))]
    listen: SocketAddr,
    /// File with the token that clients must show. The variable SEPO_FLIGHT_TOKEN may hold it instead.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let everybody who reaches the address read the rows. Without a token, other addresses than this machine's own are refused
    /// unless this is given.
    #[arg(long, conflicts_with = "token_file")]
    no_token: bool,
    /// Certificate chain for TLS, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Largest number of streams that are read at the same time; further ones are refused. Each takes memory for a page of every
    /// column and for a few messages, mostly 10 to 30 MiB.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
}

impl Serve {
    /// Serves until it is told to stop.
    pub(super) fn run(&self) -> Result<()> {
        let server = self.server()?;
        // Without a handler the first Ctrl-C ends the process at once, and clients see a connection that broke.
        let _ = ctrlc::set_handler(|| {
            if STOPPING.swap(true, Ordering::Relaxed) {
                process::exit(130);
            }
            say("stopping");
        });
        let stopping = || STOPPING.load(Ordering::Relaxed);
        let started = |what: String| {
            move |url: &str| {
                say(&plain(&what));
                // Whoever started the program may have asked for any port.
                print(&format!("{url}\n"))
            }
        };
        match &self.stage {
            Some(stage) => {
                let stage = ServedStage::open(Location::parse(&self.path)?, stage)?;
                let state = stage.state()?;
                server.serve(stage, started(state), stopping)
            }
            None => {
                refuse_workdir(&self.path)?;
                let files = Files::open(&self.path, &Stores::default())?;
                let what = format!("{}: {} rows in {} files", self.path, files.rows(), files.count());
                server.serve(files, started(what), stopping)
            }
        }
    }

    fn server(&self) -> Result<Server> {
        let token = if self.no_token { None } else { self.token()? };
        if !self.listen.ip().is_loopback() {
            if token.is_none() && !self.no_token {
                let message = format!(
                    "other machines reach {}, and no token is set: give --token-file or {TOKEN}, or --no-token to let \
                     everybody read",
                    self.listen
                );
                Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
            }
            if self.tls_cert.is_none() {
                warn!("rows and token are sent in the clear; --tls-cert and --tls-key encrypt them");
            }
        }
        let tls = self.tls_cert.as_ref().zip(self.tls_key.as_ref());
        let tls = tls.map(|(certificate, key)| Ok(Tls { certificate: read(certificate)?, key: read(key)? }));
        Ok(Server { listen: self.listen, token, tls: tls.transpose()?, streams: usize::from(self.streams) })
    }

    /// The token of the file or of the environment.
    fn token(&self) -> Result<Option<Token>> {
        let (text, from) = match &self.token_file {
            Some(file) => (String::from_utf8(read(file)?).ok(), file.display().to_string()),
            None => match std::env::var_os(TOKEN) {
                Some(text) => (text.into_string().ok(), TOKEN.to_owned()),
                None => return Ok(None),
            },
        };
        let wrong = || Error::Store { path: from, message: "holds no token".to_owned(), retryable: false };
        text.as_deref().and_then(Token::new).map(Some).ok_or_else(wrong)
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| Error::Store {
        path: file.display().to_string(),
        message: error.to_string(),
        retryable: false,
    })
}

/// Says `what` to people; without a stderr there is nobody to tell.
fn say(what: &str) {
    let _ = writeln!(stderr(), "{what}");
}
