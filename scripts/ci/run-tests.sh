#!/usr/bin/env bash
# Every check and every test of the workspace: scripts/local/test.sh.
#
#   scripts/ci/run-tests.sh [--service agents] [--dry-run] [--quick | --integration]
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
if [ -z "$dry_run" ]; then exec bash "$root/scripts/local/test.sh" ${arguments[@]+"${arguments[@]}"}; fi
run bash "$root/scripts/local/test.sh" ${arguments[@]+"${arguments[@]}"}
