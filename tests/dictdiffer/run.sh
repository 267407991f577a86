#!/usr/bin/env bash
# Random objects and random changes through dictdiffer itself must end in the same object here.
# Everything it installs goes under target/; needs python3 with venv. A failing run is repeated by
# its seed:  tests/dictdiffer/run.sh SEED
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$(cargo metadata --format-version 1 --no-deps --offline |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
home="$target/dictdiffer-test"
mkdir -p "$home"

wanted=$(sha256sum <tests/dictdiffer/requirements.txt)
if [ "$(cat "$home/installed" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$home/venv"
  python3 -m venv "$home/venv"
  "$home/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/dictdiffer/requirements.txt
  echo "$wanted" >"$home/installed"
fi

seed=${1:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
count=${2:-20000}
echo "dictdiffer: $count cases from seed $seed"
"$home/venv/bin/python" tests/dictdiffer/cases.py "$seed" "$count" >"$home/cases.jsonl"
DICTDIFFER_CASES="$home/cases.jsonl" cargo test --quiet --test indigo dictdiffer
