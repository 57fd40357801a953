#!/usr/bin/env bash
# Faults against the real programs under load, checked from outside: a table, then one line of JSON.
#
#   scripts/ci/chaos.sh                     3 minutes
#   scripts/ci/chaos.sh --seconds 1200      the long form: at least 10,000 faults
#   scripts/ci/chaos.sh --seed S            the same load and order of faults again
#   scripts/ci/chaos.sh --json FILE         writes the JSON to FILE as well
#   scripts/ci/chaos.sh --profile release   release builds of the programs (default: dev)
#   scripts/ci/chaos.sh --breakage NAME     breaks one promise on purpose (dev only): must exit 1
#
# Further arguments: chaos --help. Exit code 0 only when no promise was broken. docs/CHAOS.md explains all of it.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"

profile=dev
args=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
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

# Without it everything but the clock steps is done.
if command -v apt-get >/dev/null && ! compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null && may_become_root; then
    apt_install faketime || warn "libfaketime could not be installed: no clock steps"
fi
say "building (profile $profile)"
cargo build --quiet --manifest-path "$root/Cargo.toml" --profile "$profile" -p api -p worker -p chaos --bins
exec "$target/$dir/chaos" "${args[@]}"
