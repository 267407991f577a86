#!/usr/bin/env bash
# Sends real pushes to independent implementations and checks what they receive.
# Everything it installs goes under target/; needs node, npm and python3 with venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$(cargo metadata --format-version 1 --no-deps --offline |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
home="$target/push-test"
mkdir -p "$home/scratch"

wanted=$(cat tests/push/package.json tests/push/package-lock.json tests/push/requirements.txt | sha256sum)
if [ "$(cat "$home/installed" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$home/node_modules" "$home/venv"
  cp tests/push/package.json tests/push/package-lock.json "$home/"
  npm ci --prefix "$home" --no-audit --no-fund --loglevel=error
  python3 -m venv "$home/venv"
  "$home/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/push/requirements.txt
  echo "$wanted" >"$home/installed"
fi

cargo build --quiet --example push_once
"$home/venv/bin/python" tests/push/receive.py \
  "$target/debug/examples/push_once" "$home/node_modules" "$home/scratch"
