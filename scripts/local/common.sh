# shellcheck shell=bash
# What run.sh, test.sh and build.sh share: messages, and installing what is missing.
# Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac

# The colours are for those who source this.
# shellcheck disable=SC2034
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' dim=$'\e[2m' plain=$'\e[0m'
else
    bold='' red='' green='' yellow='' dim='' plain=''
fi

say() { printf '%s\n' "${dim}::${plain} $*" >&2; }
warn() { printf '%s\n' "${yellow}!!${plain} $*" >&2; }
die() {
    printf '%s\n' "${red}error:${plain} $*" >&2
    exit 1
}

# take_service ARGUMENT...: takes out --service (or SERVICE); the others are left in $rest. There is one service: agents.
take_service() {
    local service=${SERVICE:-agents}
    rest=()
    while [ $# -gt 0 ]; do
        case $1 in
        --service=*) service=${1#*=} ;;
        --service)
            service=${2:-}
            if [ $# -gt 1 ]; then shift; fi
            ;;
        *) rest+=("$1") ;;
        esac
        shift
    done
    case $service in
    agents) ;;
    agent-executor)
        warn "the service agent-executor is not part of this version; there is --service agents"
        exit 69
        ;;
    *)
        warn "unknown service: ${service:-none} (see --help)"
        exit 64
        ;;
    esac
}

# setting NAME: the value of the environment or of .env, as the programs read it.
setting() {
    local name=$1
    if [ -n "${!name:-}" ]; then
        printf '%s' "${!name}"
    elif [ -f .env ]; then
        sed -n "s/^\(export \)\{0,1\}$name=\([\"']\{0,1\}\)\(.*\)\2\$/\3/p" .env | tail -n 1
    fi
}

# version_at_least PROGRAM MINIMUM SED: the number that SED finds in `PROGRAM --version`.
version_at_least() {
    local found
    [ -x "$1" ] || return 1
    found=$("$1" --version 2>/dev/null | sed -n "$3" | head -n 1)
    [ -n "$found" ] && [ "$found" -ge "$2" ]
}

have_redis() {
    local bin=${REDIS_BIN:-} dir name
    if [ -n "$(setting REDIS_URL)" ]; then return 0; fi
    if [ -n "$bin" ] && [ -d "$bin" ]; then bin=$bin/redis-server; fi
    if [ -n "$bin" ] && version_at_least "$bin" 7 's/.*v=\([0-9]*\)\..*/\1/p'; then return 0; fi
    while IFS= read -r -d : dir; do
        for name in redis-server valkey-server; do
            if version_at_least "$dir/$name" 7 's/.*v=\([0-9]*\)\..*/\1/p'; then return 0; fi
        done
    done <<<"$PATH:/usr/bin:/usr/local/bin:/opt/homebrew/bin:/home/linuxbrew/.linuxbrew/bin:"
    return 1
}

have_postgres() {
    if [ -n "$(setting DATABASE_URL)" ]; then return 0; fi
    have_postgres_programs
}

have_postgres_programs() {
    local dir
    for dir in "${PG_BIN:-}" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin \
        /usr/local/opt/postgresql@*/bin /Applications/Postgres.app/Contents/Versions/*/bin ${PATH//:/ }; do
        if [ -x "$dir/initdb" ] && version_at_least "$dir/postgres" 15 's/.*) \([0-9]*\).*/\1/p'; then return 0; fi
    done
    return 1
}

have_compiler() { command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null; }

need_cargo() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
    command -v cargo >/dev/null ||
        die "there is no Rust toolchain. Install one: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

may_become_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }
}

# apt_install PACKAGE...: without starting the services that come with them, now or at the next boot.
apt_install() {
    local policy=/usr/sbin/policy-rc.d made='' package unit failed=''
    say "installing with apt: ${bold}$*${plain}"
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        made=yes
    fi
    apt_get install "$@" || failed=yes
    if [ -n "$made" ]; then as_root rm -f "$policy"; fi
    if [ -d /run/systemd/system ]; then
        for package in "$@"; do
            case $package in
            redis-server) unit=redis-server ;;
            postgresql*) unit=postgresql ;;
            *) continue ;;
            esac
            as_root systemctl disable --now "$unit" >/dev/null 2>&1 || true
        done
    fi
    [ -z "$failed" ]
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

