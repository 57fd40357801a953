#!/usr/bin/env bash
# Installs the MCP servers of the tests into a directory, once: reference servers of both eras of the protocol, by name from
# npm and PyPI. Usage: mcp-servers.sh DIRECTORY
set -euo pipefail

dir=${1:?usage: mcp-servers.sh DIRECTORY}
mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
[ -e "$dir/ready-1" ] && exit 0

python=$(command -v python3) || { echo "error: python3 is missing" >&2; exit 1; }
pip() { "$python" -m pip --disable-pip-version-check install -qq --root-user-action=ignore "$@" >&2; }

# The eras up to 2025-11-25: sessions that begin with initialize.
pip --upgrade --target "$dir/older" mcp-server-time==2026.10.10 'mcp<2'
npm install --silent --no-fund --no-audit --prefix "$dir/npm" @modelcontextprotocol/server-everything@2026.8.31 >&2
# 2026-07-28: no sessions.
pip --upgrade --target "$dir/newest" mcp==2.3.0
touch "$dir/ready-1"
