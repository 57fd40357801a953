#!/usr/bin/env bash
# Puts a new image of workers and API into the cluster, step by step, and takes everything back when a step fails.
#
#   S3_ACCESS_KEY=... S3_SECRET_KEY=... ./deploy-phase2b.sh [--image REF] [options]
#
#   --image REF       image of both programs (default: $IMAGE, else agent-api:phase2b)
#   --tool-image REF  image of the tools' Jobs (default: $TOOL_IMAGE, else agent-tools:phase2b)
#   --secret-file F   lines KEY=VALUE: keys that the Secret lacks, or has empty, get these values; makes the Secret, and the
#                     namespace, where there is none. Needed on an empty cluster: DATABASE_URL, REDIS_URL, JWT_SECRET, ...
#   --timeout N       seconds to wait for each of worker and API (default: 300)
#   --namespace NS    where they run (default: agents)
#   --context CTX     context of kubectl (default: the current one)
#   --dry-run         prints the commands and changes nothing
#   --help            this text
#
# Needed in the environment: S3_ACCESS_KEY and S3_SECRET_KEY. They are never printed and in nobody's arguments.
# Used when set: S3_ENDPOINT, S3_REGION, S3_WORKSPACE_BUCKET, S3_FORCE_PATH_STYLE of the workers (else what is live, else
# the manifest's), and S3_EGRESS_CIDRS (a,b,...): the addresses tools may reach (else those of S3_ENDPOINT's name).
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
tool_image=${TOOL_IMAGE:-agent-tools:phase2b}
secret_file=''
timeout=300
dry_run=''

current='' # what is being done, for the message of a failure
secret_created='' secret_changed=''
keys=() old_values=() # what step 1 writes, and what was there before
worker_changed='' worker_existed='' worker_revision='' worker_stood=''
api_changed='' api_existed='' api_revision=''

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }

usage() { sed -n '2,23s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

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
        --image=* | --tool-image=* | --secret-file=* | --timeout=* | --namespace=* | --context=*)
            set_option "${1%%=*}" "${1#*=}"
            ;;
        --image | --tool-image | --secret-file | --timeout | --namespace | --context)
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
    --tool-image) tool_image=$2 ;;
    --secret-file) secret_file=$2 ;;
    --timeout) timeout=${2%s} ;;
    --namespace) namespace=$2 ;;
    --context) context=$2 ;;
    esac
}

