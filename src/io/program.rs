//! A program of the user that reads lines and answers each with a line.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

#[cfg(unix)]
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::error::{Error, Result};

/// The end of what a program wrote on stderr, in bytes, for messages.
const TAIL: usize = 2048;

/// Longest answer, in bytes.
const LONGEST: u64 = 1 << 20;

/// The programs that run, by their process ids. Each leads a group of processes: itself, and what it starts.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Whether programs were asked to stop.
static STOPPED: AtomicBool = AtomicBool::new(false);

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks all running programs to stop. Whoever waits for an answer gets [`Error::Interrupted`] once they have.
pub fn stop_all() {
    STOPPED.store(true, Ordering::Relaxed);
    #[cfg(unix)]
    running().iter().for_each(|id| signal(*id, Signal::SIGTERM));
}

/// Ends all running programs.
pub fn kill_all() {
    #[cfg(unix)]
    running().iter().for_each(|id| signal(*id, Signal::SIGKILL));
}

/// Sends `signal` to the group of processes that `id` leads; some of them may have ended.
#[cfg(unix)]
fn signal(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        let _ = killpg(Pid::from_raw(id), signal);
    }
}

/// The digests of the files among the words of `command`: what the program is made of, as far as its command shows.
pub fn digests(command: &[String]) -> Vec<String> {
    let digest = |word: &String| {
        let mut hasher = blake3::Hasher::new();
        let read = fs::File::open(word).and_then(|file| hasher.update_reader(file).map(|hasher| hasher.finalize()));
        // A word that is no file has no digest.
        read.ok().map(|digest| digest.to_hex().to_string())
    };
    command.iter().filter_map(digest).collect()
}

/// Whether `name` is a program that can be started: a path to a file that may be executed, or the name of one in a folder of `PATH`.
pub fn exists(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if name.contains('/') {
        is_program(Path::new(name))
    } else {
        std::env::split_paths(&path).any(|at| is_program(&at.join(name)))
    }
}

/// Whether there is a file that someone may execute.
fn is_program(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    #[cfg(unix)]
    let may_run = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    let may_run = true;
    metadata.is_file() && may_run
}

