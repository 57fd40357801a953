#!/usr/bin/env bash
# Puts a new image of workers and API into the cluster, step by step, and takes everything back when a step fails.
#
#   S3_ACCESS_KEY=... S3_SECRET_KEY=... ./deploy-phase2b.sh [--image REF] [options]
#
#   --image REF       image of both programs (default: $IMAGE, else agent-api:phase2b)
#   --timeout N       seconds to wait for each of worker and API (default: 300)
#   --namespace NS    where they run (default: agents)
#   --context CTX     context of kubectl (default: the current one)
#   --dry-run         prints the commands and changes nothing
#   --help            this text
#
# Needed in the environment: S3_ACCESS_KEY and S3_SECRET_KEY. They are never printed and in nobody's arguments.
#
# Exit codes: 0 done; 1 a step failed and everything is as before; 2 a step failed and so did the roll-back;
# 64 wrong use or a missing variable; 69 kubectl is missing or the cluster does not answer.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
manifests=$root/k8s
secret=agent-api-secrets

namespace=agents
context=''
image=${IMAGE:-agent-api:phase2b}
timeout=300
dry_run=''

current='' # what is being done, for the message of a failure
secret_changed='' old_access='' old_secret=''
worker_changed='' worker_existed='' worker_revision=''
api_changed='' api_existed='' api_revision=''

say() { printf '%s\n' "$*"; }
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
        --dry-run) dry_run=yes ;;
        --image=* | --timeout=* | --namespace=* | --context=*)
            set_option "${1%%=*}" "${1#*=}"
            ;;
        --image | --timeout | --namespace | --context)
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
    --image) image=$2 ;;
    --timeout) timeout=${2%s} ;;
    --namespace) namespace=$2 ;;
    --context) context=$2 ;;
    esac
}

