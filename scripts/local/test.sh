#!/usr/bin/env bash
# The second command: every check and every test, against real servers on free ports.
#
#   scripts/local/test.sh [--service agents]      all
#   scripts/local/test.sh --quick    no documentation, no lint of the scripts
#   scripts/local/test.sh --integration    only the tests of the workspace
#   scripts/local/test.sh --dry-run        prints the commands and does nothing; with one of the others, theirs
#
# TEST_RUNNER=nextest|cargo chooses the runner of the tests. The last line is `N passed, N failed`:
# checks and tests together. TEST_KUBECONFIG names a cluster for the tests that can use one (see scripts/ci/kubernetes.sh);
# without it they are skipped and the closing lines say so, and REQUIRE_CLUSTER=1 makes that a failure.
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/common.sh"

quick='' only_tests='' dry_run=''
take_service "$@"
for argument in ${rest[@]+"${rest[@]}"}; do
    case $argument in
    -h | --help)
        sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --quick) quick=yes ;;
    --integration) quick=yes only_tests=yes ;;
    --dry-run) dry_run=yes ;;
    '') ;;
    *)
        warn "unknown argument: $argument (see --help)"
        exit 64
        ;;
    esac
done

# Tests make their own servers; nothing of this shell may lead them to others.
unset DATABASE_URL REDIS_URL S3_ENDPOINT S3_ACCESS_KEY S3_SECRET_KEY JWT_SECRET TOKEN API_URL AGENT_HOME
unset BROWSER_CDP_URL BROWSER_BIN BROWSER_ALLOW_PRIVATE MCP_SERVERS_FILE MCP_DEFAULT_SERVERS
unset LLM_PRIMARY_PROVIDER ANTHROPIC_API_KEY OPENAI_API_KEY OPENAI_BASE_URL QUEUE_PREFIX
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
# Most tests wait for processes, timers and stores: on a small machine more of them than it has cores run side by side.
cores=$(getconf _NPROCESSORS_ONLN)
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((cores > 4 ? cores : 4))}
if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}; fi

passed=0 failed=0
report=()
started=$SECONDS
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# note RESULT NAME SECONDS [DETAIL]
note() {
    local colour=$green
    if [ "$1" = FAIL ]; then colour=$red; elif [ "$1" = skip ]; then colour=$yellow; fi
    report+=("$(printf '%s%-4s%s %-22s %4s s  %s' "$colour" "$1" "$plain" "$2" "$3" "${4:-}")")
}

# check NAME COMMAND...: one check; its output is shown.
check() {
    local name=$1 begun=$SECONDS
    shift
    if [ -n "$dry_run" ]; then
        echo "+ $*"
        return
    fi
    say "${bold}$name${plain}: $*"
    if "$@" </dev/null; then
        passed=$((passed + 1))
        note ok "$name" $((SECONDS - begun))
    else
        failed=$((failed + 1))
        note FAIL "$name" $((SECONDS - begun)) "$*"
    fi
}

# tests NAME COMMAND...: a run of tests; each test counts. A run that ends badly without a failed test counts as one.
tests() {
    local name=$1 begun=$SECONDS status good bad
    shift
    if [ -n "$dry_run" ]; then
        echo "+ $*"
        return
    fi
    say "${bold}$name${plain}: $*"
    "$@" </dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r good bad <<<"$(count_tests)"
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" -eq 0 ]; then
        note ok "$name" $((SECONDS - begun)) "$good tests"
    else
        note FAIL "$name" $((SECONDS - begun)) "$good passed, $bad failed: $*"
    fi
}

# Sums the closing lines of `cargo test` (one per binary), of nextest (one) or of a script (its last line).
count_tests() {
    sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
        /^test result: / { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) good += $i; if ($(i + 1) ~ /^failed/) bad += $i } }
        / Summary \[/ { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) good += $i; if ($(i + 1) ~ /^failed/) bad += $i; if ($(i + 1) ~ /^timed/) bad += $i } }
        /^[0-9]+ passed, [0-9]+ failed$/ { script_good = $1; script_bad = $3 }
        END { print good + script_good + 0, bad + script_bad + 0 }'
}