check_arguments() {
    local missing=() name reference='^[A-Za-z0-9][A-Za-z0-9._:/@-]*$'
    [[ $timeout =~ ^[1-9][0-9]{0,5}$ ]] || wrong_use "--timeout is no number of seconds: $timeout"
    # All of these go into a manifest.
    [[ $namespace =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] || wrong_use "--namespace is no name of a namespace: $namespace"
    [[ $image =~ $reference ]] || wrong_use "--image is no name of an image: $image"
    [[ $tool_image =~ $reference ]] || wrong_use "--tool-image is no name of an image: $tool_image"
    for name in "${s3_names[@]}"; do
        [[ ${!name:-none} =~ $plain_value ]] || wrong_use "$name is no value of that setting"
    done
    [[ ${S3_ENDPOINT:-https://host} =~ ^https?://[^/]+ ]] || wrong_use 'S3_ENDPOINT is no http URL'
    [[ ${S3_EGRESS_CIDRS:-0.0.0.0/0} =~ ^[0-9a-fA-F.:/,\ ]+$ ]] || wrong_use 'S3_EGRESS_CIDRS is no list of address ranges'
    if [ -n "$secret_file" ]; then read_secret_file; fi
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

# read_secret_file: its lines into $file_keys and $file_values; empty lines and comments are passed over.
read_secret_file() {
    local line
    [ -r "$secret_file" ] || wrong_use "--secret-file cannot be read: $secret_file"
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in '' | '#'*) continue ;; esac
        # Not shown: it may hold a value.
        [[ $line =~ ^([A-Z][A-Z0-9_]*)=(.*)$ ]] || wrong_use '--secret-file has a line that is not KEY=VALUE'
        file_keys+=("${BASH_REMATCH[1]}")
        file_values+=("${BASH_REMATCH[2]}")
    done <"$secret_file"
}

# --- Reading what kubectl tells, without needing a JSON parser -----------------------------------------------------

# text_of KEY: the first text (or number) under this key. Keys inside the annotation of the last apply are written
# with backslashes and so never match.
text_of() { grep -oE "\"$1\": *(\"[^\"]*\"|[0-9]+)" | head -n 1 | sed -E 's/^"[^"]*": *"?//; s/"$//'; }

# look KIND NAME [NAMESPACE]: the object as JSON into $found; nothing in it when there is none. Fails when that cannot be told.
look() {
    found=''
    if found=$(kubectl get "$1" "$2" -n "${3:-$namespace}" ${ctx[@]+"${ctx[@]}"} -o json --ignore-not-found); then return 0; fi
    found=''
    return 1
}

# --- The secret -----------------------------------------------------------------------------------------------------

encoded() { printf '%s' "$1" | base64 | tr -d '\n'; }

# in_json VALUE: a base64 text in quotes; null, which removes the key, when there is none.
in_json() { if [ -n "$1" ]; then printf '"%s"' "$1"; else printf null; fi; }

# patch_secret VALUE...: base64 texts, one per entry of $keys. By way of a file that only we can read; other keys stay as they are.
patch_secret() {
    local file=$work/secret-patch.json status key comma=''
    {
        printf '{"data":{'
        for key in "${keys[@]}"; do
            printf '%s"%s":%s' "$comma" "$key" "$(in_json "$1")"
            comma=,
            shift
        done
        printf '}}'
    } >"$file"
    kubectl patch secret "$secret" "${at[@]}" --type=merge --patch-file="$file"
    status=$?
    rm -f "$file"
    return $status
}

# live_value KEY: of the Secret in $found, base64; nothing when it is empty or not there.
live_value() { printf '%s' "$found" | text_of "$1"; }

has_connections() {
    local key lacks=()
    for key in DATABASE_URL REDIS_URL; do
        [ -n "$(live_value "$key")" ] || [[ " $* " == *" $key "* ]] || lacks+=("$key")
    done
    [ ${#lacks[@]} -eq 0 ] && return 0
    complain "the secret $secret lacks: ${lacks[*]} (--secret-file can bring them)"
    return 1
}

# wanted KEY VALUE: a key to be written; $new_values goes along.
wanted() {
    keys+=("$1")
    old_values+=("$(live_value "$1")")
    new_values+=("$(encoded "$2")")
}

# list_keys: the two keys, and those of the file that the Secret lacks.
list_keys() {
    local place key
    wanted S3_ACCESS_KEY "$S3_ACCESS_KEY"
    wanted S3_SECRET_KEY "$S3_SECRET_KEY"
    for place in "${!file_keys[@]}"; do
        key=${file_keys[$place]}
        case $key in S3_ACCESS_KEY | S3_SECRET_KEY) continue ;; esac
        if [ -z "$(live_value "$key")" ] && [ -n "${file_values[$place]}" ]; then wanted "$key" "${file_values[$place]}"; fi
    done
}

put_keys() {
    local new_values=()
    if [ -n "$dry_run" ]; then
        run kubectl get secret "$secret" "${at[@]}" -o json --ignore-not-found
        run kubectl patch secret "$secret" "${at[@]}" --type=merge --patch-file=FILE
        return 0
    fi
    look secret "$secret" || return 1
    if [ -z "$found" ] && [ -z "$secret_file" ]; then
        complain "there is no secret $secret in the namespace $namespace; it has to hold DATABASE_URL and REDIS_URL (--secret-file makes it)"
        return 1
    fi
    list_keys
    # Nothing is written into a secret that could not be used afterwards.
    has_connections "${keys[@]}" || return 1
    if [ -z "$found" ]; then make_secret || return 1; fi
    if [ "${old_values[*]}" = "${new_values[*]}" ]; then
        say "secret/$secret unchanged"
    else
        patch_secret "${new_values[@]}" || {
            # It may have been done, and only the answer was lost.
            if look secret "$secret" && [ "$(live_value S3_ACCESS_KEY)" != "${old_values[0]}" ]; then secret_changed=yes; fi
            return 1
        }
        secret_changed=yes
        look secret "$secret" || return 1
        has_connections || return 1
    fi
    secret_version=$(live_value resourceVersion)
}

# make_secret: an empty one; and its namespace, which on an empty cluster is not there yet.
make_secret() {
    apply namespaces.yaml || return 1
    kubectl create secret generic "$secret" "${at[@]}" || return 1
    secret_created=yes
}

restore_secret() {
    if [ -n "$secret_created" ]; then
        say "roll-back: $secret did not exist before: deleted"
        kubectl delete secret "$secret" "${at[@]}" --ignore-not-found
    elif [ -n "$secret_changed" ]; then
        say "roll-back: values of $secret"
        patch_secret "${old_values[@]}"
    fi
}

# --- Manifests ------------------------------------------------------------------------------------------------------

# manifest FILE [REPLICAS]: a copy with our namespace, images, settings and number of replicas; prints where it is.
manifest() {
    local file=$work/$1
    # Without a cluster there is nothing to fill in.
    if [ -n "$dry_run" ]; then
        printf '%s' "$manifests/$1"
        return 0
    fi
    sed -E -e "s|^( *(- )?namespace:) agents\$|\\1 $namespace|" \
        -e "s|^( *(- )?image:) agent-api\$|\\1 $image|" \
        -e "s|^( *(value\|TOOL_IMAGE):) tool-image\$|\\1 $tool_image|" \
        -e "s|^( *agent-runtime/secret-version:) .*|\\1 \"${secret_version:-unset}\"|" \
        ${s3_edits[@]+"${s3_edits[@]}"} ${2:+-e "s|^(  replicas:) .*|\\1 $2|"} "$manifests/$1" >"$file" || return 1
    case $1 in
    namespaces.yaml) sed -E "s|^( *name:) agents\$|\\1 $namespace|" "$file" >"$file.new" && mv "$file.new" "$file" || return 1 ;;
    network-policies.yaml) with_addresses <"$file" >"$file.new" && mv "$file.new" "$file" || return 1 ;;
    esac
    printf '%s' "$file"
}

apply() {
    local file
    file=$(manifest "$@") || return 1
    run kubectl apply -f "$file" ${ctx[@]+"${ctx[@]}"}
}

apply_rules() {
    local file
    find_s3 || return 1
    find_addresses || return 1
    for file in namespaces.yaml rbac.yaml network-policies.yaml resource-quota.yaml limit-range.yaml; do
        apply "$file" || return 1
    done
    allow_tool_image
}

# allow_tool_image: adds it to what admission-policy.yaml lets pass. The ones of before stay: workers that still run use them.
allow_tool_image() {
    if [ -z "$dry_run" ]; then look configmap agent-tool-images || return 1; fi
    if [ -z "$found" ]; then
        apply tool-images.yaml
    elif [[ $found != *"\"$tool_image\""* ]]; then
        printf '{"data":{"deployed-%s":"%s"}}' "$(printf '%s' "$tool_image" | cksum | cut -d ' ' -f 1)" "$tool_image" >"$work/images.json"
        kubectl patch configmap agent-tool-images "${at[@]}" --type=merge --patch-file="$work/images.json"
    fi
}

# apply_new KIND NAME FILE: only where there is none: what somebody made of it since then is not ours to undo.
apply_new() {
    look "$1" "$2" || return 1
    [ -n "$found" ] || apply "$3"
}

# --- The object storage ---------------------------------------------------------------------------------------------

# find_s3: $s3_edits fills the settings of the environment, else those that are live, into the manifests; $endpoint is the one that holds.
find_s3() {
    local name value
    endpoint=$(sed -n '/name: S3_ENDPOINT$/{n;s/^ *value: *//p;}' "$manifests/worker-deployment.yaml")
    if [ -n "$dry_run" ]; then return 0; fi
    look deployment agent-worker || return 1
    for name in "${s3_names[@]}"; do
        value=${!name:-$(printf '%s' "$found" | grep -A 1 "\"name\": \"$name\"" | text_of value)}
        if [ -z "$value" ] || ! [[ $value =~ $plain_value ]]; then continue; fi
        s3_edits+=(-e "/name: $name\$/{n;s|value: .*|value: \"$value\"|;}")
        if [ "$name" = S3_ENDPOINT ]; then endpoint=$value; fi
    done
}

# addresses_of HOST: one per line, sorted; itself when it is one.
addresses_of() {
    local host=${1#[}
    host=${host%]}
    if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then
        printf '%s\n' "$host"
    elif command -v getent >/dev/null; then
        getent ahosts "$host" | awk '{ print $1 }' | sort -u
    elif command -v python3 >/dev/null; then
        python3 -c 'import socket, sys
print("\n".join(sorted({found[4][0] for found in socket.getaddrinfo(sys.argv[1], None)})))' "$host" 2>/dev/null
    fi
}

# find_addresses: $cidrs and $port for the policy of the tools. What is live stays when it covers what was found, so that a
# name with changing answers does not change the policy each time, or when nothing was found.
find_addresses() {
    local authority live cidr known=yes
    cidrs=() port=443
    if [ -n "$dry_run" ]; then return 0; fi
    authority=${endpoint#*://}
    authority=${authority%%/*}
    case $endpoint in http://*) port=80 ;; esac
    if [[ $authority =~ ^(.*):([0-9]+)$ ]]; then authority=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}; fi
    if [ -n "${S3_EGRESS_CIDRS:-}" ]; then
        read -r -a cidrs <<<"${S3_EGRESS_CIDRS//,/ }"
        return 0
    fi
    while IFS= read -r cidr; do
        case $cidr in '') ;; *:*) cidrs+=("$cidr/128") ;; *) cidrs+=("$cidr/32") ;; esac
    done < <(addresses_of "$authority")
    look networkpolicy agent-tools-object-storage agent-tools || return 1
    live=$(printf '%s' "$found" | grep -oE '"cidr": *"[^"]*"' | sed -E 's/.*"([^"]*)"$/\1/')
    for cidr in ${cidrs[@]+"${cidrs[@]}"}; do
        [[ $'\n'$live$'\n' == *$'\n'$cidr$'\n'* ]] || known=''
    done
    # One per line, and none has a blank in it.
    if [ -n "$live" ] && [ -n "$known" ]; then read -r -a cidrs <<<"${live//$'\n'/ }"; fi
    if [ ${#cidrs[@]} -eq 0 ] || [ "${cidrs[*]}" = "$nobody" ]; then
        complain "no address of $authority was found: where network policies are enforced, tools reach no files until S3_EGRESS_CIDRS names them"
    fi
}

# with_addresses: a filter that puts them in the place of those that belong to nobody.
with_addresses() {
    awk -v list="${cidrs[*]:-$nobody}" -v port="$port" '
        /- ipBlock:$/ { held = $0; next }
        held != "" && /cidr:/ {
            count = split(list, cidr, " ")
            for (i = 1; i <= count; i++) { print held; line = $0; sub(/cidr: .*/, "cidr: " cidr[i], line); print line }
            held = ""
            next
        }
        /port: .* # of S3_ENDPOINT$/ { sub(/port: .*/, "port: " port) }
        { print }'
}

# --- Deployments ----------------------------------------------------------------------------------------------------

# written NAME GENERATION: was the Deployment changed since? Also when the call that should have done it failed; and yes when
# that cannot be told: to go back to a revision that is already there does nothing.
written() {
    local after
    look deployment "$1" || return 0
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
    local generation status=0
    if [ -n "$dry_run" ]; then
        run kubectl get deployment agent-worker "${at[@]}" -o json --ignore-not-found
        apply worker-deployment.yaml
        say "  (with images $image and $tool_image, namespace $namespace, and the number of replicas that is live)"
        return 0
    fi
    look deployment agent-worker || return 1
    if [ -n "$found" ]; then worker_existed=yes; fi
    if [ "$(printf '%s' "$found" | text_of replicas)" = 0 ]; then worker_stood=yes; fi
    worker_revision=$(printf '%s' "$found" | text_of deployment.kubernetes.io/revision)
    generation=$(printf '%s' "$found" | text_of generation)
    apply worker-deployment.yaml "$(keep_replicas)" || status=1
    if written agent-worker "$generation"; then worker_changed=yes; fi
    if [ "$status" = 0 ] && [ -z "$worker_existed" ]; then apply_new service agent-worker worker-service.yaml || status=1; fi
    return $status
}

put_api() {
    local generation status=0
    if [ -n "$dry_run" ]; then
        run kubectl get deployment agent-api "${at[@]}" -o json --ignore-not-found
        run kubectl set image deployment/agent-api "agent-api=$image" "${at[@]}"
        say '  (or, where there is no such deployment:)'
        apply api-deployment.yaml
        return 0
    fi
    look deployment agent-api || return 1
    generation=$(printf '%s' "$found" | text_of generation)
    if [ -n "$found" ]; then
        api_existed=yes
        api_revision=$(printf '%s' "$found" | text_of deployment.kubernetes.io/revision)
        kubectl set image deployment/agent-api "agent-api=$image" "${at[@]}" || status=1
    else
        apply api-deployment.yaml || status=1
    fi
    if written agent-api "$generation"; then api_changed=yes; fi
    if [ "$status" = 0 ] && [ -z "$api_existed" ]; then apply_new service agent-api api-service.yaml || status=1; fi
    return $status
}

wait_for() { run kubectl rollout status "deployment/$1" "${at[@]}" "--timeout=${timeout}s"; }

# why NAME: the pods of what did not become ready, and their last words.
why() {
    if [ -n "$dry_run" ]; then return; fi
    say "pods of $1, and what they said last:"
    kubectl get pods "${at[@]}" -l "app=$1" || true
    kubectl logs "deployment/$1" "${at[@]}" --tail=20 || true
}

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
    restore_secret || bad=1
    if [ -n "$worker_changed" ]; then
        take_back agent-worker "$worker_existed" "$worker_revision" || bad=1
        # A revision knows no number of replicas.
        if [ -n "$worker_stood" ]; then kubectl scale deployment/agent-worker "${at[@]}" --replicas=0 || bad=1; fi
    fi
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

s3_names=(S3_ENDPOINT S3_REGION S3_WORKSPACE_BUCKET S3_FORCE_PATH_STYLE)
# shellcheck disable=SC1003
plain_value='^[A-Za-z0-9._:/-]+$|^https?://\[[0-9a-fA-F:]+\](:[0-9]+)?/?$'
nobody=192.0.2.0/24 # RFC 5737; what stands in the manifest
file_keys=() file_values=() s3_edits=() cidrs=() port=443 endpoint='' found=''
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
wait_for agent-worker || { why agent-worker; fail; }
step 5 "set the image of the API to $image"
put_api || fail
step 6 'wait for the API'
wait_for agent-api || { why agent-api; fail; }
step 7 'show deployments, pods and the log of the worker'
show || fail
if [ -n "$dry_run" ]; then
    say 'dry run: nothing was changed'
else
    say 'deployed'
fi
