#!/usr/bin/env bash
# Tests a deployment: verify-phase2b.sh with all further arguments, then the integration tests against servers of their own.
#
#   TOKEN=... [API_URL=...] scripts/ci/test.sh [--service agents] [--dry-run] [--no-cluster] [--namespace NS] [--context CTX]
#
# Exit codes: 0 both passed; 1 or that of the tests: not; 64 wrong use or no TOKEN; 69 a needed program is missing.
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
if [ -n "$dry_run" ]; then arguments+=(--dry-run); fi
"$root/verify-phase2b.sh" ${arguments[@]+"${arguments[@]}"}
run bash "$root/scripts/local/test.sh" --integration
