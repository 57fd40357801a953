#!/usr/bin/env bash
# Tests of what deploys: manifests, images and the two deployment scripts. Needs no cluster.
#
#   scripts/ci/test-deploy.sh            all
#   scripts/ci/test-deploy.sh TEXT       only tests whose name holds TEXT (words joined by _)
#
# The scripts run against a fake kubectl and a fake API; where the programs are built, verify-phase2b.sh also runs once
# against them. The manifests are rendered with kubectl and left out, with a word, where there is none.
# The last line is `N passed, N failed`.
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"

case ${1:-} in
-h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
-*) die "unknown argument: $1 (see --help)" ;;
esac

passed=0 failed=0
log=$(mktemp)
home=$(mktemp -d)
trap 'rm -rf "$log" "$home"' EXIT

# A Python that can read YAML; the one of the system gets it from a package.
python=''
for candidate in /usr/bin/python3 python3; do
    if "$candidate" -c 'import yaml' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || die "no Python with PyYAML: Debian/Ubuntu: apt-get install python3-yaml"

# tests COMMAND...: a run of tests; its closing line counts.
tests() {
    local status good bad
    PYTHONDONTWRITEBYTECODE=1 "$@" </dev/null | tee "$log"
    status=${PIPESTATUS[0]}
    read -r good bad <<<"$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1)"
    if [ "$status" -ne 0 ] && [ "${bad:-0}" -eq 0 ]; then bad=1; fi
    passed=$((passed + ${good:-0}))
    failed=$((failed + ${bad:-0}))
}

# result STATUS NAME
result() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok   $2"
    else
        failed=$((failed + 1))
        echo "FAIL $2"
    fi
}

# programs: the directory of the built programs, the newer ones first.
programs() {
    local dir
    for dir in "$target/debug" "$target/release"; do
        if [ -x "$dir/agentctl" ] && [ -x "$dir/agent-api" ] && [ -x "$dir/agent-worker" ]; then
            echo "$dir"
            return
        fi
    done
}

# A system of its own on free ports, and the verification of it from outside.
against_the_real_programs() {
    local bin status
    bin=$(programs)
    if [ -z "$bin" ]; then
        say "skipped: the programs are not built, so verify-phase2b.sh does not run against them"
        return
    fi
    # As root the private Postgres is another user, who has to get there.
    chmod 711 "$home"
    if ! "$bin/agentctl" up --detach --home "$home/up" >"$log" 2>&1; then
        cat "$log"
        result 1 "the programs start"
        return
    fi
    (
        # shellcheck disable=SC1091
        . "$home/up/env"
        TOKEN=$TOKEN API_URL=$API_URL "$root/verify-phase2b.sh" --no-cluster
    ) 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    "$bin/agentctl" up --down --home "$home/up" >/dev/null 2>&1 || status=1
    grep -qx 'PASS 9' "$log" || status=1
    result "$status" "verify without a cluster passes against the real programs"
}

renders() { command -v kubectl >/dev/null && kubectl kustomize "$root/k8s/base" >/dev/null 2>&1; }

tests "$python" "$here/deploy/test_scripts.py" "$@"
if renders; then
    tests "$python" "$here/deploy/test_manifests.py" "$@"
else
    say "skipped: no kubectl (1.27 or newer) is here, so the manifests are not rendered"
fi
if "$python" -c 'import celpy' 2>/dev/null; then
    tests "$python" "$here/deploy/test_admission.py" "$@"
else
    say "skipped: no CEL interpreter (pip install cel-python), so the admission policies are not evaluated"
fi
if [ $# -eq 0 ]; then against_the_real_programs; fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
