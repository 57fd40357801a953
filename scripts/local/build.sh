#!/usr/bin/env bash
# Builds the container images with docker, podman or buildah.
#
#   scripts/local/build.sh [TAG]        default tag: phase2b
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/common.sh"

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
    sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
tag=${1:-phase2b}

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
if [ ${#build[@]} -eq 0 ]; then
    die "no image builder: neither a running Docker engine nor podman nor buildah is here. Debian/Ubuntu: apt-get install buildah"
fi

built=0
for image in api worker tools; do
    file=$root/Dockerfile.$image
    if [ ! -f "$file" ]; then
        say "agent-$image: no Dockerfile.$image yet, left out"
        continue
    fi
    say "agent-$image:$tag with ${build[0]}"
    "${build[@]}" -f "$file" -t "agent-$image:$tag" "$root" >&2 || die "agent-$image could not be built; see above"
    built=$((built + 1))
done
[ "$built" -gt 0 ] || die "there is no Dockerfile to build"
echo "$built images built"
