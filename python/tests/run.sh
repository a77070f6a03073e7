#!/usr/bin/env bash
# Tests of the Python package, beside a program that cargo built: python/tests/run.sh PROGRAM [short|all]
#   short  without PyTorch and trackers, the node-killing test once on few rows: what CI runs
#   all    with PyTorch, transformers and trackers (several GB), the node-killing test in its long form three times
# The packages stay in the user's cache. SEPO_WEED names SeaweedFS's program; without it the tests on a store are skipped, or
# fail under SEPO_REQUIRE_SERVERS.
set -euo pipefail
cd "$(dirname "$0")/../.."
SEPO_PROGRAM="$(realpath "$1")"
form="${2:-short}"
folder="${XDG_CACHE_HOME:-$HOME/.cache}/sepo/python-$form"
packages=("datasets>=3" "polars>=1.20" "ray[data,default]>=2.40" "pyarrow>=17" "pytest>=8" "mypy>=1.15")
chosen=(-m "not slow")
if [ "$form" = all ]; then
  packages+=("torch>=2.4" "transformers>=4.56" "accelerate>=1.0")
  packages+=("wandb>=0.19" "trackio>=0.5" "mlflow-skinny>=3" "sqlalchemy>=2" "alembic>=1.13")
  chosen=()
fi
if [ "$(cat "$folder/complete" 2>/dev/null)" != "${packages[*]}" ]; then
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" ||
    { echo "$0: the tests of the Python package need ${packages[*]}, which pip could not install" >&2; exit 1; }
  echo "${packages[*]}" > "$folder/complete"
fi
export SEPO_PROGRAM PYTHONPATH=python
exec "$folder/bin/python" -m pytest -p no:cacheprovider -q "${chosen[@]}" python/tests
