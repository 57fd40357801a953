#!/usr/bin/env bash
# Deploys: deploy-phase2b.sh with all further arguments, and with its exit codes.
#
#   S3_ACCESS_KEY=... S3_SECRET_KEY=... scripts/ci/deploy.sh [--service agents] [--dry-run] [--image REF] [...]
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
if [ -n "$dry_run" ]; then arguments+=(--dry-run); fi
exec "$root/deploy-phase2b.sh" ${arguments[@]+"${arguments[@]}"}
