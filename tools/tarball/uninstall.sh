#!/bin/sh
# Takes away what install.sh has put onto this host, and gives Xen's own scripts their places back. Guests keep the
# disks that they have from the kernel; beneath those of vbd-tap it does not go.
set -eu

library=$(dirname -- "$(readlink -f -- "$0")")
vbd=$library/bin/vbd

refuse() {
  echo "uninstall.sh: $1" >&2
  exit 1
}

check() {
  [ "$(id -u)" = 0 ] || refuse 'only root may uninstall — use sudo'
  [ -e "$library/installed" ] || refuse "there is no $library/installed, which says what was put where"
  # Nobody would serve these any more, and their guests would wait for ever.
  answers=yes
  listed=$("$vbd" list --no-headings -o device,guest,vdev 2> /dev/null) || answers=no
  served=$(echo "$listed" | grep -E '^(ring|/dev/nbd)' || true)
  [ -z "$served" ] ||
    refuse "guests still have disks that vbd-tap serves — detach them, or shut the guests down:
$served"
  # Each disk of a tap has a file there, whether it runs or its successor is to go on.
  open=$(ls /run/vbdkit/statistics 2> /dev/null || true)
  [ $answers = yes ] || [ -z "$open" ] ||
    refuse "vbdd does not answer, and vbd-tap has disks of guests — start vbdd, which knows whose they are:
$open"
  [ ! -d /run/systemd/system ] || return 0
  [ $answers = no ] || refuse 'vbdd is running — end it first'
  tap=$(cat /run/vbdkit/tap.pid 2> /dev/null || true)
  if [ -n "$tap" ] && kill -0 "$tap" 2> /dev/null; then refuse "vbd-tap is running — end it first: kill $tap"; fi
}

# Of what install.sh has made, what nobody else uses by now; from the inside out.
remove_folders() {
  grep '/$' "$list" | sort -r | while read -r path; do rmdir -- "$path" 2> /dev/null || true; done
}

check
# One that was cut short has done this already; what vbd setup --qdisk has put in qemu's place goes, too.
if [ -e "$vbd" ] && [ -d /etc/xen/scripts ]; then "$vbd" setup --undo; fi
for unit in vbdd vbd-tap; do
  if [ -d /run/systemd/system ] && [ -e "/etc/systemd/system/$unit.service" ]; then
    systemctl --quiet disable --now "$unit.service"
  fi
done

config=/etc/xen/vbdkit.conf
if cmp -s "$library/vbdkit.conf" "$config"; then
  rm -f -- "$config"
elif [ -e "$config" ]; then
  echo "$config has been changed, and is kept"
fi
rm -f -- "$vbd"
# What Node has compiled is in no list.
rm -rf /run/vbdkit /var/cache/vbdkit/*
rmdir /var/lib/vbdkit 2> /dev/null || true
list=$(mktemp)
trap 'rm -f -- "$list"' EXIT
cp -- "$library/installed" "$list"
grep -v -e '/$' -e '/uninstall\.sh$' "$list" | while read -r path; do rm -f -- "$path" "$path.vbdkit-new"; done
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
remove_folders
# Last what this can be run again with.
for path in "$library/uninstall.sh" "$library/installed"; do rm -f -- "$path.vbdkit-new" "$path"; done
remove_folders
