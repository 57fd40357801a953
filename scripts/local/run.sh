#!/usr/bin/env bash
# The one command: installs what is missing, builds, and starts the whole system on this machine.
#
#   scripts/local/run.sh [--service agents] [--detach] [--home DIR] [--api-port N] [--workers N]
#   scripts/local/run.sh --down [--home DIR]
#
# Data, secrets and logs are in .agent/ of the repository (or --home DIR). See `agentctl up --help`.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/common.sh"

usage() { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

take_service "$@"
set -- ${rest[@]+"${rest[@]}"}
down='' home=''
for argument in "$@"; do
    case $argument in
    -h | --help)
        usage
        exit 0
        ;;
    --down) down=yes ;;
    --home | --home=*) home=yes ;;
    esac
done
# Without --home the home is the repository's, wherever this was called from.
if [ -z "$home" ]; then set -- --home "$root/.agent" "$@"; fi

agentctl=$target/release/agentctl
if [ -n "$down" ]; then
    if [ ! -x "$agentctl" ]; then
        say "nothing is built, so nothing runs"
        exit 0
    fi
    exec "$agentctl" up "$@"
fi

# fresh: the programs are there and nothing they are made of is newer.
fresh() {
    local program oldest=$agentctl
    for program in agentctl agent-api agent-worker; do
        [ -x "$target/release/$program" ] || return 1
        if [ "$target/release/$program" -ot "$oldest" ]; then oldest=$target/release/$program; fi
    done
    [ -z "$(find "$root/crates" "$root/migrations" "$root/Cargo.toml" "$root/Cargo.lock" "$root/rust-toolchain.toml" \
        -newer "$oldest" -type f -print -quit)" ]
}

build() {
    need_cargo
    say "building release programs into $target (the first time takes some minutes)"
    (cd "$root" && cargo build --release -p api -p worker -p cli --bins --quiet) >&2 ||
        die "the build failed; see above"
    # Cargo leaves up-to-date programs alone; the next start compares their times.
    touch -c "$target"/release/{agentctl,agent-api,agent-worker}
}

install_missing
missing=$(what_is_missing)
if [ -n "$missing" ]; then
    compose=$root/docker-compose.yml
    if [ -f "$compose" ] && command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        warn "not to be had here as programs, so everything runs in containers instead:"
        printf '%s\n' "$missing" >&2
        # Without one of the caller's: known to this start only, so keys of `agent-api keys` are the way in.
        JWT_SECRET=${JWT_SECRET:-$(setting JWT_SECRET)}
        export JWT_SECRET=${JWT_SECRET:-$(head -c 32 /dev/urandom | base64)}
        exec docker compose -f "$compose" up --build
    fi
    printf '%s\n' "$missing" >&2
    die "servers are missing, see above"
fi
fresh || build
exec "$agentctl" up "$@"
