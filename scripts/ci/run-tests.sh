#!/usr/bin/env bash
# Every check and every test: scripts/local/test.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../local/test.sh" "$@"
