# Shared by install, run and test: which Debian packages they need, and how they get them. To be sourced by bash.
# shellcheck shell=bash

repository=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=/usr/bin/python3 # Debian's, for which python3-systemd is built; another one may come first in PATH

# What the service needs.
service_packages=(python3 python3-venv python3-systemd python3-nftables xenstore-utils ca-certificates)
# What the sandbox and the tests need besides.
bed_packages=(bridge-utils busybox dnsmasq-base gcc iproute2 iputils-ping isc-dhcp-client libc6-dev net-tools nftables
    procps shellcheck strace systemd udev util-linux)
# What the tests in emulated machines need besides.
# shellcheck disable=SC2034 # for packaging/test
machine_packages=(debootstrap debian-archive-keyring e2fsprogs gpgv qemu-system-x86)

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

say() {
    printf '\033[1m%s\033[0m\n' "$*"
}
[ -t 1 ] || say() { printf '%s\n' "$*"; }

need_root() {
    [ "$(id -u)" -eq 0 ] || die "must be run as root"
}

# apt-get, heard only when it fails.
apt() {
    local output
    output=$(DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" 2>&1) ||
        die "apt-get $1 failed: $output"
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Print the vifs in xenstore whose hotplug script is ours, a line each; nothing when there is no xenstore to ask. Xen's
# tools don't take the listings beyond 4096 bytes that oxenstored sends, from some 800 guests on: then they are unknown.
vifs_of_ours() {
    local listing
    command -v xenstore-ls >/dev/null || return 0
    if ! listing=$(timeout 10 xenstore-ls -f backend/vif 2>/dev/null); then
        ! timeout 10 xenstore-exists backend/vif 2>/dev/null ||
            die "xenstore-ls can't list backend/vif, so which guests need vif-xennetd is unknown: shut guests down until it can"
        return 0
    fi
    sed -n 's|^.*vif/\([0-9]*\)/\([0-9]*\)/script = "\([^"]*/\)\{0,1\}vif-xennetd[^"/]*"$|vif\1.\2|p' <<<"$listing"
}

# Install those of the named Debian packages that are missing.
install_packages() {
    local package missing=()
    command -v apt-get >/dev/null || die "needs Debian (apt-get)"
    for package; do
        installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -eq 0 ] && return
    say "Installing Debian packages: ${missing[*]}"
    refresh_index
    apt install --no-install-recommends "${missing[@]}"
}

# Fetch the package index, once.
refresh_index() {
    [ -z "${index_is_fresh:-}" ] || return 0
    apt update
    index_is_fresh=1
}

# Unpack the newest Xen's userland below .cache/xen, for its xenstored and stock scripts. The packages themselves are not
# installed, since they would start Xen's services; the libraries they need are.
unpack_xen() {
    local cache=$repository/.cache/xen version deb libraries
    if [ -e "$cache/libraries" ]; then
        # shellcheck disable=SC2046 # names of packages
        install_packages $(cat "$cache/libraries")
        return
    fi
    refresh_index
    version=$(apt-cache search --names-only '^xen-utils-4\.[0-9]+$' | sed -n 's/^xen-utils-\(4\.[0-9]*\) .*/\1/p' | sort -V | tail -1)
    [ -n "$version" ] || die "this Debian has no package xen-utils-4.x: no xenstored to test against"
    say "Unpacking Xen $version's xenstored and scripts into .cache/xen"
    rm -rf "$cache" "$cache.new"
    mkdir -p "$cache.new/debs"
    # As root apt-get download complains that its sandbox user can't write here; it downloads all the same.
    (cd "$cache.new/debs" && apt -o APT::Sandbox::User=root download "xen-utils-$version" xen-utils-common)
    for deb in "$cache.new/debs"/*.deb; do
        dpkg -x "$deb" "$cache.new"
    done
    libraries=$(dpkg-deb -f "$cache.new/debs/xen-utils-$version"_*.deb Depends | tr ',' '\n' | sed -n 's/^ *\(libxen[^ ]*\).*/\1/p')
    printf '%s\n' "$libraries" >"$cache.new/libraries"
    rm -r "$cache.new/debs"
    mv "$cache.new" "$cache"
    # shellcheck disable=SC2086 # names of packages
    install_packages $libraries
}

# What pyproject.toml asks for, one requirement a line; with `test`, what its extra asks for as well.
requirements() {
    "$python" - "$repository/pyproject.toml" "$@" <<'END'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print(*project["dependencies"], *(r for extra in sys.argv[2:] for r in project["optional-dependencies"][extra]), sep="\n")
END
}

# Make .venv with all that the tests import, but xennetd itself: that is always the checkout's own. When nothing that
# decides about it has changed, it is left as it is.
make_venv() {
    local venv=$repository/.venv wanted stamp
    wanted=$(requirements test)
    stamp=$({ printf '%s\n' "$wanted"; readlink -f "$python"; cat /etc/os-release; } | sha256sum)
    [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ] && return
    say "Making .venv"
    rm -rf "$venv"
    "$python" -m venv --system-site-packages "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install -r <(printf '%s\n' "$wanted")
    printf '%s\n' "$stamp" >"$venv/stamp"
}

# All that the sandbox and the tests need.
prepare_bed() {
    install_packages "${service_packages[@]}" "${bed_packages[@]}"
    unpack_xen
    make_venv
    mkdir -p "$repository/.cache"
}
