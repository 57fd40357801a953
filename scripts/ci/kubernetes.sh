#!/usr/bin/env bash
# Tools as Kubernetes Jobs: workers killed at every named point of a call, and the sandbox's cases on a real cluster.
#
#   scripts/ci/kubernetes.sh                 100 kills over all points, against the fake cluster
#   scripts/ci/kubernetes.sh --rounds N      so many
#   scripts/ci/kubernetes.sh --cluster       the cases on the cluster of TEST_KUBECONFIG instead
#
# For --cluster: TEST_KUBECONFIG (a kubeconfig with the rights of k8s/rbac.yaml), K8S_TOOL_NAMESPACE (agent-tools), TOOL_IMAGE
# (an image that the nodes have), and a store that pods and this machine reach under one address: TEST_S3_ENDPOINT,
# TEST_S3_BUCKET (agent-workspaces), TEST_S3_ACCESS_KEY, TEST_S3_SECRET_KEY. Without TEST_KUBECONFIG it says
# `skipped: no cluster`; REQUIRE_CLUSTER=1 makes that a failure. Last line: `N passed, N failed`.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"

rounds=100 cluster=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --rounds)
        [ $# -ge 2 ] || die "--rounds needs a number"
        rounds=$2
        shift
        ;;
    --cluster) cluster=yes ;;
    *) die "unknown argument: $1 (see --help)" ;;
    esac
    shift
done

# summed LOG: `N passed, N failed` of a run of cargo.
summed() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /^test result: / { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) good += $i; if ($(i + 1) ~ /^failed/) bad += $i } }
        END { printf "%d passed, %d failed\n", good, bad }'
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cd "$root" || die "cannot enter $root"
status=0
if [ -n "$cluster" ]; then
    if [ -z "${TEST_KUBECONFIG:-}" ]; then
        echo "skipped: no cluster"
        if [ "${REQUIRE_CLUSTER:-}" = 1 ]; then
            echo "0 passed, 1 failed"
            exit 1
        fi
        echo "0 passed, 0 failed"
        exit 0
    fi
    cargo test -p worker --test kubernetes -- --nocapture --test-threads 4 conformance:: 2>&1 | tee "$log" || status=1
else
    say "building"
    cargo build --quiet --workspace --bins
    KUBERNETES_KILL_ROUNDS=$rounds cargo test -p worker --test kubernetes -- --nocapture kills:: 2>&1 | tee "$log" || status=1
fi
summed "$log"
exit $status
