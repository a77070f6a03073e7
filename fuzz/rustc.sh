#!/usr/bin/env bash
# The compiler for RUSTC_WRAPPER. It counts coverage in this crate and in the parsers that it stands on, with the flags of
# cargo-fuzz, and leaves the other four hundred crates as the tool has them: nothing but these is built anew.
set -euo pipefail
counted=" sepo sepo_fuzz pipeline rows checkpoint tokenizer template ipc csv parquet minijinja tokenizers spm_precompiled \
serde_saphyr granit_parser safetensors arrow_json arrow_csv arrow_cast csv_core arrow_ipc arrow_data flatbuffers lz4_flex "
arguments=("$@")
for ((i = 1; i < $#; i++)); do
    if [[ ${arguments[i]} == --crate-name && $counted == *" ${arguments[i + 1]} "* ]]; then
        exec "$@" -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-stack-depth
    fi
done
exec "$@"