check_arguments() {
    local missing=()
    [[ $timeout =~ ^[1-9][0-9]{0,5}$ ]] || wrong_use "--timeout is no number of seconds: $timeout"
    # Both go into a manifest.
    [[ $namespace =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] || wrong_use "--namespace is no name of a namespace: $namespace"
    [[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]] || wrong_use "--image is no name of an image: $image"
    [ -n "${S3_ACCESS_KEY:-}" ] || missing+=(S3_ACCESS_KEY)
    [ -n "${S3_SECRET_KEY:-}" ] || missing+=(S3_SECRET_KEY)
    if [ ${#missing[@]} -gt 0 ]; then
        complain "missing required variables: ${missing[*]}"
        exit 64
    fi
}

check_cluster() {
    command -v kubectl >/dev/null || {
        complain 'kubectl is missing'
        exit 69
    }
    kubectl version --request-timeout=10s ${ctx[@]+"${ctx[@]}"} >/dev/null 2>"$work/answer" || {
        complain "the cluster does not answer: $(tail -n 1 "$work/answer")"
        exit 69
    }
}

# run COMMAND...: does it, or prints it in a dry run.
run() {
    if [ -n "$dry_run" ]; then
        printf '+ %s\n' "$*"
    else
        "$@"
    fi
}

step() {
    current="$1/7: $2"
    say "[$1/7] $2"
}

# --- Reading what kubectl tells, without needing a JSON parser -----------------------------------------------------

# text_of KEY: the first text (or number) under this key. Keys inside the annotation of the last apply are written
# with backslashes and so never match.
text_of() { grep -oE "\"$1\": *(\"[^\"]*\"|[0-9]+)" | head -n 1 | sed -E 's/^"[^"]*": *"?//; s/"$//'; }

# look KIND NAME: the object as JSON into $found; nothing in it when there is none. Fails when that cannot be told.
look() {
    found=''
    if found=$(kubectl get "$1" "$2" "${at[@]}" -o json 2>"$work/error"); then return 0; fi
    found=''
    grep -qiE 'not ?found' "$work/error" && return 0
    cat "$work/error" >&2
    return 1
}

# --- The secret -----------------------------------------------------------------------------------------------------

encoded() { printf '%s' "$1" | base64 | tr -d '\n'; }

# in_json VALUE: a base64 text in quotes; null, which removes the key, when there is none.
in_json() { if [ -n "$1" ]; then printf '"%s"' "$1"; else printf null; fi; }

# patch_secret ACCESS SECRET: base64 texts. By way of a file that only we can read; other keys stay as they are.
patch_secret() {
    local file=$work/secret-patch.json status
    printf '{"data":{"S3_ACCESS_KEY":%s,"S3_SECRET_KEY":%s}}' "$(in_json "$1")" "$(in_json "$2")" >"$file"
    kubectl patch secret "$secret" "${at[@]}" --type=merge --patch-file="$file"
    status=$?
    rm -f "$file"
    return $status
}

has_connections() {
    local key lacks=()
    for key in DATABASE_URL REDIS_URL; do
        [ -n "$(printf '%s' "$found" | text_of "$key")" ] || lacks+=("$key")
    done
    [ ${#lacks[@]} -eq 0 ] && return 0
    complain "the secret $secret lacks: ${lacks[*]}"
    return 1
}

put_keys() {
    local access secret_key
    if [ -n "$dry_run" ]; then
        run kubectl get secret "$secret" "${at[@]}" -o json
        run kubectl patch secret "$secret" "${at[@]}" --type=merge --patch-file=FILE
        return 0
    fi
    look secret "$secret" || return 1
    if [ -z "$found" ]; then
        complain "there is no secret $secret in the namespace $namespace; it has to hold DATABASE_URL and REDIS_URL"
        return 1
    fi
    # Nothing is written into a secret that could not be used afterwards.
    has_connections || return 1
    old_access=$(printf '%s' "$found" | text_of S3_ACCESS_KEY)
    old_secret=$(printf '%s' "$found" | text_of S3_SECRET_KEY)
    access=$(encoded "$S3_ACCESS_KEY")
    secret_key=$(encoded "$S3_SECRET_KEY")
    if [ "$old_access" = "$access" ] && [ "$old_secret" = "$secret_key" ]; then
        say "secret/$secret unchanged"
    else
        patch_secret "$access" "$secret_key" || return 1
        secret_changed=yes
        look secret "$secret" || return 1
        has_connections || return 1
    fi
    secret_version=$(printf '%s' "$found" | text_of resourceVersion)
}

# --- Manifests ------------------------------------------------------------------------------------------------------

# manifest FILE [REPLICAS]: a copy with our namespace, image and number of replicas; prints where it is.
manifest() {
    local file=$work/$1
    # Without a cluster there is nothing to fill in.
    if [ -n "$dry_run" ]; then
        printf '%s' "$manifests/$1"
        return 0
    fi
    sed -E -e "s|^( *(- )?namespace:) agents\$|\\1 $namespace|" \
        -e "s|^( *(- )?image:) agent-api\$|\\1 $image|" \
        -e "s|^( *agent-runtime/secret-version:) .*|\\1 \"${secret_version:-unset}\"|" \
        ${2:+-e "s|^(  replicas:) .*|\\1 $2|"} "$manifests/$1" >"$file" || return 1
    if [ "$1" = namespaces.yaml ]; then
        sed -E "s|^( *name:) agents\$|\\1 $namespace|" "$file" >"$file.new" && mv "$file.new" "$file" || return 1
    fi
    printf '%s' "$file"
}

apply() {
    local file
    file=$(manifest "$@") || return 1
    run kubectl apply -f "$file" ${ctx[@]+"${ctx[@]}"}
}

apply_rules() {
    local file
    for file in namespaces.yaml rbac.yaml network-policies.yaml resource-quota.yaml; do
        apply "$file" || return 1
    done
}

# --- Deployments ----------------------------------------------------------------------------------------------------

# written NAME GENERATION: an apply failed; was the Deployment changed all the same?
written() {
    local after
    look deployment "$1" || return 1
    after=$(printf '%s' "$found" | text_of generation)
    [ -n "$found" ] && [ "$after" != "$2" ]
}

# keep_replicas: the live number, which is the autoscaler's; none where there is none, or where it was scaled to 0 by a roll-back.
keep_replicas() {
    local live
    live=$(printf '%s' "$found" | text_of replicas)
    if [ "${live:-0}" -gt 0 ]; then printf '%s' "$live"; fi
}

put_worker() {
    local told generation
    if [ -n "$dry_run" ]; then
        run kubectl get deployment agent-worker "${at[@]}" -o json
        apply worker-deployment.yaml
        say "  (with image $image, namespace $namespace, and the number of replicas that is live)"
        return 0
    fi
    look deployment agent-worker || return 1
    if [ -n "$found" ]; then worker_existed=yes; fi
    worker_revision=$(printf '%s' "$found" | text_of deployment.kubernetes.io/revision)
    generation=$(printf '%s' "$found" | text_of generation)
    if ! told=$(apply worker-deployment.yaml "$(keep_replicas)"); then
        if written agent-worker "$generation"; then worker_changed=yes; fi
        return 1
    fi
    say "$told"
    if [[ $told != *unchanged* ]]; then worker_changed=yes; fi
}

put_api() {
    local generation before
    if [ -n "$dry_run" ]; then
        run kubectl get deployment agent-api "${at[@]}" -o json
        run kubectl set image deployment/agent-api "agent-api=$image" "${at[@]}"
        say '  (or, where there is no such deployment:)'
        apply api-deployment.yaml
        return 0
    fi
    look deployment agent-api || return 1
    generation=$(printf '%s' "$found" | text_of generation)
    if [ -z "$found" ]; then
        if apply api-deployment.yaml || written agent-api "$generation"; then api_changed=yes; fi
        [ -n "$api_changed" ]
        return
    fi
    api_existed=yes
    api_revision=$(printf '%s' "$found" | text_of deployment.kubernetes.io/revision)
    before=$(printf '%s' "$found" | text_of image)
    if ! kubectl set image deployment/agent-api "agent-api=$image" "${at[@]}"; then
        if written agent-api "$generation"; then api_changed=yes; fi
        return 1
    fi
    if [ "$before" != "$image" ]; then api_changed=yes; fi
}

wait_for() { run kubectl rollout status "deployment/$1" "${at[@]}" "--timeout=${timeout}s"; }

show() {
    run kubectl get deployments "${at[@]}" &&
        run kubectl get pods "${at[@]}" &&
        run kubectl logs deployment/agent-worker "${at[@]}" --tail=20
}

# --- Taking back ----------------------------------------------------------------------------------------------------

# take_back NAME EXISTED REVISION: to the revision from before, which does nothing when that is what is there.
take_back() {
    if [ -z "$2" ]; then
        say "roll-back: $1 did not exist before: scaled to 0"
        kubectl scale "deployment/$1" "${at[@]}" --replicas=0
    else
        say "roll-back: $1"
        kubectl rollout undo "deployment/$1" "${at[@]}" ${3:+"--to-revision=$3"}
    fi
}

# roll_back: everything that was changed, each part also when another one fails.
roll_back() {
    local bad=0
    if [ -n "$secret_changed" ]; then
        say "roll-back: values of $secret"
        patch_secret "$old_access" "$old_secret" || bad=1
    fi
    if [ -n "$worker_changed" ]; then take_back agent-worker "$worker_existed" "$worker_revision" || bad=1; fi
    if [ -n "$api_changed" ]; then take_back agent-api "$api_existed" "$api_revision" || bad=1; fi
    return $bad
}

fail() {
    trap '' INT TERM
    complain "deploy failed in step $current"
    if roll_back; then exit 1; fi
    complain 'the roll-back failed too: look at the secret and at both deployments'
    exit 2
}

# --- The way --------------------------------------------------------------------------------------------------------

read_arguments "$@"
check_arguments
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# -n and --context come after the verb, so that a line reads as one would type it.
ctx=()
if [ -n "$context" ]; then ctx=(--context "$context"); fi
at=(-n "$namespace" ${ctx[@]+"${ctx[@]}"})
secret_version=''
if [ -z "$dry_run" ]; then check_cluster; fi
trap fail INT TERM

step 1 "put the S3 keys into the secret $secret"
put_keys || fail
step 2 'apply namespaces, rights, network policies and the quota'
apply_rules || fail
step 3 "apply the worker with the image $image"
put_worker || fail
step 4 'wait for the worker'
wait_for agent-worker || fail
step 5 "set the image of the API to $image"
put_api || fail
step 6 'wait for the API'
wait_for agent-api || fail
step 7 'show deployments, pods and the log of the worker'
show || fail
if [ -n "$dry_run" ]; then
    say 'dry run: nothing was changed'
else
    say 'deployed'
fi
