#!/usr/bin/env bash
# Becomes one of the two programs, after a look at the settings it cannot do without. Signals reach the program.
#
#   scripts/ci/run.sh [--service agents] api|worker [ARGUMENT...]
#
# It is taken from the PATH, else from target/release or target/debug. Exit codes: those of the program; 64 wrong use or
# missing settings, all named in one line; 69 the program is not here.
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# given NAME: in the environment, or in .env of the working directory; an empty value counts as absent.
given() {
    [ -n "${!1:-}" ] || { [ -f .env ] && grep -qE "^(export )?$1=[\"']?[^\"']" .env; }
}

# need TEXT NAME...: one of the names, where A+B stands for both.
need() {
    local text=$1 name
    shift
    for name in "$@"; do
        case $name in
        *+*) if given "${name%+*}" && given "${name#*+}"; then return; fi ;;
        *) if given "$name"; then return; fi ;;
        esac
    done
    lacks+=("$text")
}

read_common "$@"
[ -z "$dry_run" ] || wrong_use "there is no --dry-run here"
[ ${#arguments[@]} -gt 0 ] || wrong_use "api or worker?"
case ${arguments[0]} in
api | worker) program=agent-${arguments[0]} ;;
*) wrong_use "neither api nor worker: ${arguments[0]}" ;;
esac

lacks=()
need 'DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD)' DATABASE_URL POSTGRES_HOST+POSTGRES_PASSWORD
surfaces=${API_SURFACES:-public}
if [ "$program" = agent-worker ] || [[ $surfaces == *public* ]] || given RUNTIME_SIGNATURE_SECRET; then
    need 'REDIS_URL (or DRAGONFLY_HOST)' REDIS_URL DRAGONFLY_HOST
fi
if [ "$program" = agent-api ] && [[ $surfaces == *public* ]]; then need 'JWT_SECRET (or JWT_JWKS_URL)' JWT_SECRET JWT_JWKS_URL; fi
if [ ${#lacks[@]} -gt 0 ]; then
    line=$(printf ', %s' "${lacks[@]}")
    complain "missing required settings: ${line#, }"
    exit 64
fi

target=${CARGO_TARGET_DIR:-$root/target}
for candidate in "$(command -v "$program" || true)" "$target/release/$program" "$target/debug/$program"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then exec "$candidate" "${arguments[@]:1}"; fi
done
missing "$program is neither in the PATH nor built: cargo build --release -p ${arguments[0]}"
