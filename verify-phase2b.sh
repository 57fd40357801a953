#!/usr/bin/env bash
# Checks a deployment from outside: the cluster's objects, then one real run from its creation to the end of its stream.
#
#   TOKEN=... ./verify-phase2b.sh [options]
#
#   --no-cluster      leaves out the steps that need kubectl (reported as SKIP)
#   --namespace NS    where the programs run (default: agents)
#   --context CTX     context of kubectl (default: the current one)
#   --dry-run         prints the commands and changes nothing
#   --help            this text
#
# In the environment: TOKEN (a JWT or an API key; never printed, in nobody's arguments), API_URL (default
# http://127.0.0.1:8000), VERIFY_TIMEOUT (seconds the run may take, default 120).
#
# Each step prints PASS n, SKIP n or FAIL n: reason. Exit codes: 0 no step failed; 1 a step failed; 64 wrong use or a
# missing variable; 69 curl or kubectl is missing, or the cluster does not answer.
set -uo pipefail

namespace=agents
context=''
cluster=yes
dry_run=''
api=${API_URL:-http://127.0.0.1:8000}
api=${api%/}
limit=${VERIFY_TIMEOUT:-120}
limit=${limit%s}

failed=0 skipped=0
run_id='' finished=''

complain() { printf '%s\n' "$*" >&2; }
usage() { sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

wrong_use() {
    complain "$1 (see --help)"
    exit 64
}

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --no-cluster) cluster='' ;;
        --dry-run) dry_run=yes ;;
        --namespace=* | --context=*)
            set_option "${1%%=*}" "${1#*=}"
            ;;
        --namespace | --context)
            [ $# -ge 2 ] || wrong_use "$1 needs a value"
            set_option "$1" "$2"
            shift
            ;;
        *) wrong_use "unknown argument: $1" ;;
        esac
        shift
    done
}

set_option() {
    [ -n "$2" ] || wrong_use "$1 needs a value"
    case $1 in
    --namespace) namespace=$2 ;;
    --context) context=$2 ;;
    esac
}

