#!/usr/bin/env bash
# Licences, sources, bans and known vulnerabilities of all crates: cargo deny with deny.toml.
#
#   scripts/ci/deny.sh [--service agents] [--dry-run] [--install]
#
#   --install    gets cargo-deny when it is not here
#
# Exit codes: 0 nothing found; 1 something is; 64 wrong use; 69 cargo-deny is missing.
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
install=''
for argument in ${arguments[@]+"${arguments[@]}"}; do
    case $argument in
    --install) install=yes ;;
    *) wrong_use "unknown argument: $argument" ;;
    esac
done
if [ -n "$install" ] && ! cargo deny --version >/dev/null 2>&1; then run cargo install --locked cargo-deny; fi
if [ -z "$dry_run" ]; then cargo deny --version >/dev/null 2>&1 || missing 'cargo-deny is missing: --install gets it'; fi
cd "$root"
run cargo deny check advisories bans licenses sources
