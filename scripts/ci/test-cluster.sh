#!/usr/bin/env bash
# Asks a real API server whether it would take every manifest, strictly, and whether the worker has its rights and no others.
#
#   TEST_KUBECONFIG=FILE scripts/ci/test-cluster.sh
#
# Makes the namespaces of the manifests where they are missing; everything else is a dry run. Without TEST_KUBECONFIG it says
# that it was left out and ends with 0; REQUIRE_CLUSTER=1 makes that a failure. Kinds of operators that the cluster does not have
# are left out, with a word. The last line is `N passed, N failed`.
set -uo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
no_more
if [ -z "${TEST_KUBECONFIG:-}" ]; then
    complain 'skipped: TEST_KUBECONFIG names no cluster'
    [ -z "${REQUIRE_CLUSTER:-}" ]
    exit
fi
command -v kubectl >/dev/null || missing 'kubectl is missing'
export KUBECONFIG=$TEST_KUBECONFIG
kubectl version --request-timeout=10s >/dev/null 2>&1 || missing 'the cluster does not answer'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
worker=system:serviceaccount:agents:agent-api-sa
passed=0 failed=0

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

# taken NAME < MANIFEST: without a change, a warning or a field that the server does not know.
taken() {
    if kubectl apply --dry-run=server --validate=strict -f - >"$work/said" 2>"$work/error"; then
        # Only of namespaces that somebody made by hand.
        ! grep -v 'last-applied-configuration' "$work/error" | grep -q .
        result $? "$1: $(wc -l <"$work/said") objects"
    elif ! grep -vE 'no matches for kind|ensure CRDs are installed' "$work/error" | grep -q .; then
        echo "skip $1: a kind is not known here: $(grep -o 'no matches for kind.*' "$work/error" | head -n 1)"
        return
    else
        result 1 "$1"
    fi
    sed 's/^/     /' "$work/error"
}

namespaces() {
    local file
    for file in "$root/k8s/namespaces.yaml" "$root"/k8s/overlays/*/namespace.yaml; do
        kubectl apply -f "$file" >/dev/null 2>"$work/error" || {
            cat "$work/error" >&2
            return 1
        }
    done
}

# may YES|NO VERB RESOURCE[/SUBRESOURCE] NAMESPACE
may() {
    local said part=()
    # What comes after a slash would be a name to `can-i`.
    case $3 in */*) part=(--subresource="${3#*/}") ;; esac
    said=$(kubectl auth can-i "$2" "${3%%/*}" ${part[@]+"${part[@]}"} -n "$4" --as="$worker" 2>/dev/null)
    [ "$said" = "$1" ]
    result $? "may the worker $2 $3 in $4: $1"
}

namespaces || missing 'the namespaces cannot be made'
for file in "$root"/k8s/*.yaml "$root"/k8s/jobs/*.yaml; do
    case $file in */kustomization.yaml) continue ;; esac
    taken "${file#"$root"/}" <"$file"
done
for directory in . overlays/dev overlays/staging overlays/prod overlays/gvisor overlays/keda monitoring; do
    kubectl kustomize "$root/k8s/$directory" >"$work/rendered" || result 1 "k8s/$directory renders"
    taken "k8s/$directory" <"$work/rendered"
done

# Rights can only be asked for where the Role is.
if kubectl get role agent-job-spawner -n agent-tools >/dev/null 2>&1; then
    for verb in create get list watch delete; do may yes "$verb" jobs.batch agent-tools; done
    for verb in create get list watch delete; do may yes "$verb" pods agent-tools; done
    for kind in events resourcequotas; do for verb in get list watch; do may yes "$verb" "$kind" agent-tools; done; done
    for kind in configmaps secrets; do for verb in create delete; do may yes "$verb" "$kind" agent-tools; done; done
    may yes get pods/log agent-tools
    for verb in get list watch update patch; do may no "$verb" secrets agent-tools; done
    for verb in update patch deletecollection; do may no "$verb" jobs.batch agent-tools; done
    may no create pods/exec agent-tools
    may no get secrets agents
    may no create jobs.batch agents
else
    echo 'skip rights: the Role agent-job-spawner is not there (deploy-phase2b.sh makes it)'
fi
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
