#!/usr/bin/env bash
# Installs Azurite, the Azure server of tests/it/azure.rs, once, and prints the path of its program. Needs Node.
set -euo pipefail
VERSION=3.37.0
folder="${XDG_CACHE_HOME:-$HOME/.cache}/sepo/azurite-$VERSION"
if [ ! -x "$folder/node_modules/.bin/azurite-blob" ]; then
  mkdir -p "$folder"
  (cd "$folder" && npm install --silent --ignore-scripts --no-fund --no-audit "azurite@$VERSION") >&2
fi
echo "$folder/node_modules/.bin/azurite-blob"
