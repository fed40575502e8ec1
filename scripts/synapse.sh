#!/usr/bin/env bash
# A throw-away Synapse for the tests: `install VENV`, `start VENV DIR PORT` (prints the URL as its last line), `stop DIR`.
set -euo pipefail

# The version that the tests were last run against.
SYNAPSE_VERSION=1.163.2

case "${1:-}" in
  install)
    venv=$2
    if "$venv/bin/python" -c "import synapse, sys; sys.exit(synapse.__version__ != '$SYNAPSE_VERSION')" 2>/dev/null; then
      exit 0
    fi
    command -v python3 >/dev/null || { echo "Python 3 is missing: install Debian's package 'python3'" >&2; exit 1; }
    if ! python3 -m venv "$venv" 2>/dev/null; then
      if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv
        python3 -m venv "$venv"
      else
        echo "Python's venv is missing: install Debian's package 'python3-venv'" >&2
        exit 1
      fi
    fi
    "$venv/bin/pip" install -q "matrix-synapse==$SYNAPSE_VERSION"
    ;;
  start)
    venv=$2 dir=$3 port=$4
    mkdir -p "$dir"
    cat >"$dir/homeserver.yaml" <<YAML
server_name: test.local
pid_file: $dir/homeserver.pid
public_baseurl: http://127.0.0.1:$port/
listeners:
  - port: $port
    type: http
    bind_addresses: ["127.0.0.1"]
    resources: [{names: [client], compress: false}]
database: {name: sqlite3, args: {database: "$dir/homeserver.db"}}
log_config: $dir/log.yaml
media_store_path: $dir/media
signing_key_path: $dir/signing.key
report_stats: false
trusted_key_servers: []
federation_domain_whitelist: []
enable_registration: true
enable_registration_without_verification: true
registration_shared_secret: test
macaroon_secret_key: test
form_secret: test
rc_message: {per_second: 10000, burst_count: 10000}
rc_registration: {per_second: 10000, burst_count: 10000}
rc_login: {address: {per_second: 10000, burst_count: 10000}, account: {per_second: 10000, burst_count: 10000}, failed_attempts: {per_second: 10000, burst_count: 10000}}
rc_joins: {local: {per_second: 10000, burst_count: 10000}, remote: {per_second: 10000, burst_count: 10000}}
rc_joins_per_room: {per_second: 10000, burst_count: 10000}
rc_invites: {per_room: {per_second: 10000, burst_count: 10000}, per_user: {per_second: 10000, burst_count: 10000}, per_issuer: {per_second: 10000, burst_count: 10000}}
rc_room_creation: {per_second: 10000, burst_count: 10000}
rc_delayed_event_mgmt: {per_second: 10000, burst_count: 10000}
YAML
    cat >"$dir/log.yaml" <<YAML
version: 1
formatters: {plain: {format: '%(asctime)s %(levelname)s %(name)s %(message)s'}}
handlers: {file: {class: logging.FileHandler, formatter: plain, filename: "$dir/synapse.log"}}
root: {level: WARNING, handlers: [file]}
disable_existing_loggers: false
YAML
    "$venv/bin/python" -m synapse.app.homeserver -c "$dir/homeserver.yaml" --generate-keys >"$dir/keys.out" 2>&1
    setsid nohup "$venv/bin/python" -m synapse.app.homeserver -c "$dir/homeserver.yaml" >"$dir/out" 2>&1 </dev/null &
    echo $! >"$dir/pid"
    for _ in $(seq 1 300); do
      if "$venv/bin/python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/_matrix/client/versions', timeout=2)" 2>/dev/null; then
        echo "http://127.0.0.1:$port"
        exit 0
      fi
      kill -0 "$(cat "$dir/pid")" 2>/dev/null || break
      sleep 0.3
    done
    echo "Synapse did not start:" >&2
    tail -30 "$dir/out" "$dir/synapse.log" >&2 || true
    exit 1
    ;;
  stop)
    dir=$2
    if [ -f "$dir/pid" ]; then
      pid=$(cat "$dir/pid")
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 1 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
      kill -9 "$pid" 2>/dev/null || true
    fi
    ;;
  *) echo "usage: $0 install VENV | start VENV DIR PORT | stop DIR" >&2; exit 2 ;;
esac
