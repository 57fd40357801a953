# shellcheck shell=bash
# What the scripts of this directory share: which service, --help, --dry-run, exit codes. Sourced, never run.
#
# Exit codes: 0 done; 64 wrong use or a missing variable; 69 a needed program or service is missing; else 1 or the code named.

ci=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The scripts that source this need it.
# shellcheck disable=SC2034
root=$(cd "$ci/../.." && pwd)
service=${SERVICE:-agents}
dry_run=''
arguments=()

complain() { printf '%s\n' "$*" >&2; }

wrong_use() {
    complain "$1 (see --help)"
    exit 64
}

# missing TEXT: something that is needed and not here.
missing() {
    complain "$1"
    exit 69
}

# usage: the comment at the head of the script that was started.
usage() { awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"; }

# read_common ARGUMENT...: takes out --service, --dry-run and --help; the others are left in $arguments.
read_common() {
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --dry-run) dry_run=yes ;;
        --service=*) service=${1#*=} ;;
        --service)
            [ $# -ge 2 ] || wrong_use "--service needs a value"
            service=$2
            shift
            ;;
        *) arguments+=("$1") ;;
        esac
        shift
    done
    case $service in
    agents) ;;
    agent-executor) missing "the service agent-executor is not part of this version; there is --service agents" ;;
    *) wrong_use "unknown service: $service" ;;
    esac
}

# no_more: no argument but those of read_common.
no_more() { [ ${#arguments[@]} -eq 0 ] || wrong_use "unknown argument: ${arguments[0]}"; }

# run COMMAND...: does it, or prints it in a dry run.
run() {
    if [ -n "$dry_run" ]; then
        printf '+ %s\n' "$*"
    else
        "$@"
    fi
}
