#!/usr/bin/env bash
# Unpacks Debian's emulator of x86-64 processors, for tests/it/processors.rs, into the user's cache, and prints the path of its program.
set -euo pipefail
folder="${XDG_CACHE_HOME:-$HOME/.cache}/sepo/qemu"
program="$folder/usr/bin/qemu-x86_64-static"
if [ ! -x "$program" ]; then
  rm -rf "$folder"
  mkdir -p "$folder"
  cd "$folder"
  apt-get download --quiet qemu-user-static >&2 || { apt-get update >&2 && apt-get download --quiet qemu-user-static >&2; }
  dpkg-deb -x qemu-user-static_*.deb .
  rm qemu-user-static_*.deb
fi
echo "$program"
