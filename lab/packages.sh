#!/bin/sh
# Installs what the lab needs on the machine that it runs on; all of it comes from Debian.
set -eu
packages='qemu-system-x86 mmdebstrap uidmap fakeroot e2fsprogs kmod cpio util-linux qemu-utils gcc libc6-dev xz-utils zstd'
missing=''
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing="$missing $package"
done
[ -n "$missing" ] || exit 0
sudo=''
[ "$(id -u)" = 0 ] || sudo=sudo
failed() {
  echo "packages.sh: apt-get could not install$missing — the lab needs them and a Debian mirror" >&2
  exit 1
}
$sudo apt-get -qq update || failed
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
  install -y --no-install-recommends $missing > /dev/null || failed
