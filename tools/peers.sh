#!/bin/bash
# Installs every Debian package that a test needs, and unpacks into .cache/peers those of Xen, that
# no machine without a hypervisor should have installed, and one program of Prometheus, that is no service here. As root; the second time it does nothing.
set -euo pipefail

# Into the system: programs that tests run beside vbdkit's own. One list, one line a reason.
packages=(
  xenstore-utils         # xenstore-ls, -write, -watch: strangers on the store's socket
  util-linux             # losetup, lsblk, unshare
  e2fsprogs              # mke2fs -d: a raw file with a real file system
  strace                 # counts system calls
  gcc libc6-dev          # builds the shim of test/peers and the floor of the bench
  btrfs-progs            # mkfs.btrfs: a file system on several devices
  qemu-utils             # qemu-img, qemu-io, qemu-nbd: strangers on images and on our NBD server
  libnbd-bin python3-libnbd nbdkit fio  # more of them, on the NBD server
  openssl                # certificates of TLS tests
  python3-jsonschema     # answers of the API against its document
  curl                   # the examples of docs/api.md
  libvhdi-utils libvmdk-utils  # vhdiinfo, vmdkinfo: more strangers on images
  systemd                # vbdd's unit is run by it, in namespaces of its own
  scdoc mandoc           # make the manual's pages, and find faults in them
  debhelper dpkg-dev     # build the package
  chromium fonts-dejavu-core  # looks at the web page
  shellcheck             # finds faults in what is for shells
  zstd bzip2 unzip       # unpack the strangers' images
)

cd "$(dirname "$0")/.."
peers=${VBDKIT_PEERS:-$PWD/.cache/peers}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${packages[@]}"; do installed "$package" || missing+=("$package"); done
xen=$peers/xen
has_xen() { [ -e "$xen/complete" ] && [ -e "$xen/usr/include/xen/io/blkif.h" ]; }
promtool=$peers/promtool
if [ ${#missing[@]} -eq 0 ] && has_xen && [ -e "$promtool" ]; then exit 0; fi

if [ "$(id -u)" != 0 ]; then
  echo "peers.sh installs Debian packages — run it as root" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
if [ ${#missing[@]} -gt 0 ]; then
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! has_xen; then
  # The release's own Xen: xenstored, oxenstored, xl, the block script of xen-utils-common, headers.
  utils=$(apt-cache pkgnames xen-utils- | grep -E '^xen-utils-[0-9.]+$' | sort -V | tail -n 1)
  libraries=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "$utils" | grep -E '^libxen' | sort -u)
  fresh=$xen.$$
  rm -rf "$xen" "$fresh"
  mkdir -p "$fresh/deb"
  # shellcheck disable=SC2086 # one word a package
  (cd "$fresh/deb" && apt-get download -qq -o APT::Sandbox::User=root \
    "$utils" xen-utils-common libxen-dev $libraries)
  for deb in "$fresh"/deb/*.deb; do dpkg -x "$deb" "$fresh"; done
  rm -r "$fresh/deb"
  touch "$fresh/complete"
  mv "$fresh" "$xen"
fi

if [ ! -e "$promtool" ]; then
  # Finds faults in metrics and in rules for alerts.
  fresh=$peers/prometheus.$$
  mkdir -p "$fresh"
  (cd "$fresh" && apt-get download -qq -o APT::Sandbox::User=root prometheus)
  for deb in "$fresh"/*.deb; do dpkg --fsys-tarfile "$deb"; done | tar -xO ./usr/bin/promtool >"$fresh/promtool"
  chmod 755 "$fresh/promtool"
  mv "$fresh/promtool" "$promtool"
  rm -r "$fresh"
fi