# postgres_package: the newest server package of 15 or above that apt knows.
postgres_package() {
    apt-cache search --names-only '^postgresql-[0-9]+$' | sed -n 's/^postgresql-\([0-9]*\) .*/\1/p' |
        sort -n | awk '$1 >= 15 { newest = $1 } END { if (newest) print "postgresql-" newest; else print "postgresql" }'
}

with_apt() {
    local packages=() postgres=''
    have_redis || packages+=(redis-server)
    have_postgres || postgres=yes
    have_compiler || packages+=(gcc libc6-dev)
    command -v bwrap >/dev/null || packages+=(bubblewrap)
    [ -x /usr/bin/python3 ] || packages+=(python3-minimal)
    command -v curl >/dev/null || packages+=(curl ca-certificates)
    if [ ${#packages[@]} -eq 0 ] && [ -z "$postgres" ]; then return 0; fi
    if ! may_become_root; then
        warn "missing, and neither root nor sudo is there to install it: ${packages[*]} ${postgres:+postgresql}"
        return 0
    fi
    apt_get update || warn "apt-get update failed; trying with the lists that are there"
    # The name of the Postgres package is only known once there are lists.
    if [ -n "$postgres" ]; then packages+=("$(postgres_package)"); fi
    apt_install "${packages[@]}" || warn "apt could not install all of: ${packages[*]}"
}

with_brew() {
    local packages=()
    have_redis || packages+=(redis)
    have_postgres || packages+=(postgresql@17)
    if ! have_compiler; then die "there is no C compiler. Install one: xcode-select --install"; fi
    if [ ${#packages[@]} -gt 0 ]; then
        say "installing with Homebrew: ${bold}${packages[*]}${plain}"
        HOMEBREW_NO_AUTO_UPDATE=1 HOMEBREW_NO_INSTALL_CLEANUP=1 brew install --quiet "${packages[@]}" >&2 ||
            warn "Homebrew could not install all of: ${packages[*]}"
    fi
}

# install_missing: Redis, Postgres, a C compiler, bubblewrap; silent and quick when nothing is missing.
install_missing() {
    if [ "$(uname -s)" = Darwin ]; then
        if command -v brew >/dev/null; then with_brew; fi
        say "macOS has no bubblewrap: the tools shell and code will refuse to run"
    elif command -v apt-get >/dev/null; then
        with_apt
    fi
    have_compiler || die "there is no C compiler (cc). Debian/Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc"
    if [ "$(uname -s)" = Linux ] && ! command -v bwrap >/dev/null; then
        warn "no bubblewrap (bwrap): the tools shell and code will refuse to run"
    fi
}

have_chromium() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }

# install_for_tests: what only tests need: a Chromium, and npm and pip for the MCP servers of the tests.
install_for_tests() {
    local packages=()
    have_chromium || packages+=(chromium)
    command -v npm >/dev/null || packages+=(nodejs npm)
    python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
    if [ ${#packages[@]} -gt 0 ] && command -v apt-get >/dev/null && may_become_root; then
        apt_get update || warn "apt-get update failed; trying with the lists that are there"
        apt_install "${packages[@]}" || warn "apt could not install all of: ${packages[*]}"
    fi
    "$root/scripts/local/mcp-servers.sh" "$target/mcp-servers" || warn "the MCP servers of the tests cannot be installed"
}

# what_is_missing: one line with the remedy per server that is still not there.
what_is_missing() {
    have_redis || printf '%s\n' "Redis 7 or newer: Debian 12+/Ubuntu 24.04+: apt-get install redis-server; Fedora: dnf install valkey; macOS: brew install redis; or set REDIS_URL or REDIS_BIN"
    have_postgres || printf '%s\n' "PostgreSQL 15 or newer: Debian 12+/Ubuntu 24.04+: apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql@17; or set DATABASE_URL or PG_BIN"
}
