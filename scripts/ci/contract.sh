#!/usr/bin/env bash
# The running API against its own description: schemathesis with all checks, good and bad data, then a report.
#
#   scripts/ci/contract.sh                  20 examples per operation, about two minutes
#   scripts/ci/contract.sh --examples N     more of them
#   scripts/ci/contract.sh --install        installs schemathesis and does nothing else
#   scripts/ci/contract.sh --slow-sockets N half-open connections of the slowloris test as well (1000)
#
# Postgres, Redis and the API are started for it on free ports. Schemathesis is installed with pip into a virtual
# environment in the target directory; SCHEMATHESIS=PROGRAM uses one that is there. Exit code 0 only when nothing was found.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"

version=4.32.5
examples=20
sockets=''
install=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --install) install=yes ;;
    --examples | --slow-sockets)
        [ $# -ge 2 ] || die "$1 needs a number"
        case $2 in '' | *[!0-9]*) die "$1: $2 is no number" ;; esac
        if [ "$1" = --examples ]; then examples=$2; else sockets=$2; fi
        shift
        ;;
    *) die "unknown argument: $1 (see --help)" ;;
    esac
    shift
done

# schemathesis_program: installs it when it is not there.
schemathesis_program() {
    local environment=$target/schemathesis-$version
    if [ ! -x "$environment/bin/schemathesis" ]; then
        command -v python3 >/dev/null || die "there is no python3; schemathesis needs it. Debian/Ubuntu: apt-get install python3-venv"
        python3 -m venv "$environment" >&2 || die "python3 cannot make a virtual environment. Debian/Ubuntu: apt-get install python3-venv"
        say "installing schemathesis $version with pip"
        "$environment/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version" >&2 ||
            die "pip could not install schemathesis $version: is a package index within reach? Nothing was checked."
    fi
    printf '%s\n' "$environment/bin/schemathesis"
}

if [ -n "$install" ]; then
    schemathesis_program >/dev/null
    exit 0
fi
need_cargo
if ! have_redis || ! have_postgres_programs; then
    REDIS_URL='' DATABASE_URL='' what_is_missing >&2
    die "the check needs real servers, see above"
fi
SCHEMATHESIS=${SCHEMATHESIS:-$(schemathesis_program)}
export SCHEMATHESIS CONTRACT_EXAMPLES=$examples
cd "$root"
say "schemathesis, $examples examples per operation"
cargo test --quiet -p api --test it -- --nocapture the_program_keeps_to_its_description
if [ -n "$sockets" ]; then
    say "slowloris, $sockets half-open connections"
    SLOW_SOCKETS=$sockets cargo test --quiet -p api --test it -- half_sent_headers
fi
