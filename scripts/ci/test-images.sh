#!/usr/bin/env bash
# Builds the three images with buildah and looks into each, without any registry of images.
#
#   scripts/ci/test-images.sh [--real] [IMAGE...]      IMAGE: api, worker, tools (default: all)
#
#   --real      compiles the programs in the build stage (some minutes; needs the toolchain of rust-toolchain.toml and the downloaded crates here).
#               Without it the stage gets a `cargo` that hands out the programs that are already built, or scripts of that name.
#
# The bases are local tags made with debootstrap, and kept: a second call uses them again. Needs root, buildah, debootstrap.
# Where one of these is missing, it says so and ends with 0; REQUIRE_IMAGES=1 makes that a failure.
# The last line is `N passed, N failed`.
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/local/common.sh
. "$here/../local/common.sh"

real='' images=()
for argument in "$@"; do
    case $argument in
    -h | --help)
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --real) real=yes ;;
    api | worker | tools) images+=("$argument") ;;
    *)
        warn "unknown argument: $argument (see --help)"
        exit 64
        ;;
    esac
done
if [ ${#images[@]} -eq 0 ]; then images=(api worker tools); fi

# skip TEXT: nothing can be tested here.
skip() {
    say "skipped: $*"
    [ -z "${REQUIRE_IMAGES:-}" ]
    exit
}
command -v buildah >/dev/null || skip "no buildah: apt-get install buildah"
command -v debootstrap >/dev/null || skip "no debootstrap: apt-get install debootstrap"
[ "$(id -u)" -eq 0 ] || skip "debootstrap needs root"

debian=localhost/agent-test-debian:12
rust=localhost/agent-test-rust:1.95
stub=localhost/agent-test-stub:1
work=$(mktemp -d)
container=''
finish() {
    if [ -n "$container" ]; then buildah rm "$container" >/dev/null 2>&1; fi
    rm -rf "$work"
}
trap finish EXIT
# No daemon, no namespaces of a user: the build's commands run in a chroot.
export BUILDAH_ISOLATION=chroot

passed=0 failed=0
# result STATUS NAME
result() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok   $2"
    else
        failed=$((failed + 1))
        echo "FAIL $2"
    fi
}

# --- Bases ----------------------------------------------------------------------------------------------------------

have() { buildah inspect --type image "$1" >/dev/null 2>&1; }

# commit TAG: the container becomes an image.
commit() {
    buildah commit --rm --quiet "$container" "$1" >/dev/null || die "$1 could not be made"
    container=''
}

make_debian() {
    if have "$debian"; then return; fi
    say "making $debian"
    debootstrap --variant=minbase bookworm "$work/debian" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log"; die "debootstrap failed"; }
    rm -rf "$work"/debian/var/cache/apt/archives/*.deb "$work"/debian/var/lib/apt/lists/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/debian" / >/dev/null || die "the base could not be filled"
    buildah config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    commit "$debian"
    rm -rf "$work/debian"
}

# The toolchain of this machine, and its downloaded crates, in a Debian with a C compiler.
make_rust() {
    local cargo=${CARGO_HOME:-$HOME/.cargo} chain part
    if have "$rust"; then return; fi
    say "making $rust"
    chain=$(cd "$root" && rustc --print sysroot) || die "there is no Rust toolchain here"
    container=$(buildah from --pull-never "$debian")
    buildah run "$container" -- sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends ca-certificates gcc g++ make cmake libc6-dev perl pkg-config' \
        >"$work/log" 2>&1 || { tail -n 20 "$work/log"; die "the compiler could not be installed"; }
    # The programs of the toolchain themselves, without rustup; and what was downloaded, so that nothing has to be again.
    for part in bin lib; do buildah add --quiet "$container" "$chain/$part" "/usr/local/rust/$part" >/dev/null || die "no room for the toolchain"; done
    for part in cache index; do buildah add --quiet "$container" "$cargo/registry/$part" "/usr/local/cargo/registry/$part" >/dev/null; done
    buildah config --env CARGO_HOME=/usr/local/cargo --env CARGO_NET_OFFLINE=true \
        --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    commit "$rust"
}

# program NAME: where it is built, or a script of that name.
program() {
    local dir
    for dir in "$target/release" "$target/debug"; do
        if [ -x "$dir/$1" ]; then
            printf '%s' "$dir/$1"
            return
        fi
    done
    # shellcheck disable=SC2016
    printf '#!/bin/sh\ncase ${1:-} in --version) echo "%s 0.0.0";; *) echo "usage: %s" >&2; exit 64;; esac\n' "$1" "$1" >"$work/$1"
    chmod 755 "$work/$1"
    printf '%s' "$work/$1"
}

# A `cargo` that knows where things go, and refuses what the images do not ask for.
make_stub() {
    local name
    cat >"$work/cargo" <<'EOF'
#!/bin/sh
set -e
case "$*" in
'build --release --locked -p api -p worker --bins')
    mkdir -p target/release
    cp /stub/agent-api /stub/agent-worker target/release/ ;;
'build --release --locked --target '*'-unknown-linux-gnu -p tool-supervisor')
    [ "$RUSTFLAGS" = '-C target-feature=+crt-static' ]
    mkdir -p "target/$5/release"
    cp /stub/agent-tool-supervisor "target/$5/release/" ;;
*) echo "not expected: cargo $*" >&2; exit 1 ;;
esac
[ -f Cargo.lock ] && [ -d crates/api/src ] && [ -d migrations ]
EOF
    chmod 755 "$work/cargo"
    container=$(buildah from --pull-never "$debian")
    buildah add --quiet "$container" "$work/cargo" /usr/local/bin/cargo >/dev/null
    for name in agent-api agent-worker agent-tool-supervisor; do
        buildah add --quiet "$container" "$(program "$name")" "/stub/$name" >/dev/null
    done
    commit "$stub"
}

# --- Looking into them ----------------------------------------------------------------------------------------------

# inside COMMAND...: in the image, as its own user, with nothing but /tmp and /workspace to write to, as in a pod.
inside() {
    local uid gid writable=(--tmpfs /tmp)
    if [ -d "$tree/workspace" ]; then writable+=(--tmpfs /workspace); fi
    IFS=: read -r uid gid <<<"$user"
    bwrap --ro-bind "$tree" / "${writable[@]}" --proc /proc --dev /dev --unshare-all --uid "$uid" --gid "$gid" --cap-drop ALL \
        --clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --chdir /tmp -- "$@"
}

# says NAME PATTERN COMMAND...
says() {
    local name=$1 pattern=$2 said
    shift 2
    said=$(inside "$@" 2>&1)
    [[ $said =~ $pattern ]]
    result $? "agent-$image: $name: $(printf '%s' "$said" | head -n 1 | cut -c 1-70)"
}

look_into() {
    local config
    image=$1
    container=$(buildah from --pull-never "localhost/agent-$image:test")
    tree=$(buildah mount "$container")
    config=$(buildah inspect --type image --format '{{.OCIv1.Config.User}}|{{.OCIv1.Config.Entrypoint}}|{{.OCIv1.Config.Cmd}}|{{index .OCIv1.Config.Labels "org.opencontainers.image.title"}}' \
        "localhost/agent-$image:test")
    user=${config%%|*}
    say "agent-$image: $config, $(du -sm "$tree" | cut -f 1) MB unpacked"
    [[ $config == *"|agent-$image" ]]
    result $? "agent-$image: its labels name it"
    says id 'uid=(1000|10001)' id
    says sh '^good$' sh -c 'echo good'
    says env 'PATH=' env
    says 'the root is read-only' '^refused$' sh -c 'touch /usr/x 2>/dev/null && echo written || echo refused'
    if [ "$image" = tools ]; then look_into_tools; else look_into_programs; fi
    buildah umount "$container" >/dev/null
    buildah rm "$container" >/dev/null
    container=''
}

look_into_programs() {
    [[ $user == 1000:1000 ]]
    result $? "agent-$image: runs as 1000"
    says agent-api '^agent-api [0-9]' agent-api --version
    says agent-worker '^agent-worker [0-9]' agent-worker --version
    says redis-cli '^redis-cli [0-9]' redis-cli --version
    says psql '^psql \(PostgreSQL\) [0-9]' psql --version
    says curl '^curl [0-9]' curl --version
}

look_into_tools() {
    [[ $user == 10001:10001 ]]
    result $? "agent-$image: runs as 10001"
    says bash '^GNU bash' bash --version
    says python3 '^\[4\]$' python3 -c 'print([2 + 2])'
    says node '^\[ 4 \]$' node -e 'console.log([2 + 2])'
    says git '^git version' git --version
    says 'git in /workspace' 'Initialized empty' sh -c 'cd /workspace && HOME=/tmp git init'
    says curl '^curl [0-9]' curl --version
    inside agent-tool-supervisor >/dev/null 2>&1
    [ $? -lt 126 ]
    result $? "agent-$image: the supervisor starts"
    if [ -n "$real" ]; then
        says 'the supervisor is static' 'statically linked|not a dynamic executable' ldd /usr/local/bin/agent-tool-supervisor
        says 'the supervisor says its usage' '^agent-tool-supervisor: ' agent-tool-supervisor --help
    fi
}

# build NAME: the image from its own Dockerfile, with nothing from outside.
build() {
    local base=$stub
    if [ -n "$real" ]; then base=$rust; fi
    say "building agent-$1"
    buildah build --pull-never --layers --build-arg "RUST_IMAGE=$base" --build-arg "RUNTIME_IMAGE=$debian" --build-arg "TOOLS_IMAGE=$debian" \
        --build-arg VERSION=test -f "$root/Dockerfile.$1" -t "localhost/agent-$1:test" "$root" >"$work/log" 2>&1 ||
        { tail -n 30 "$work/log"; return 1; }
}

make_debian
if [ -n "$real" ]; then make_rust; else make_stub; fi
for image in "${images[@]}"; do
    begun=$SECONDS
    if build "$image"; then
        result 0 "agent-$image: builds ($((SECONDS - begun)) s)"
        look_into "$image"
    else
        result 1 "agent-$image: builds"
    fi
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