/// A running program. Dropped before [`Program::finish`], it is ended.
///
/// Questions are sent as they come and answers are collected on a thread, so that a program may answer a line at once or all lines
/// at its end: it need not flush. A program that reads slowly slows down [`Program::ask`].
pub struct Program {
    command: Vec<String>,
    child: Child,
    questions: Option<BufWriter<ChildStdin>>,
    asked: usize,
    answers: Option<JoinHandle<std::io::Result<Vec<String>>>>,
    complaints: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts `command`, a program (searched on `PATH` if it is a bare name) and its arguments, in this process's folder.
    ///
    /// # Errors
    /// A program that cannot be started; no command at all.
    pub fn start(command: &[String]) -> Result<Self> {
        let [program, arguments @ ..] = command else { return Err(Error::program(command, "no command")) };
        if STOPPED.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let mut program = Command::new(program);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut program, 0);
        let mut child = program
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::program(command, format!("cannot be started: {error}")))?;
        running().insert(child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let answers = std::thread::spawn(move || stdout.map_or_else(|| Ok(Vec::new()), lines));
        let complaints = std::thread::spawn(move || stderr.map(tail).unwrap_or_default());
        Ok(Self {
            command: command.to_vec(),
            questions: child.stdin.take().map(BufWriter::new),
            child,
            asked: 0,
            answers: Some(answers),
            complaints: Some(complaints),
        })
    }

    /// Sends a line, which contains no line break.
    ///
    /// # Errors
    /// A program that ended before it read all lines: its exit status and the end of its stderr.
    pub fn ask(&mut self, line: &str) -> Result<()> {
        self.asked += 1;
        let Some(questions) = &mut self.questions else { return Ok(()) };
        let sent = questions.write_all(line.as_bytes()).and_then(|()| questions.write_all(b"\n"));
        sent.or_else(|_| self.end().and_then(|()| Err(self.says("ended before it read all lines"))))
    }

    /// The answers to all lines, in their order, once the program has ended.
    ///
    /// # Errors
    /// A program that fails, or that answers more or fewer lines than it was sent.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let flushed = self.questions.take().map_or(Ok(()), |mut questions| questions.flush());
        let answers = self.answers.take().and_then(|reader| reader.join().ok());
        let answers = answers.unwrap_or_else(|| Ok(Vec::new())).map_err(|error| self.says(error))?;
        self.end()?;
        flushed.map_err(|_| self.says("ended before it read all lines"))?;
        if answers.len() != self.asked {
            return Err(self.says(format!("answered {} of {} lines; it must answer each", answers.len(), self.asked)));
        }
        Ok(answers)
    }

    /// Waits for its end.
    fn end(&mut self) -> Result<()> {
        // What was buffered and cannot be written belongs to a program that is gone.
        drop(self.questions.take());
        let status = self.child.wait().map_err(|error| self.says(error))?;
        let is_stopped = STOPPED.load(Ordering::Relaxed) || was_asked_to_stop(status);
        if is_stopped || !status.success() {
            // What it started may go on, and hold its stderr open.
            #[cfg(unix)]
            signal(self.child.id(), Signal::SIGKILL);
        }
        running().remove(&self.child.id());
        if is_stopped {
            return Err(Error::Interrupted);
        }
        if !status.success() {
            let complaints = self.complaints.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
            return Err(self.says(format!("{status}\n{}", complaints.trim_end())));
        }
        Ok(())
    }

    fn says(&self, what: impl fmt::Display) -> Error {
        Error::program(&self.command, what)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if running().remove(&self.child.id()) {
            #[cfg(unix)]
            signal(self.child.id(), Signal::SIGKILL);
            // It may have ended by itself.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn lines(from: impl std::io::Read) -> std::io::Result<Vec<String>> {
    let (mut from, mut lines) = (BufReader::new(from), Vec::new());
    loop {
        let mut line = String::new();
        if from.by_ref().take(LONGEST).read_line(&mut line)? == 0 {
            return Ok(lines);
        }
        if line.len() as u64 == LONGEST {
            return Err(std::io::Error::other(format!("a line of more than {LONGEST} bytes")));
        }
        if !line.trim().is_empty() {
            lines.push(line);
        }
    }
}

/// The end of a text, of which all is read.
fn tail(mut from: impl std::io::Read) -> String {
    let (mut kept, mut chunk) = (Vec::new(), [0; TAIL]);
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        kept.extend_from_slice(&chunk[..read]);
        kept.drain(..kept.len().saturating_sub(TAIL));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Whether the program was ended by the signals that ask this process to stop, too: whoever ends a job sends them to all
/// its processes.
fn was_asked_to_stop(status: ExitStatus) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt as _;
        matches!(status.signal(), Some(2 | 15))
    }
    #[cfg(not(unix))]
    {
        let _ = status;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::start(&["sh", "-c", script].map(str::to_owned)).unwrap()
    }

    /// The answers to `count` lines of `length` characters.
    fn answers(script: &str, count: usize, length: usize) -> Result<Vec<String>> {
        let mut program = shell(script);
        (0..count).try_for_each(|_| program.ask(&"x".repeat(length)))?;
        program.finish()
    }

    fn message(result: Result<Vec<String>>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn every_line_is_answered_whether_at_once_or_at_the_end() {
        assert_eq!(answers("cat", 3, 4).unwrap(), ["xxxx\n"; 3]);
        // More than pipes hold, in both directions.
        assert_eq!(answers("cat", 4000, 1000).unwrap().len(), 4000);
        assert_eq!(answers("all=$(cat); echo \"$all\"", 4000, 1000).unwrap().len(), 4000);
        assert_eq!(answers("cat", 0, 0).unwrap(), [""; 0]);
    }

    #[test]
    fn failures_say_what_the_program_said() {
        let failed = message(answers("cat > /dev/null; echo the key is missing >&2; exit 3", 2, 4));
        assert!(failed.contains("exit status: 3") && failed.ends_with("the key is missing"), "{failed}");
        let failed = message(answers("echo early >&2; exit 4", 4000, 1000));
        assert!(failed.contains("exit status: 4") && failed.contains("early"), "{failed}");
        let short = message(answers("head -n 1; cat > /dev/null", 2, 4));
        assert!(short.ends_with("answered 1 of 2 lines; it must answer each"), "{short}");
        let deaf = message(answers("exec < /dev/null; sleep 0.1", 4000, 1000));
        assert!(deaf.ends_with("ended before it read all lines"), "{deaf}");
        let long = message(answers("cat > /dev/null; head -c 3000000 /dev/zero | tr '\\0' x", 1, 4));
        assert!(long.contains("more than 1048576 bytes"), "{long}");
        assert!(matches!(answers("kill -TERM $$", 1, 4), Err(Error::Interrupted)));
        let missing = Program::start(&["/no/such/program".to_owned()]).err().unwrap().to_string();
        assert!(missing.starts_with("`/no/such/program`: cannot be started"), "{missing}");
    }

    /// The child of a failed program has its stderr: whoever reads that to its end would wait for a day.
    #[test]
    fn what_a_failed_program_started_is_ended_with_it() {
        let failed = message(answers("cat > /dev/null; sleep 86400 > /dev/null & echo $! >&2; exit 3", 1, 4));
        let (status, id) = failed.split_once('\n').unwrap();
        assert!(status.ends_with("exit status: 3"), "{failed}");
        // A signal takes its time, and nobody may have waited for what it ended.
        let stat = format!("/proc/{}/stat", id.trim());
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|state| !state.contains(") Z"));
        let ended = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            !lives()
        });
        assert!(ended, "the child is still there");
    }

    #[test]
    fn only_files_that_may_be_executed_are_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let name = path.to_str().unwrap();
        assert!(!exists(name) && !exists(folder.path().to_str().unwrap()));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(exists(name) && exists("sh") && !exists("no-such-program"));
    }

    #[test]
    fn a_program_that_nobody_waits_for_is_ended() {
        let program = shell("exec sleep 100");
        let id = program.child.id();
        drop(program);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }
}
