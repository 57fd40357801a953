#!/usr/bin/env bash
# Builds the images: scripts/local/build.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../local/build.sh" "$@"
