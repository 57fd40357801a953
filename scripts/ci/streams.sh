#!/usr/bin/env bash
# Streams under faults, behind a proxy, and in a real browser; each part ends by itself.
#
#   scripts/ci/streams.sh                          all parts, about 5 minutes
#   scripts/ci/streams.sh redis-cut nginx          only these: redis-cut postgres-cut shutdown nginx browser model
#   scripts/ci/streams.sh --profile dev            debug builds of the programs (default: release)
#
# STREAM_BENCH names a bench program (api, `stream`) that is built already. nginx and Chromium are installed with apt when
# they are missing. Exit code 0 only when every promise holds.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"

profile=release
parts=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --profile)
        [ $# -ge 2 ] || die "--profile needs dev or release"
        profile=$2
        shift
        ;;
    redis-cut | postgres-cut | shutdown | nginx | browser | model) parts+=("$1") ;;
    *) die "unknown part: $1 (see --help)" ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(model redis-cut postgres-cut shutdown nginx browser)
case $profile in
dev) bench=(cargo bench --quiet --manifest-path "$root/Cargo.toml" --profile dev -p api --bench stream --) ;;
release) bench=(cargo bench --quiet --manifest-path "$root/Cargo.toml" -p api --bench stream --) ;;
*) die "--profile $profile: dev or release" ;;
esac
if [ -n "${STREAM_BENCH:-}" ]; then bench=("$STREAM_BENCH"); fi

ulimit -n "$(ulimit -Hn)" || warn "the limit of open files stays at $(ulimit -n)"
work=$(mktemp -d)
chmod 711 "$work"
children=()
# shellcheck disable=SC2317 # called by the trap
finish() {
    local pid
    rm -f "$work/told"
    for pid in "${children[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${children[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

# need PROGRAM PACKAGE: installs the package when the program is missing.
need() {
    if command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; then return 0; fi
    may_become_root || die "$1 is missing: apt-get install $2"
    apt_install "$2" || { apt_get update && apt_install "$2"; } || die "$2 could not be installed"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# of NAME: a value of what the served drill has told.
of() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/told" "$1"; }

# serve [RESTART]: the programs on $port, with a run that gets 50 events per second.
serve() {
    port=$(free_port)
    STREAM_PORT=$port STREAM_FILE=$work/told STREAM_RESTART=${1:-} "${bench[@]}" drill serve >"$work/serve.log" 2>&1 &
    served=$!
    children+=("$served")
    until [ -f "$work/told" ]; do
        kill -0 "$served" 2>/dev/null || die "the programs did not start: $(tail -n 5 "$work/serve.log")"
        sleep 0.1
    done
}

# served_ends: removes what is told, which ends the programs.
served_ends() {
    rm -f "$work/told"
    wait "$served" || die "the served programs ended badly: $(tail -n 5 "$work/serve.log")"
}

# A stock proxy with buffering on, as distributions ship it: the first event within 200 ms.
behind_nginx() {
    need nginx nginx-light
    serve
    local front
    front=$(free_port)
    cat >"$work/nginx.conf" <<CONF
daemon off;
pid $work/nginx.pid;
error_log $work/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    server {
        listen 127.0.0.1:$front;
        location / {
            proxy_buffering on;
            proxy_pass http://127.0.0.1:$port;
        }
    }
}
CONF
    PATH=$PATH:/usr/sbin nginx -p "$work" -c "$work/nginx.conf" 2>"$work/nginx.err" &
    children+=($!)
    local good=0
    python3 - "$front" "$(of run)" "$(of token)" <<'PY' || good=1
import http.client, sys, time
port, run, token = int(sys.argv[1]), sys.argv[2], sys.argv[3]
for attempt in range(50):
    try:
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
        break
    except OSError:
        time.sleep(0.1)
worst = 0.0
for attempt in range(10):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    begun = time.monotonic()
    connection.request("GET", f"/agent/logs/{run}/stream?tail=1", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    while not answer.readline().startswith(b"id: "):
        pass
    worst = max(worst, time.monotonic() - begun)
    connection.close()
print(f"nginx: first event after {worst * 1000:.0f} ms at most")
sys.exit(worst > 0.2)
PY
    served_ends
    return $good
}

# A page with nothing but EventSource follows a run through a restart of the API and stops by itself at the end.
in_a_browser() {
    need chromium chromium
    serve restart
    local pages debug
    pages=$(free_port) debug=$(free_port)
    python3 -m http.server --bind 127.0.0.1 --directory "$root/scripts/ci/streams" "$pages" >/dev/null 2>&1 &
    children+=($!)
    local url
    url="http://127.0.0.1:$pages/page.html?api=http://127.0.0.1:$port&run=$(of run)&ticket=$(of ticket)"
    chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --no-proxy-server \
        --user-data-dir="$work/profile" --remote-debugging-port="$debug" "$url" >"$work/chromium.log" 2>&1 &
    children+=($!)
    local good=0
    python3 - "$debug" "$work/told.count" <<'PY' || good=1
import html, json, os, sys, time, urllib.request
debug, count_file = sys.argv[1], sys.argv[2]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
told, deadline = {}, time.monotonic() + 90
while time.monotonic() < deadline:
    time.sleep(0.2)
    try:
        pages = json.load(direct.open(f"http://127.0.0.1:{debug}/json", timeout=5))
        titles = (html.unescape(page["title"]) for page in pages)
        told = json.loads(next(title for title in titles if title.startswith("{")))
    except (OSError, StopIteration, ValueError):
        continue
    if told["state"] == "closed":
        break
count = int(open(count_file).read()) if os.path.exists(count_file) else -1
print(f"browser: {told}, stored {count}")
good = told.get("state") == "closed" and told["complete"] and not told["faults"] and told["seen"] == count and told["opened"] >= 2
sys.exit(not good)
PY
    served_ends
    return $good
}

bad=0
for part in "${parts[@]}"; do
    say "${bold}$part${plain}"
    case $part in
    model) STREAM_MODEL_SCHEDULES=20000 cargo test --quiet --manifest-path "$root/Cargo.toml" -p api --lib stream::model -- --nocapture || bad=1 ;;
    nginx) behind_nginx || bad=1 ;;
    browser) in_a_browser || bad=1 ;;
    *)
        "${bench[@]}" drill "$part" | tee "$work/figures" || bad=1
        if grep -q MISSES "$work/figures"; then bad=1; fi
        ;;
    esac
done
exit $bad
