#!/bin/sh
# Takes away what install.sh has put onto this host, and gives Xen's own scripts their places back. Guests keep the
# disks that they have from the kernel; beneath those of vbd-tap it does not go.
set -eu

library=$(dirname -- "$(readlink -f -- "$0")")
prefix=${library%/lib/vbdkit}
vbd=$prefix/bin/vbd

refuse() {
  echo "uninstall.sh: $1" >&2
  exit 1
}

check() {
  [ "$(id -u)" = 0 ] || refuse 'only root may uninstall — use sudo'
  [ -e "$library/installed" ] || refuse "there is no $library/installed, which says what was put where"
  # Nobody would serve these any more, and their guests would wait for ever.
  served=$("$vbd" list --no-headings -o device,guest,vdev 2> /dev/null | grep -E '^(ring|/dev/nbd)' || true)
  [ -z "$served" ] ||
    refuse "guests still have disks that vbd-tap serves — detach them, or shut the guests down:
$served"
  [ ! -d /run/systemd/system ] || return 0
  if "$vbd" list > /dev/null 2>&1; then refuse 'vbdd is running — end it first'; fi
  tap=$(cat /run/vbdkit/tap.pid 2> /dev/null || true)
  if [ -n "$tap" ] && kill -0 "$tap" 2> /dev/null; then refuse "vbd-tap is running — end it first: kill $tap"; fi
}

check
# What vbd setup --qdisk has put in qemu's place goes, too.
if [ -d /etc/xen/scripts ]; then "$vbd" setup --undo; fi
if [ -d /run/systemd/system ]; then systemctl --quiet disable --now vbdd.service vbd-tap.service; fi

config=/etc/xen/vbdkit.conf
if cmp -s "$library/vbdkit.conf" "$config"; then
  rm -f -- "$config"
elif [ -e "$config" ]; then
  echo "$config has been changed, and is kept"
fi
# What Node has compiled is in no list.
rm -rf /run/vbdkit /var/cache/vbdkit/*
rmdir /var/lib/vbdkit 2> /dev/null || true
list=$(mktemp)
cp -- "$library/installed" "$list"
rm -f -- "$library/installed"
grep -v '/$' "$list" | while read -r path; do rm -f -- "$path"; done
# Folders from the inside out; those that others use by now stay.
grep '/$' "$list" | sort -r | while read -r path; do
  rmdir -- "$path" 2> /dev/null || true
done
rm -f -- "$list"
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
