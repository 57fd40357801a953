#!/usr/bin/env bash
# Load and faults for a live runtime authority: prints `PASS <name>` or `FAIL <name>: <text>`, exit 1 on any failure.
#
#   scripts/runtime-load.sh [--scenario NAME]
#
# Scenarios: append_storm long_run heartbeats redis_down rebuild kill9 (all of them without --scenario).
# BASE_URL is the internal listener (http://127.0.0.1:4100); BEARER_TOKEN or RUNTIME_SIGNATURE_SECRET when it asks for one.
# redis_down, rebuild and kill9 need DATABASE_URL, and AGENT_API, the program's path (default: the one built here).
# docs/LOAD_TESTING.md says what each scenario asks.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/local/common.sh"

case ${1:-} in
-h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

# built NAME PACKAGE: the path of a program, built when it is not there.
built() {
    local dir
    for dir in release debug; do
        if [ -x "$target/$dir/$1" ]; then
            printf '%s' "$target/$dir/$1"
            return
        fi
    done
    say "building $1"
    cargo build --quiet --manifest-path "$root/Cargo.toml" -p "$2" --bin "$1" >&2
    printf '%s' "$target/debug/$1"
}

if [ -z "${AGENT_API:-}" ]; then
    AGENT_API=$(built agent-api api)
fi
load=${RUNTIME_LOAD:-$(built runtime-load testkit)}
export AGENT_API
exec "$load" "$@"
