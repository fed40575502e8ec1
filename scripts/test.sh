#!/usr/bin/env bash
# Runs every test: formatting, lints, unit tests, and the program itself against SQLite, Postgres, a scripted homeserver
# and a real Synapse. Installs and starts what it needs, stops it again, and leaves nothing running.
#
# Needs Rust, a C compiler with make and perl (Debian: build-essential) and Python 3 (with venv). As root on Debian,
# missing packages are installed; otherwise the script says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=""
command -v cargo >/dev/null || missing="$missing Rust (cargo)"
command -v cc >/dev/null || missing="$missing a C compiler (build-essential)"
command -v make >/dev/null || missing="$missing make (build-essential)"
command -v perl >/dev/null || missing="$missing perl (build-essential)"
command -v python3 >/dev/null || missing="$missing Python 3 (python3)"
if [ -n "$missing" ]; then
  echo "The tests need:$missing" >&2
  exit 1
fi

work=$(mktemp -d)
chmod 755 "$work"
cleanup() {
  scripts/synapse.sh stop "$work/synapse" || true
  [ -d "$work/postgres/data" ] && scripts/postgres.sh stop "$work/postgres" || true
  rm -rf "$work"
}
trap cleanup EXIT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

echo "== services"
venv="${SYNCV3_TEST_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/syncv3-tests/synapse}"
mkdir -p "$(dirname "$venv")"
scripts/postgres.sh install
scripts/synapse.sh install "$venv"
TEST_POSTGRES_URL=$(scripts/postgres.sh start "$work/postgres" "$(free_port)" | tail -1)
TEST_SYNAPSE_URL=$(scripts/synapse.sh start "$venv" "$work/synapse" "$(free_port)" | tail -1)
export TEST_POSTGRES_URL TEST_SYNAPSE_URL
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

echo "== format and lints"
cargo fmt --check
cargo clippy --all-targets --locked -- -D warnings

echo "== tests"
cargo test --locked --all-targets "$@"
