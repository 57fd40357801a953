#!/usr/bin/env bash
# Applies the database schema to DATABASE_URL: `agent-api migrate`, built when it is not there. Safe to repeat.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"
for program in "$target/release/agent-api" "$target/debug/agent-api" "$(command -v agent-api || true)"; do
    if [ -n "$program" ] && [ -x "$program" ]; then exec "$program" migrate "$@"; fi
done
need_cargo
exec cargo run --quiet --locked --manifest-path "$root/Cargo.toml" -p api --bin agent-api -- migrate "$@"
