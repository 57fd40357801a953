#!/usr/bin/env bash
# Builds the images agent-api, agent-worker and agent-tools.
#
#   scripts/ci/build.sh [--service agents] [--dry-run]
#
#   IMAGE_TAG       their tag (default: ci-test); also written to GITHUB_OUTPUT, when that is set, as image_tag=...
#
# Needs docker, podman or buildah. Exit codes: 0 built; 1 not; 64 wrong use; 69 no builder is here.
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
no_more
tag=${IMAGE_TAG:-ci-test}
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] || wrong_use "IMAGE_TAG is no tag: $tag"
run bash "$root/scripts/local/build.sh" "$tag"
if [ -n "${GITHUB_OUTPUT:-}" ] && [ -z "$dry_run" ]; then printf 'image_tag=%s\n' "$tag" >>"$GITHUB_OUTPUT"; fi
