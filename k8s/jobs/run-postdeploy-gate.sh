#!/usr/bin/env bash
# The gate after a deployment of the runtime service: migrate, then smoke, as Jobs in the cluster.
#
#   NAMESPACE=openagents IMAGE=registry.example/agent-api:1.2 k8s/jobs/run-postdeploy-gate.sh
#
# NAMESPACE   where the runtime service is (default: default)
# IMAGE       image of both Jobs (default: the one in the manifests, agent-api)
# DRY_RUN=1   prints the commands and changes nothing
#
# Each Job: delete the one of an earlier run, apply it with namespace and image filled in, wait until it is complete or
# failed (at most 600 s), print its log. Exit 0: both are complete; 1: one is not, and nothing was run after it;
# 64: wrong use; 69: kubectl is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=${NAMESPACE:-default}
image=${IMAGE:-}
dry_run=${DRY_RUN:-0}
limit=${GATE_TIMEOUT:-600}

case ${1:-} in
-h | --help)
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
'') ;;
*)
    echo "unknown argument: $1 (see --help)" >&2
    exit 64
    ;;
esac
# Both go into a manifest.
if ! [[ $namespace =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]]; then
    echo "NAMESPACE is no name of a namespace: $namespace" >&2
    exit 64
fi
if [ -n "$image" ] && ! [[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]]; then
    echo "IMAGE is no name of an image: $image" >&2
    exit 64
fi

run() {
    if [ "$dry_run" = 1 ]; then
        printf '+ %s\n' "$*"
    else
        "$@"
    fi
}

# manifest JOB: the Job with namespace and image filled in; an existing Job's image is never changed.
manifest() {
    sed -e "s|^  namespace: default\$|  namespace: $namespace|" \
        -e "s|http://runtime\.default\.svc|http://runtime.$namespace.svc|" \
        ${image:+-e "s|^\( *image:\) .*|\1 $image|"} "$here/$1.yaml"
}

# ended JOB: waits until the Job is complete (0) or failed, or the time is over (1).
ended() {
    local deadline=$((SECONDS + limit))
    while [ "$SECONDS" -lt "$deadline" ]; do
        if kubectl wait --for=condition=complete "job/$1" -n "$namespace" --timeout=5s >/dev/null 2>&1; then return 0; fi
        if kubectl wait --for=condition=failed "job/$1" -n "$namespace" --timeout=1s >/dev/null 2>&1; then
            echo "$1 failed" >&2
            return 1
        fi
        sleep 1
    done
    echo "$1 has not ended within $limit s" >&2
    return 1
}

job() {
    local good=0
    run kubectl delete job "$1" -n "$namespace" --ignore-not-found --wait=true || return 1
    if [ "$dry_run" = 1 ]; then
        printf '+ kubectl apply -n %s -f - <<EOF\n%s\nEOF\n' "$namespace" "$(manifest "$1")"
        printf '+ kubectl wait --for=condition=complete job/%s -n %s --timeout=%ss\n' "$1" "$namespace" "$limit"
    else
        manifest "$1" | kubectl apply -n "$namespace" -f - || return 1
        ended "$1" || good=1
    fi
    run kubectl logs "job/$1" -n "$namespace" --tail=200 || true
    return "$good"
}

if [ "$dry_run" != 1 ] && ! command -v kubectl >/dev/null; then
    echo "kubectl is missing" >&2
    exit 69
fi
for name in runtime-migrate runtime-smoke; do
    if ! job "$name"; then
        echo "post-deploy gate: $name did not pass" >&2
        exit 1
    fi
done
if [ "$dry_run" != 1 ]; then echo "post-deploy gate passed"; fi
