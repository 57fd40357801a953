#!/usr/bin/env bash
# Starts the whole system on this machine: scripts/local/run.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../local/run.sh" "$@"