check_arguments() {
    [[ $limit =~ ^[1-9][0-9]{0,5}$ ]] || wrong_use "VERIFY_TIMEOUT is no number of seconds: $limit"
    [[ $api =~ ^https?://[^[:space:]]+$ ]] || wrong_use "API_URL is no http URL"
    if [ -z "${TOKEN:-}" ]; then
        complain 'missing required variables: TOKEN'
        exit 64
    fi
}

check_programs() {
    command -v curl >/dev/null || {
        complain 'curl is missing'
        exit 69
    }
    [ -n "$cluster" ] || return 0
    command -v kubectl >/dev/null || {
        complain 'kubectl is missing (--no-cluster leaves out what needs it)'
        exit 69
    }
    kubectl version --request-timeout=10s ${context:+--context "$context"} >/dev/null 2>"$work/error" || {
        complain "the cluster does not answer: $(tail -n 1 "$work/error")"
        exit 69
    }
}

# --- The steps' results ---------------------------------------------------------------------------------------------

# why TEXT: the reason of the step that is about to fail.
why() {
    reason=$1
    return 1
}

# step N cluster|api NAME FUNCTION
step() {
    reason=''
    if [ "$2" = cluster ] && [ -z "$cluster" ]; then
        printf 'SKIP %s\n' "$1"
        skipped=$((skipped + 1))
    elif "$4"; then
        printf 'PASS %s\n' "$1"
    else
        printf 'FAIL %s: %s\n' "$1" "${reason:-$3}"
        failed=$((failed + 1))
    fi
}

# last_error: the last line kubectl or curl complained with.
last_error() { tail -n 1 "$work/error" 2>/dev/null; }

# --- The API --------------------------------------------------------------------------------------------------------

# text_of KEY: the first text under this key of a JSON object on stdin.
text_of() { grep -oE "\"$1\" *: *\"[^\"]*\"" | head -n 1 | sed -E 's/^"[^"]*" *: *"//; s/"$//'; }

# execute BODY: POST /agent/execute; the body of the answer into $answer. Fails, with the reason, unless it is a 200.
execute() {
    local code
    answer=''
    code=$(printf '%s' "$1" | curl -sS --max-time 15 -o "$work/body" -w '%{http_code}' -X POST -H @"$work/headers" \
        -H 'Content-Type: application/json' --data-binary @- "$api/agent/execute" 2>"$work/error") || {
        why "no answer from $api: $(last_error)"
        return 1
    }
    answer=$(cat "$work/body")
    [ "$code" = 200 ] || why "POST /agent/execute answered $code: $(printf '%s' "$answer" | text_of detail)"
}

status_of_run() {
    execute "{\"action\":\"status\",\"run_id\":\"$run_id\"}" || return 1
    status=$(printf '%s' "$answer" | text_of status)
}

# --- The steps ------------------------------------------------------------------------------------------------------

deployments_available() {
    local name
    for name in agent-api agent-worker; do
        kubectl wait --for=condition=available "deployment/$name" "${at[@]}" --timeout=30s >/dev/null 2>"$work/error" ||
            why "$name is not available: $(last_error)" || return 1
    done
}

pods_ready() {
    local unready
    kubectl get pods "${at[@]}" -l 'app in (agent-api,agent-worker)' --no-headers >"$work/pods" 2>"$work/error" ||
        why "pods cannot be listed: $(last_error)" || return 1
    # Those of an old version that are ending, and finished ones, are not asked.
    unready=$(awk '$1 == "NAME" || $3 == "Terminating" || $3 == "Completed" || $3 == "Succeeded" { next }
        { seen++; split($2, part, "/"); if (part[1] != part[2] || part[2] == 0 || $3 != "Running") print $1 " (" $2 " " $3 ")" }
        END { if (!seen) print "none is there" }' "$work/pods" | paste -sd ' ' -)
    [ -z "$unready" ] || why "not ready: $unready"
}

worker_log() {
    local line
    kubectl logs deployment/agent-worker "${at[@]}" --tail=500 >"$work/log" 2>"$work/error" ||
        why "the log cannot be read: $(last_error)" || return 1
    line=$(grep -iE 'fatal|panicked at' "$work/log" | head -n 1 | cut -c 1-200)
    [ -z "$line" ] || why "fatal line in the log: $line"
}

redis_answers() {
    local said
    kubectl get secret agent-api-secrets "${at[@]}" -o json >"$work/secret" 2>"$work/error" ||
        why "the secret cannot be read: $(last_error)" || return 1
    said=$(text_of REDIS_URL <"$work/secret")
    rm -f "$work/secret"
    [ -n "$said" ] || why 'the secret agent-api-secrets has no REDIS_URL' || return 1
    # The URL is expanded in the pod; here nobody sees it.
    # shellcheck disable=SC2016
    said=$(kubectl exec deployment/agent-worker "${at[@]}" -- \
        sh -c 'redis-cli --no-auth-warning -u "$REDIS_URL" PING' 2>"$work/error") ||
        why "redis-cli in the worker failed: $(last_error)" || return 1
    [[ $said == *PONG* ]] || why 'Redis did not answer PING with PONG'
}

run_created() {
    execute '{"action":"create","prompt":"List files"}' || return 1
    run_id=$(printf '%s' "$answer" | text_of run_id)
    status=$(printf '%s' "$answer" | text_of status)
    [[ $run_id =~ ^[0-9a-fA-F-]{36}$ ]] || {
        run_id=''
        why 'the answer to create has no run_id'
        return 1
    }
    [ "$status" = created ] || why "create answered status ${status:-none}, not created"
}

run_started() {
    [ -n "$run_id" ] || why 'there is no run (step 5)' || return 1
    execute "{\"action\":\"start\",\"run_id\":\"$run_id\"}" || return 1
    status=$(printf '%s' "$answer" | text_of status)
    [ "$status" = queued ] || why "start answered status ${status:-none}, not queued" || return 1
    started=yes
}

# until_status SECONDS CONDITION: polls the run's status until CONDITION, a function, holds for $status.
until_status() {
    local deadline=$((SECONDS + $1))
    while :; do
        status_of_run || return 1
        if "$2"; then return 0; fi
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.5
    done
}

# at_most SECONDS: no step takes longer than the whole run may.
at_most() { if [ "$1" -lt "$limit" ]; then echo "$1"; else echo "$limit"; fi; }

left_queue() { [ -n "$status" ] && [ "$status" != queued ]; }
ended() { case $status in completed | failed | cancelled | timed_out | timeout) finished=yes ;; *) return 1 ;; esac; }

run_taken() {
    [ -n "$started" ] || why 'the run was not started (step 6)' || return 1
    until_status "$(at_most 30)" left_queue || why "${reason:-the run is still queued after $(at_most 30) s: does a worker run?}"
}

run_completed() {
    [ -n "$started" ] || why 'the run was not started (step 6)' || return 1
    until_status "$limit" ended || why "${reason:-the run is still $status after $limit s}" || return 1
    [ "$status" = completed ] || why "the run ended $status: $(printf '%s' "$answer" | text_of error_message)"
}

stream_whole() {
    local kind
    [ -n "$started" ] || why 'the run was not started (step 6)' || return 1
    # It ends by itself after `complete`; of a run that never ends there is nothing more to wait for.
    curl -sSN --max-time "$(at_most 15)" -H @"$work/headers" -H 'Accept: text/event-stream' \
        "$api/agent/logs/$run_id/stream" >"$work/stream" 2>"$work/error"
    for kind in connected log complete; do
        grep -qE "^data: *\{.*\"type\" *: *\"$kind\"" "$work/stream" || why "the stream has no $kind frame" || return 1
    done
}

worker_reaches_s3() {
    local said
    # shellcheck disable=SC2016
    kubectl exec deployment/agent-worker "${at[@]}" -- sh -c \
        'for name in S3_ENDPOINT S3_WORKSPACE_BUCKET S3_ACCESS_KEY S3_SECRET_KEY; do
            eval "value=\${$name:-}"; [ -n "$value" ] || { echo "the worker has no $name" >&2; exit 1; }
        done' >/dev/null 2>"$work/error" || why "$(grep -m 1 'has no' "$work/error" || last_error)" || return 1
    said=$(kubectl exec deployment/agent-worker "${at[@]}" -- agent-worker check s3 2>"$work/error") ||
        why "agent-worker check s3: ${said:-$(last_error)}"
}

# Whatever happened, no run of ours is left open.
stop_run() {
    if [ -n "$run_id" ] && [ -z "$finished" ]; then execute "{\"action\":\"stop\",\"run_id\":\"$run_id\"}" || true; fi
}

finish() {
    stop_run
    rm -rf "$work"
}

# plan: what a dry run prints. The second argument of `line` is one text, so that it can be read as one would type it.
plan() {
    if [ -n "$cluster" ]; then
        line 1 "kubectl wait --for=condition=available deployment/agent-api ${at[*]} --timeout=30s"
        line 1 "kubectl wait --for=condition=available deployment/agent-worker ${at[*]} --timeout=30s"
        line 2 "kubectl get pods ${at[*]} -l 'app in (agent-api,agent-worker)' --no-headers"
        line 3 "kubectl logs deployment/agent-worker ${at[*]} --tail=500"
        line 4 "kubectl get secret agent-api-secrets ${at[*]} -o json"
        line 4 "kubectl exec deployment/agent-worker ${at[*]} -- sh -c 'redis-cli --no-auth-warning -u \"\$REDIS_URL\" PING'"
    fi
    line 5 "curl -X POST $api/agent/execute -d '{\"action\":\"create\",\"prompt\":\"List files\"}'"
    line 6 "curl -X POST $api/agent/execute -d '{\"action\":\"start\",\"run_id\":\"RUN\"}'"
    line 7 "curl -X POST $api/agent/execute -d '{\"action\":\"status\",\"run_id\":\"RUN\"}'   # until it has left queued"
    line 8 "curl -X POST $api/agent/execute -d '{\"action\":\"status\",\"run_id\":\"RUN\"}'   # until it has ended"
    line 9 "curl -N $api/agent/logs/RUN/stream"
    if [ -n "$cluster" ]; then line 10 "kubectl exec deployment/agent-worker ${at[*]} -- agent-worker check s3"; fi
    echo 'dry run: nothing was changed'
}

line() { printf '+ %-3s%s\n' "$1" "$2"; }

read_arguments "$@"
check_arguments
at=(-n "$namespace")
if [ -n "$context" ]; then at+=(--context "$context"); fi
if [ -n "$dry_run" ]; then
    plan
    exit 0
fi
umask 077
work=$(mktemp -d)
trap finish EXIT
trap 'exit 1' INT TERM
check_programs
printf 'Authorization: Bearer %s\n' "$TOKEN" >"$work/headers"

status='' answer='' started='' reason=''
step 1 cluster 'both deployments are available' deployments_available
step 2 cluster 'all pods are ready' pods_ready
step 3 cluster 'the log of the worker has no fatal line' worker_log
step 4 cluster 'Redis answers' redis_answers
step 5 api 'a run is created' run_created
step 6 api 'the run is started' run_started
step 7 api 'a worker takes the run' run_taken
step 8 api 'the run is completed' run_completed
step 9 api 'the stream is whole' stream_whole
step 10 cluster 'the worker reaches S3' worker_reaches_s3

if [ "$failed" -gt 0 ]; then
    complain "$failed of 10 steps failed"
    exit 1
fi
if [ "$skipped" -gt 0 ]; then
    printf 'verified, %s steps skipped\n' "$skipped"
else
    echo 'verified'
fi
