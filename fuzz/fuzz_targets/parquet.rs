//! A Parquet file: footer, pages, and the pruning of row groups and pages by statistics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sepo::io::bounds::{Bound, Compare, Value};
use sepo::io::{Dataset, Stores};
use sepo_fuzz::file;

fuzz_target!(|content: &[u8]| {
    let path = file("x.parquet", content).display().to_string();
    let Ok(mut dataset) = Dataset::open(&[path], &Stores::default()) else { return };
    let columns: Vec<String> = dataset.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut rows = 0;
    for unit in dataset.units() {
        let Ok(chunks) = dataset.read(&unit, 100) else { return };
        for chunk in chunks {
            let Ok(chunk) = chunk else { return };
            rows += chunk.batch.num_rows() as u64;
        }
    }
    assert_eq!(rows, dataset.rows(), "rows are lost or invented");
    let bounds = columns.into_iter().flat_map(|column| {
        [Value::Integer(3), Value::Text("x".to_owned())].map(|value| Bound { column: column.clone(), compare: Compare::Less, value })
    });
    if dataset.prune(&bounds.collect::<Vec<_>>()).is_err() {
        return;
    }
    for unit in dataset.units() {
        let Ok(chunks) = dataset.read(&unit, 100) else { return };
        chunks.for_each(drop);
    }
});
