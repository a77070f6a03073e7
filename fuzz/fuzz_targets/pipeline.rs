//! A pipeline file: YAML, variables, the check against the schema, and the position of every mistake.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sepo::Problem;
use sepo::pipeline::Spec;
use sepo_fuzz as _;

fuzz_target!(|text: &str| {
    let given = [("out".to_owned(), "x".to_owned())];
    for given in [&given[..], &[]] {
        if let Ok(spec) = Spec::parse(text, "fuzz.yaml", given) {
            let problems = spec.order.iter().map(|id| Problem::at(id, "a problem")).collect();
            spec.report(problems).to_string();
        }
    }
});
