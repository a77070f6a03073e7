//! An Arrow IPC file, or a stream: footer, messages, packed buffers, dictionaries. Rows must be as many as the headers say.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sepo::io::{Dataset, Stores};
use sepo_fuzz::file;

fuzz_target!(|content: &[u8]| {
    let path = file("x.arrow", content).display().to_string();
    let Ok(dataset) = Dataset::open(&[path], &Stores::default()) else { return };
    let mut rows = 0;
    for unit in dataset.units() {
        let Ok(chunks) = dataset.read(&unit, 100) else { return };
        for chunk in chunks {
            let Ok(chunk) = chunk else { return };
            assert_eq!(chunk.first_row, rows + 1, "rows are out of order");
            rows += chunk.batch.num_rows() as u64;
        }
    }
    assert_eq!(rows, dataset.rows(), "rows are lost or invented");
});
