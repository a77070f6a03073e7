//! Progress on stderr: bars on a terminal, plain lines elsewhere; and the wish to stop, from SIGINT or SIGTERM.

use std::io::{IsTerminal, Write, stderr};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::error::Error;
use crate::io::program;
use crate::monitor::{Monitor, Note};

static STOPPING: AtomicBool = AtomicBool::new(false);

/// The unit that is shown as MiB or GiB.
const BYTES: &str = "bytes";

/// How long work that was asked to stop may take to come to its next good end: a store may be out of reach, a step of a
/// training may be long. What is cut off then is done again, as after any crash.
const PATIENCE: Duration = Duration::from_secs(9);

/// How long programs that were asked to stop may take to clean up: nobody waits for their answers.
const GRACE: Duration = Duration::from_secs(1);

/// Bytes that take long enough to read for somebody to want to know.
const LONG: u64 = 1 << 30;

/// Between two plain lines.
const PAUSE: Duration = Duration::from_secs(10);

/// Watches a run from the command line.
pub(super) struct Progress {
    piece: Mutex<Option<Piece>>,
}

struct Piece {
    label: String,
    unit: &'static str,
    total: Option<u64>,
    done: u64,
    start: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Ctrl-C ends the process at once.
    pub(super) fn new() -> Self {
        Self { piece: Mutex::new(None) }
    }

    /// Ctrl-C asks for a clean stop.
    pub(super) fn stoppable() -> Self {
        // Without a handler the first Ctrl-C ends the process at once: parts still appear whole.
        let _ = ctrlc::set_handler(|| {
            if STOPPING.swap(true, Ordering::Relaxed) {
                return;
            }
            // A terminal shows `^C` where the cursor stands, which may be behind a bar.
            let _ = writeln!(stderr(), "\nstopping; what is done is kept");
            program::stop_all();
            thread::spawn(|| {
                thread::sleep(GRACE);
                program::kill_all();
                thread::sleep(PATIENCE - GRACE);
                let _ = writeln!(stderr(), "error: {}", Error::Interrupted);
                process::exit(130);
            });
        });
        Self::new()
    }

    fn with(&self, act: impl FnOnce(&mut Option<Piece>)) {
        if let Ok(mut piece) = self.piece.lock() {
            act(&mut piece);
        }
    }
}

impl Piece {
    fn say(&self, note: &str) {
        let Self { label, unit, done, .. } = self;
        let amount = |n: u64| if *unit == BYTES { HumanBytes(n).to_string() } else { n.to_string() };
        let of = self.total.map(|total| format!("/{}", amount(total))).unwrap_or_default();
        let (done, unit) = (amount(*done), if *unit == BYTES { "" } else { unit });
        let seconds = self.start.elapsed().as_secs_f64();
        // A closed stderr must not end the run.
        let _ = writeln!(stderr(), "{label}: {done}{of} {unit} in {seconds:.1} s {note}");
    }
}

impl Monitor for Progress {
    fn begin(&self, label: &str, total: Option<u64>, unit: &'static str) {
        let bar = stderr().is_terminal().then(|| {
            let amount = match unit {
                BYTES => "{bytes}/{total_bytes} {bytes_per_sec}".to_owned(),
                unit => format!("{{pos}}/{{len}} {unit}"),
            };
            let template = format!("{{prefix:20}} {{bar:30}} {amount} {{elapsed}} eta {{eta}} {{msg}}");
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total.unwrap_or(0)).with_style(style).with_prefix(label.to_owned())
        });
        let now = Instant::now();
        let piece = Piece { label: label.to_owned(), unit, total, done: 0, start: now, said: now, bar };
        self.with(|current| *current = Some(piece));
    }

    fn advance(&self, n: u64, note: &str) {
        self.with(|piece| {
            let Some(piece) = piece else { return };
            piece.done += n;
            match &piece.bar {
                Some(bar) => {
                    bar.set_position(piece.done);
                    bar.set_message(note.to_owned());
                }
                None if piece.said.elapsed() >= PAUSE => {
                    piece.said = Instant::now();
                    piece.say(note);
                }
                None => {}
            }
        });
    }

    fn skip(&self, n: u64) {
        self.with(|piece| {
            let Some(piece) = piece else { return };
            piece.total = piece.total.map(|total| total.saturating_sub(n).max(piece.done));
            if let (Some(bar), Some(total)) = (&piece.bar, piece.total) {
                bar.set_length(total);
            }
        });
    }

    fn end(&self) {
        self.with(|piece| {
            if let Some(piece) = piece.take() {
                match &piece.bar {
                    Some(bar) => bar.finish(),
                    None => piece.say("done"),
                }
            }
        });
    }

    fn note(&self, note: Note) {
        let line = match note {
            Note::Digests { bytes, .. } if bytes < LONG => return,
            Note::Digests { model, bytes } => format!("reads model `{model}` for its digest, {}", HumanBytes(bytes)),
            Note::Loads { stage, model, bytes: 0 } => format!("{stage}: draws the parameters of model `{model}`"),
            Note::Loads { stage, model, bytes } => format!("{stage}: loads model `{model}`, {}", HumanBytes(bytes)),
            Note::Reuses { stage } => format!("{stage}: done by an earlier run"),
        };
        self.with(|piece| match piece.as_ref().and_then(|piece| piece.bar.as_ref()) {
            Some(bar) => bar.println(&line),
            None => drop(writeln!(stderr(), "{line}")),
        });
    }

    fn stopping(&self) -> bool {
        STOPPING.load(Ordering::Relaxed)
    }
}
