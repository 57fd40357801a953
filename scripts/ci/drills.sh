#!/usr/bin/env bash
# Measured drills of recovery: each starts the real programs, does one thing to them, and compares how they recover with a goal.
#
#   scripts/ci/drills.sh                     all of them, about 45 minutes
#   scripts/ci/drills.sh take-over cancel    only these: flushall redis-away take-over false-take-overs stopped cancel due failover
#   scripts/ci/drills.sh --seconds 3600      how long false-take-overs keeps the CPUs busy (default: 600)
#   scripts/ci/drills.sh --json FILE         writes the lines of JSON to FILE as well
#   scripts/ci/drills.sh --profile dev       debug builds of the programs (default: release)
#
# Further arguments: chaos drill --help. Exit code 0 only when every goal is met. docs/CHAOS.md explains all of it.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"

profile=release
args=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --profile)
        [ $# -ge 2 ] || die "--profile needs dev or release"
        profile=$2
        shift
        ;;
    *) args+=("$1") ;;
    esac
    shift
done
case $profile in
dev) dir=debug ;;
release) dir=release ;;
*) die "--profile $profile: dev or release" ;;
esac

say "building (profile $profile)"
cargo build --quiet --manifest-path "$root/Cargo.toml" --profile "$profile" -p api -p worker -p chaos --bins
exec "$target/$dir/chaos" drill "${args[@]}"
