#!/usr/bin/env bash
# Applies the database schema with psql: every *.up.sql in the order of names, each in a transaction of its own, once.
# Does the same as `agent-api migrate`, and the two may be mixed. Repeatable; parallel calls wait for each other.
#
#   scripts/ci/run-migrations.sh [--service agents] [--dry-run]
#
#   DATABASE_URL            postgres://user:password@host:port/database?sslmode=...; wins over
#   POSTGRES_HOST, _PORT (5432), _DB (agents), _USER (postgres), _PASSWORD
#   MIGRATION_DIR           the files (default: ./migrations if it has some, else /app/migrations, else the repository's)
#   MIGRATION_WAIT_SECONDS  how long to wait for the server (default: 60)
#
# Exit codes: 0 the schema is up to date; 1 a file failed and nothing after it was applied; 64 wrong use or a missing
# variable; 69 psql is missing or the server does not answer.
set -euo pipefail
# shellcheck source=scripts/ci/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_common "$@"
no_more
wait_seconds=${MIGRATION_WAIT_SECONDS:-60}
[[ $wait_seconds =~ ^[0-9]{1,6}$ ]] || wrong_use "MIGRATION_WAIT_SECONDS is no number: $wait_seconds"
# The number that the programs lock, too.
lock=7018690069353427573

has_files() { compgen -G "$1/*.up.sql" >/dev/null; }

find_files() {
    if [ -n "${MIGRATION_DIR:-}" ]; then
        directory=$MIGRATION_DIR
    elif has_files ./migrations; then
        directory=$PWD/migrations
    elif has_files /app/migrations; then
        directory=/app/migrations
    else
        directory=$root/migrations
    fi
    has_files "$directory" || wrong_use "there is no *.up.sql in $directory"
    LC_ALL=C
    files=("$directory"/*.up.sql)
    for file in "${files[@]}"; do
        [[ ${file##*/} =~ ^[A-Za-z0-9_.-]+$ && $file != *"'"* ]] || wrong_use "a file with a name that cannot be used: $file"
    done
}

decoded() { printf '%b' "${1//%/\\x}"; }

# connection_of URL: into the variables that psql reads, so that no password is in anybody's arguments.
connection_of() {
    local rest query='' pair user
    [[ $1 =~ ^postgres(ql)?:// ]] || wrong_use 'DATABASE_URL is no postgres URL'
    rest=${1#*://}
    if [[ $rest == *\?* ]]; then query=${rest#*\?} rest=${rest%%\?*}; fi
    if [[ $rest == *@* ]]; then
        user=${rest%@*} rest=${rest##*@}
        PGUSER=$(decoded "${user%%:*}")
        if [[ $user == *:* ]]; then PGPASSWORD=$(decoded "${user#*:}"); fi
    fi
    if [[ $rest == */* ]]; then PGDATABASE=$(decoded "${rest#*/}") rest=${rest%%/*}; fi
    if [[ $rest =~ ^(.*):([0-9]+)$ ]]; then PGPORT=${BASH_REMATCH[2]} rest=${BASH_REMATCH[1]}; fi
    rest=${rest#[} rest=${rest%]}
    if [ -n "$rest" ]; then PGHOST=$(decoded "$rest"); fi
    while [ -n "$query" ]; do
        pair=${query%%&*}
        case $pair in
        host=*) PGHOST=$(decoded "${pair#*=}") ;;
        sslmode=*) PGSSLMODE=$(decoded "${pair#*=}") ;;
        sslrootcert=*) PGSSLROOTCERT=$(decoded "${pair#*=}") ;;
        esac
        if [[ $query == *\&* ]]; then query=${query#*&}; else query=''; fi
    done
}

find_server() {
    local lacks=()
    unset PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSSLMODE PGSSLROOTCERT PGOPTIONS PGSERVICE
    if [ -n "${DATABASE_URL:-}" ]; then
        connection_of "$DATABASE_URL"
    else
        [ -n "${POSTGRES_HOST:-}" ] || lacks+=(POSTGRES_HOST)
        [ -n "${POSTGRES_PASSWORD:-}" ] || lacks+=(POSTGRES_PASSWORD)
        if [ ${#lacks[@]} -gt 0 ]; then
            complain "missing required variables: ${lacks[*]} (or DATABASE_URL)"
            exit 64
        fi
        PGHOST=$POSTGRES_HOST PGPORT=${POSTGRES_PORT:-5432} PGDATABASE=${POSTGRES_DB:-agents}
        PGUSER=${POSTGRES_USER:-postgres} PGPASSWORD=$POSTGRES_PASSWORD
    fi
    export PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSSLMODE PGSSLROOTCERT
    export PGCONNECT_TIMEOUT=5 PGAPPNAME=run-migrations
    # An empty one is not the same as none.
    for name in PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSSLMODE PGSSLROOTCERT; do
        if [ -z "${!name:-}" ]; then unset "$name"; fi
    done
}

wait_for_server() {
    local deadline=$((SECONDS + wait_seconds)) said
    until said=$(psql -X -q -w -c 'SELECT 1' 2>&1 >/dev/null); do
        if [ "$SECONDS" -ge "$deadline" ]; then missing "Postgres does not answer: $(printf '%s' "$said" | head -n 1)"; fi
        sleep 1
    done
}

# script: what psql is to do. One session holds the lock from the first to the last file.
script() {
    local file version sum
    cat <<EOF
\\set ON_ERROR_STOP on
\\set VERBOSITY terse
SET statement_timeout = 0;
SET client_min_messages = warning;
\\o /dev/null
SELECT pg_advisory_lock($lock);
\\o
CREATE SCHEMA IF NOT EXISTS runtime;
CREATE TABLE IF NOT EXISTS runtime.schema_migrations (
    version text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
EOF
    for file in "${files[@]}"; do
        version=${file##*/} version=${version%.up.sql}
        sum=$(sha256sum <"$file" | cut -d ' ' -f 1)
        cat <<EOF
SELECT count(*) = 0 AS missing, coalesce(bool_or(checksum <> '$sum'), false) AS differs
    FROM runtime.schema_migrations WHERE version = '$version' \\gset
\\if :differs
DO \$\$ BEGIN RAISE EXCEPTION 'migration checksum mismatch for $version'; END \$\$;
\\endif
\\if :missing
\\echo applying $version
BEGIN;
\\i '$file'
;
INSERT INTO runtime.schema_migrations (version, checksum) VALUES ('$version', '$sum');
COMMIT;
\\endif
EOF
    done
}

find_files
find_server
if [ -n "$dry_run" ]; then
    for file in "${files[@]}"; do printf '+ psql: apply %s where it is not yet\n' "$file"; done
    exit 0
fi
command -v psql >/dev/null || missing 'psql is missing: apt-get install postgresql-client'
command -v sha256sum >/dev/null || missing 'sha256sum is missing'
wait_for_server
if ! script | psql -X -q -w; then
    complain 'the schema was not brought up to date; see above'
    exit 1
fi
echo "the schema is up to date (${#files[@]} files)"
