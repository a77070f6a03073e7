#!/usr/bin/env bash
# Parity and speed on a GPU, on a machine that has PyTorch but no Rust.
#
#   benches/gpu/run.sh pack LIBTORCH     here: builds sepo and its tests against LIBTORCH (the `torch` folder of an installed PyTorch, or
#                                        a LibTorch), strips them, and packs them into target/gpu/pack.tar.xz
#   benches/gpu/run.sh test [DEVICE]     there, in a copy of the repository with target/gpu: parity and the kernels' tests
#   benches/gpu/run.sh bench [ARGS]      there: benches/gpu/run.py, which writes benches/GPU.md: speed, and which operations take the
#                                        time of a pass and of a step; ARGS go to it
#   benches/gpu/run.sh all               there: both, in under 8 minutes
#   benches/gpu/run.sh rehearse LIBTORCH here: packs, tests and benches tiny shapes on the CPU
#
# Needs python3 with torch, transformers, safetensors, pyarrow and numpy there; liger-kernel and peft if they are to be compared.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD pack=target/gpu

pack() {
  local libtorch=$(cd "${1:?LIBTORCH}" && pwd)
  export LIBTORCH=$libtorch LIBTORCH_BYPASS_VERSION_CHECK=1 LIBTORCH_CXX11_ABI=1 LD_LIBRARY_PATH="$libtorch/lib:${LD_LIBRARY_PATH:-}"
  rm -rf "$pack" && mkdir -p "$pack"
  cargo build --release --locked --features tch --bin sepo
  cargo test --release --locked --features tch --lib --test it --no-run --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message.get("profile", {}).get("test"):
        print(message["target"]["name"], message["executable"])' | while read -r name file; do cp "$file" "$pack/$name.test"; done
  cp "${CARGO_TARGET_DIR:-target}/release/sepo" "$pack/sepo.bin"
  for name in sepo it; do [ -e "$pack/$name.test" ] || { echo "cargo built no $name.test" >&2; exit 1; }; done
  strip --strip-all "$pack"/*.test "$pack/sepo.bin"
  # Tests know the folder that they were built in.
  echo "$root" > "$pack/built-in"
  # The programs are mostly the same code: a dictionary larger than one of them finds it again, and the pack is 38 MB, not 62.
  tar -C "$pack" -cf - built-in sepo.bin $(cd "$pack" && ls ./*.test) | xz -T1 --lzma2=preset=6,dict=256MiB > "$pack/pack.tar.xz"
  ls -l "$pack/pack.tar.xz" >&2
}

# What the programs need: the libraries of the installed PyTorch, and the folder that the tests were built in.
open_pack() {
  [ -e "$pack/sepo.bin" ] || tar -C "$pack" -xJf "$pack/pack.tar.xz"
  local torch site
  torch=$(python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
  site=$(dirname "$torch")
  for folder in "$torch/lib" "$site"/nvidia/*/lib; do
    if [ -d "$folder" ]; then LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"; fi
  done
  export LD_LIBRARY_PATH=${LIBTORCH_RUN:-$LD_LIBRARY_PATH}
  local built_in
  built_in=$(cat "$pack/built-in")
  if [ ! -e "$built_in" ]; then mkdir -p "$(dirname "$built_in")" && ln -s "$root" "$built_in"; fi
}

check() {
  local device=${1:-libtorch:cuda:0}
  SEPO_TEST_DEVICE=$device "$pack/it.test" parity
  SEPO_TEST_DEVICE=$device "$pack/it.test" bf16:: --skip twenty_steps
  SEPO_TEST_DEVICE=$device "$pack/it.test" generation::greedy generation::an_answer generation::generation_config_is_applied_as
  SEPO_TEST_DEVICE=$device "$pack/sepo.test" kernels::
}

bench() {
  python3 benches/gpu/run.py --sepo "$pack/sepo.bin" --profile "$pack/it.test" "$@"
}

case "${1:-}" in
  pack) pack "${2:-}" ;;
  test) open_pack; check "${2:-}" ;;
  bench) open_pack; shift; bench --models /tmp/sepo-gpu-models --out benches/GPU.md "$@" ;;
  all) open_pack; check; bench --models /tmp/sepo-gpu-models --out benches/GPU.md ;;
  rehearse)
    pack "${2:-}"
    export LIBTORCH_RUN=$LD_LIBRARY_PATH
    open_pack
    check libtorch
    bench --models "$pack/models" --shapes tiny --device libtorch --torch-device cpu \
      --pairs 8 --steps 3 --batch 4 --batch-tokens 2048 --prompts 4 --new 8 --limit 3600 --out "$pack/REHEARSAL.md"
    ;;
  *) sed -n '2,14p' "$0" >&2; exit 2 ;;
esac
