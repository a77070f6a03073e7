//! Rows of a dataset as text: JSON Lines, one array, or CSV, plain or compressed; from bytes through the detection of
//! their format to pairs and to rows set aside. The first byte picks the kind of file, the second the settings.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sepo::io::{Dataset, Stores};
use sepo::stages::read::Read;
use sepo_fuzz::file;

const NAMES: [&str; 6] = ["x.jsonl", "x.json", "x.csv", "x.jsonl.gz", "x.jsonl.zst", "x.csv.gz"];

fuzz_target!(|input: &[u8]| {
    let [kind, settings, content @ ..] = input else { return };
    let path = file(NAMES[usize::from(*kind) % NAMES.len()], content).display().to_string();
    let Ok(dataset) = Dataset::open(&[path.clone()], &Stores::default()) else { return };
    let formats = ["auto", "pairs", "ultrafeedback", "hh_rlhf", "shp", "nectar", "nemo_rl", "helpsteer3", "alpaca", "sharegpt", "tokens"];
    let mut read = serde_json::json!({ "from": path, "format": formats[usize::from(settings & 15) % formats.len()] });
    if settings & 16 != 0 {
        read["pair_rule"] = ["best_worst", "best_random", "all", "all"][usize::from(settings >> 5) % 4].into();
    }
    let read: Read = serde_json::from_value(read).expect("valid settings");
    let Ok(reader) = read.open(dataset.schema()) else { return };
    let mut rows = 0;
    for unit in dataset.units() {
        for chunk in dataset.read(&unit, 7).expect("an open file") {
            let Ok(chunk) = chunk else { return };
            rows += chunk.batch.num_rows() as u64;
            let _ = reader.apply("x", chunk);
        }
    }
    assert_eq!(rows, dataset.rows(), "rows are lost or invented");
});
