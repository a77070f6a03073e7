//! A program for every x86-64 processor: its numbers on processors without AVX-512 and without AVX, which QEMU emulates, are those
//! of this machine.

use std::ffi::OsStr;
use std::io::Write;
use std::process::Command;

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;

use crate::close::assert_close;
use crate::harness::{Folder, small_model};
use crate::s3::rows;

/// Without AVX; with AVX2 and FMA.
const PROCESSORS: [&str; 2] = ["core2duo", "Haswell"];

/// Scores and trains in f32 and bf16; results by `place`.
fn pipeline(place: &str) -> String {
    format!(
        "workdir: {place}
{}stages:
  rows: {{ read: {{ from: rows.jsonl }} }}
  tokens: {{ tokenize: {{ input: rows, tokenizer: base, max_length: 128 }} }}
  oracle: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, max_steps: 2, batch_size: 3, learning_rate: 0.01 }} }}
  f32: {{ score: {{ input: tokens, oracle: oracle, reference: base, precision: f32 }} }}
  bf16: {{ score: {{ input: tokens, oracle: oracle, reference: base, precision: bf16 }} }}
  wide: {{ write: {{ input: f32, to: {place}-f32 }} }}
  narrow: {{ write: {{ input: bf16, to: {place}-bf16 }} }}
",
        small_model()
    )
}

/// The rewards of all tokens, by `place` and `precision`.
fn rewards(folder: &Folder, place: &str, precision: &str) -> Vec<f32> {
    let rows = rows(folder.path(&format!("{place}-{precision}")).display().to_string());
    let of =
        |column| rows.column_by_name(column).unwrap().as_list::<i32>().values().as_primitive::<Float32Type>().values();
    ["chosen_token_rewards", "rejected_token_rewards"].map(|column| of(column).to_vec()).concat()
}

/// Runs the pipeline `file` on `processor`. QEMU's emulation of threads crashes now and then; what the program itself says is final.
fn emulated(qemu: &OsStr, processor: &str, folder: &Folder, file: &str) {
    for attempt in 1.. {
        let run = Command::new(qemu)
            .args(["-cpu", processor, env!("CARGO_BIN_EXE_sepo"), "run", file, "--fresh"])
            .current_dir(folder.path(""))
            .output()
            .unwrap();
        if run.status.success() {
            return;
        }
        let crashed = run.status.code().is_none() && attempt < 3;
        assert!(crashed, "{processor}: {:?}: {}", run.status, String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn numbers_on_older_processors_are_those_of_this_one() {
    let Some(qemu) = std::env::var_os("SEPO_QEMU") else {
        // Written directly, since what a passing test prints is not shown.
        let skipped = "SKIPPED: no emulator; set SEPO_QEMU to what tests/servers/qemu.sh prints";
        return writeln!(std::io::stderr(), "{skipped}").unwrap();
    };
    let folder = Folder::new();
    let pairs: Vec<String> = (0..6)
        .map(|row| {
            let (prompt, chosen) =
                (format!("Name {row} colours of the sea."), format!("blue green grey and {row} more"));
            let rejected = format!("I do not know {}", "at all ".repeat(row));
            serde_json::json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }).to_string()
        })
        .collect();
    folder.write("rows.jsonl", &pairs.join("\n"));
    folder.write("here.yaml", &pipeline("here"));
    folder.succeeds(&["run", "here.yaml"]);
    let [wide, narrow] = ["f32", "bf16"].map(|precision| rewards(&folder, "here", precision));
    assert!(wide.iter().any(|reward| reward.abs() > 0.1), "the oracle learned: {wide:?}");
    for processor in PROCESSORS {
        folder.write(&format!("{processor}.yaml"), &pipeline(processor));
        let file = format!("{processor}.yaml");
        emulated(&qemu, processor, &folder, &file);
        assert_close(processor, &rewards(&folder, processor, "f32"), &wide, 1e-4);
        // Sums that are rounded to 8 bits may differ by the order of their terms.
        assert_close(processor, &rewards(&folder, processor, "bf16"), &narrow, 0.05);
    }
}
