#!/usr/bin/env bash
# Writes the bill of materials of what the images are built from, as CycloneDX 1.5: one component per crate of Cargo.lock that
# a program of ours uses, with version, licence, source and checksum.
#
#   scripts/ci/sbom.sh [--service agents] [--dry-run] [FILE]      default: target/sbom.cdx.json
#
# Needs cargo and python3. Exit codes: 0 written; 1 not; 64 wrong use; 69 a program is missing.
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
[ ${#arguments[@]} -le 1 ] || wrong_use "unknown argument: ${arguments[1]}"
file=${arguments[0]:-${CARGO_TARGET_DIR:-$root/target}/sbom.cdx.json}
case $file in -*) wrong_use "unknown argument: $file" ;; esac
if [ -n "$dry_run" ]; then
    run cargo metadata --locked --format-version 1
    printf '+ write %s\n' "$file"
    exit 0
fi
command -v cargo >/dev/null || missing 'cargo is missing'
command -v python3 >/dev/null || missing 'python3 is missing'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$root" && cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu) >"$work/metadata.json"
mkdir -p "$(dirname "$file")"
python3 "$ci/sbom.py" "$work/metadata.json" "$root/Cargo.lock" >"$work/sbom.json"
mv "$work/sbom.json" "$file"
echo "$file: $(grep -c '"type": "library"' "$file") components"
