//! A folder of its own for every test, and the program to run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The `models:` of a pipeline: `base`, which trains in a moment and reads the quickstart's tokens.
pub(crate) fn small_model() -> String {
    format!(
        "models:
  base:
    tokenizer: {}/data/quickstart/tokenizer
    init:
      {{ model_type: llama, vocab_size: 1280, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
        num_attention_heads: 2, max_position_embeddings: 256, rms_norm_eps: 1.0e-5, tie_word_embeddings: true }}
",
        repository().display()
    )
}

/// A temporary folder.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `sepo` in this folder.
    pub(crate) fn sepo(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sepo")).current_dir(self.0.path()).args(arguments).output().unwrap()
    }

    /// Runs `sepo`, which must succeed; its stdout.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.sepo(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `sepo`, which must fail with `code`; its stderr.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.sepo(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }
    /// Runs `sepo` with at most `kib` KiB of address space. An allocation that the machine would not have ends it then,
    /// however much the tests' machine has.
    #[cfg(unix)]
    pub(crate) fn within(&self, kib: u64, arguments: &[&str]) -> Output {
        let script = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_sepo")]).current_dir(self.0.path());
        command.args(arguments).output().unwrap()
    }

    /// Runs `sepo` with at most `kib` KiB of address space, which must fail with code 1; its stderr.
    #[cfg(unix)]
    pub(crate) fn fails_within(&self, kib: u64, arguments: &[&str]) -> String {
        let output = self.within(kib, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {:?}: {stderr}", output.status);
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }
}

/// The report of a run as JSON, without what says that its stages were done by an earlier run.
pub(crate) fn report(text: &str) -> serde_json::Value {
    let mut report: serde_json::Value = serde_json::from_str(text).unwrap();
    for stage in report["stages"].as_object_mut().unwrap().values_mut() {
        stage.as_object_mut().unwrap().remove("reused");
    }
    report
}
