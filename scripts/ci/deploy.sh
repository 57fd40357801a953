#!/usr/bin/env bash
# Deploys and then verifies: deploy-phase2b.sh with these arguments, and verify-phase2b.sh when TOKEN is set.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
"$root/deploy-phase2b.sh" "$@"
if [ -n "${TOKEN:-}" ]; then
    # The two know the same options but for those of the image.
    verify=()
    while [ $# -gt 0 ]; do
        case $1 in
        --image | --timeout) shift ;;
        --image=* | --timeout=*) ;;
        *) verify+=("$1") ;;
        esac
        shift
    done
    "$root/verify-phase2b.sh" ${verify[@]+"${verify[@]}"}
fi