runner() {
    case ${TEST_RUNNER:-auto} in
    nextest) echo nextest ;;
    # The tests of a binary share one Postgres cluster; nextest starts a process, and so a cluster, per test.
    *) echo cargo ;;
    esac
}

# Only one TLS stack (rustls with aws-lc-rs) is built in.
one_tls_stack() {
    local crate bad=0
    for crate in ring openssl-sys native-tls; do
        if cargo tree --workspace --edges no-dev --invert "$crate" 2>/dev/null | grep -q .; then
            warn "$crate is in the tree: cargo tree --workspace -e no-dev -i $crate"
            bad=1
        fi
    done
    return $bad
}

# The tests of the manifests read YAML with the system's Python.
install_yaml() {
    if /usr/bin/python3 -c 'import yaml' 2>/dev/null || python3 -c 'import yaml' 2>/dev/null; then return 0; fi
    command -v apt-get >/dev/null && may_become_root && apt_install python3-yaml
}

if [ -z "$dry_run" ]; then
    need_cargo
    install_missing
    install_for_tests
    if ! have_redis || ! have_postgres_programs; then
        REDIS_URL='' DATABASE_URL='' what_is_missing >&2
        die "the tests need real servers, see above"
    fi
fi
cd "$root" || die "cannot enter $root"

if [ -z "$only_tests" ]; then
    check lock cargo fetch --locked --quiet
    check fmt cargo fmt --all --check
    check clippy cargo clippy --workspace --all-targets --quiet -- -D warnings
fi
# The tests with the programs they start: built for the tests, so that nothing is compiled a second time with other features.
check build cargo test --workspace --no-run --quiet
# The tests of the API description run it.
check schemathesis scripts/ci/contract.sh --install
if [ -z "$quick" ]; then
    # The pages are for the project's developers: links to private items are fine.
    check doc env RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --workspace --no-deps --document-private-items --quiet
    check tls one_tls_stack
    if [ -n "$dry_run" ] || cargo deny --version >/dev/null 2>&1; then
        check deny cargo deny --offline check bans licenses sources
    else
        note skip deny 0 "cargo-deny is not installed"
    fi
    # Manifests, images and the deployment scripts, without a cluster; and once against the programs built above.
    if [ -n "$dry_run" ] || install_yaml; then
        tests deploy scripts/ci/test-deploy.sh
    else
        note skip deploy 0 "no Python with PyYAML: apt-get install python3-yaml"
    fi
    if command -v shellcheck >/dev/null; then
        mapfile -t scripts < <(git ls-files '*.sh' '.ci/run' 2>/dev/null)
        check shellcheck shellcheck -x "${scripts[@]}"
    else
        note skip shellcheck 0 "shellcheck is not installed"
    fi
fi

has_e2e=''
if [ -f crates/cli/tests/e2e.rs ] || [ -f crates/cli/tests/e2e/main.rs ]; then has_e2e=yes; fi
# The end-to-end test drives the built programs from outside; it runs alone so that nothing else slows it.
if [ "$(runner)" = nextest ]; then
    tests tests cargo nextest run --workspace --no-fail-fast --status-level fail --final-status-level fail -E 'not binary(e2e)'
    if [ -n "$has_e2e" ]; then
        tests e2e cargo nextest run --workspace --no-fail-fast --test-threads 1 -E 'binary(e2e)'
    fi
else
    tests tests cargo test --workspace --no-fail-fast --quiet
fi

if [ -n "$dry_run" ]; then exit 0; fi
# The sandbox's cases once more, on a real cluster; all other tests of Jobs need none.
if [ -n "${TEST_KUBECONFIG:-}" ] || [ "${REQUIRE_CLUSTER:-}" = 1 ]; then
    tests cluster scripts/ci/kubernetes.sh --cluster
else
    note skip cluster 0 "skipped: no cluster (TEST_KUBECONFIG names none)"
fi

printf '\n' >&2
printf '%s\n' "${report[@]}" >&2
printf '%s\n' "${dim}$((SECONDS - started)) s${plain}" >&2
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
