#!/usr/bin/env bash
# A throw-away Postgres for the tests: `install`, `start DIR PORT` (prints the URL as its last line), `stop DIR`.
set -euo pipefail

bin() {
  local dir
  for dir in /usr/lib/postgresql/*/bin /usr/local/pgsql/bin; do
    if [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ]; then echo "$dir"; return 0; fi
  done
  if command -v initdb >/dev/null && command -v pg_ctl >/dev/null; then dirname "$(command -v initdb)"; return 0; fi
  return 1
}

# Postgres refuses to run as root.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then su postgres -s /bin/bash -c "$1"; else bash -c "$1"; fi
}

case "${1:-}" in
  install)
    if bin >/dev/null; then exit 0; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql
    fi
    bin >/dev/null || { echo "Postgres is missing: install Debian's package 'postgresql'" >&2; exit 1; }
    ;;
  start)
    dir=$2 port=$3
    b=$(bin) || { echo "Postgres is missing: run '$0 install'" >&2; exit 1; }
    mkdir -p "$dir"
    if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
    as_postgres "'$b/initdb' -A trust -U postgres -D '$dir/data' -E UTF8 --locale=C" >"$dir.log" 2>&1 ||
      { cat "$dir.log" >&2; exit 1; }
    as_postgres "'$b/pg_ctl' -D '$dir/data' -l '$dir/log' -w -t 60 start -o '-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir -c max_connections=200'" >>"$dir.log" 2>&1 ||
      { cat "$dir.log" "$dir/log" >&2; exit 1; }
    echo "postgres://postgres@127.0.0.1:$port/postgres"
    ;;
  stop)
    dir=$2
    b=$(bin)
    as_postgres "'$b/pg_ctl' -D '$dir/data' -m immediate -w stop" >/dev/null
    ;;
  *) echo "usage: $0 install | start DIR PORT | stop DIR" >&2; exit 2 ;;
esac
