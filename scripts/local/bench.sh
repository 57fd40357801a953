#!/usr/bin/env bash
# Figures of the release programs, beside what the stores alone can do here: a table, then one line of JSON.
#
#   scripts/local/bench.sh                  medians of 5 rounds
#   scripts/local/bench.sh --quick          few rounds, to see that it works
#   scripts/local/bench.sh --json FILE      writes the JSON to FILE as well
#   scripts/local/bench.sh queue            the queue alone, beside plain Redis; takes --quick and --json too
#   scripts/local/bench.sh stream           the streams, beside plain axum and Postgres; takes --quick, --json and --only too
#   scripts/local/bench.sh sandbox          the local sandbox, beside bubblewrap and bare processes; takes --quick and --json too
#   scripts/local/bench.sh kubernetes       tools as Jobs of a fake cluster; takes --quick and --json too
#   scripts/local/bench.sh model            our loop around a model call; takes --quick and --json too
#   scripts/local/bench.sh --only PART      some parts of: ceilings start memory create way steps idle held
#
# PROFILE=dev measures debug builds. The servers' data lies below BENCH_DIR (/var/tmp) on the disk, not in memory.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/common.sh"

case ${1:-} in
-h | --help)
    sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

if [ "${1:-}" = queue ] || [ "${1:-}" = stream ] || [ "${1:-}" = sandbox ] || [ "${1:-}" = kubernetes ] || [ "${1:-}" = model ]; then
    bench=$1 package=queue
    if [ "$bench" = stream ]; then package=api; fi
    if [ "$bench" = sandbox ]; then package=worker; fi
    if [ "$bench" = model ]; then
        package=worker
        cargo build --manifest-path "$root/Cargo.toml" --release -p worker --bins
    fi
    if [ "$bench" = kubernetes ]; then
        package=worker
        # The programs it starts lie beside it.
        cargo build --manifest-path "$root/Cargo.toml" --release -p api -p worker -p tool-supervisor --bins
    fi
    shift
    data=$(mktemp -d "${BENCH_DIR:-/var/tmp}/agent-bench.XXXXXX")
    trap 'rm -rf "$data"' EXIT
    # Postgres drops root's rights, so its directory must be passable.
    chmod 711 "$data"
    ulimit -n "$(ulimit -Hn)" || warn "the limit of open files stays at $(ulimit -n)"
    say "building and measuring ($bench); the data lies in $data"
    TESTKIT_DIR=$data cargo bench --manifest-path "$root/Cargo.toml" -p "$package" --bench "$bench" -- "$@"
    exit
fi

profile=${PROFILE:-release}
dir=release
if [ "$profile" = dev ]; then dir=debug; fi
say "building (profile $profile)"
cargo build --manifest-path "$root/Cargo.toml" --profile "$profile" -p api -p worker -p cli --bins
cargo build --manifest-path "$root/Cargo.toml" --profile "$profile" -p testkit --features s3 --bin bench

# Postgres drops root's rights, so its directory must be passable.
data=$(mktemp -d "${BENCH_DIR:-/var/tmp}/agent-bench.XXXXXX")
trap 'rm -rf "$data"' EXIT
chmod 711 "$data"
say "measuring; the data lies in $data"
TESTKIT_DIR=$data "$target/$dir/bench" "$@"
