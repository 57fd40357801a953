#!/usr/bin/env bash
# Builds the container images with docker, podman or buildah.
#
#   scripts/local/build.sh [--service agents] [--dry-run] [TAG]      default tag: phase2b
#
# Exit codes: 0 built; 1 not; 64 wrong use; 69 no builder is here.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/common.sh"

tag=phase2b dry_run=''
take_service "$@"
for argument in ${rest[@]+"${rest[@]}"}; do
    case $argument in
    -h | --help)
        sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --dry-run) dry_run=yes ;;
    -*)
        warn "unknown argument: $argument (see --help)"
        exit 64
        ;;
    *) tag=$argument ;;
    esac
done

builder() {
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        echo docker build
    elif command -v podman >/dev/null; then
        echo podman build
    elif command -v buildah >/dev/null; then
        echo buildah build
    fi
}

read -r -a build <<<"$(builder)"
if [ ${#build[@]} -eq 0 ] && [ -n "$dry_run" ]; then build=(docker build); fi
if [ ${#build[@]} -eq 0 ]; then
    warn "no image builder: neither a running Docker engine nor podman nor buildah is here. Debian/Ubuntu: apt-get install buildah"
    exit 69
fi
revision=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)

built=0
for image in api worker tools; do
    file=$root/Dockerfile.$image
    command=("${build[@]}" --build-arg "VERSION=$tag" --build-arg "REVISION=$revision" -f "$file" -t "agent-$image:$tag" "$root")
    if [ -n "$dry_run" ]; then
        printf '+ %s\n' "${command[*]}"
        continue
    fi
    say "agent-$image:$tag with ${build[0]}"
    "${command[@]}" >&2 || die "agent-$image could not be built; see above"
    built=$((built + 1))
done
if [ -n "$dry_run" ]; then exit 0; fi
echo "$built images built"
