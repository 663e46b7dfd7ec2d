# shellcheck shell=bash
# The file systems that the lab's machines begin with, made once from Debian's packages and kept. Sourced by scripts/lab
# after scripts/lib.sh; never run.
#
#   base    boots, and has OpenSSH's client: a laptop, a bastion
#   node    what is added to it on a node: sshd, and Slurm
#
# A machine is base, or node above base, below a directory of its own (overlayfs). Nothing is ever written into these.

# Beyond Debian's smallest system: booting, systemd's user records, and what our packages depend on, since the machines
# have no network to get it from; and what backups are made for (age).
base_packages=(systemd systemd-sysv dbus libpam-systemd libnss-systemd iproute2 procps openssh-client rsync age)
node_packages=(openssh-server munge slurmctld slurmd slurm-client libpam-slurm-adopt)

# Debian's own sources, as this machine has them: one line for each, as sources.list(5) has it.
debian_sources() {
  # shellcheck disable=SC2016  # apt's own variables
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u
}

# Makes the images unless they are there. Sets $images to their directory.
make_images() {
  local release mirror key cache
  release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  mirror=$(debian_sources | awk -v release="$release" '$3 == release { print $2; exit }')
  [ -n "$mirror" ] || cannot "no Debian here: apt knows no source of Debian's for '$release'"
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/certgate-lab
  # What they are made of: this file has the lists of packages.
  key=$({ cat "${BASH_SOURCE[0]}" && debian_sources && dpkg --print-architecture; } | sha256sum | cut -c 1-16)
  images=$cache/$key
  [ ! -e "$images/done" ] || return 0

  need debootstrap:debootstrap
  printf 'Making the image of the machines from %s (once) ...\n' "$mirror"
  # Earlier ones, and one that was not finished.
  rm -rf "$cache"
  mkdir -p "$images"/{base,node,work,root}
  # In a mount namespace of its own, which takes along what was mounted, however this ends.
  if ! unshare --mount --propagation private bash -euc "$(declare -f fill_images debian_sources); fill_images \"\$@\"" \
    bash "$images" "$release" "$mirror" "${base_packages[*]}" "${node_packages[*]}" >"$images/log" 2>&1; then
    tail -n 20 "$images/log" >&2
    die "the image could not be made; all of the log is in $images/log"
  fi
  touch "$images/done"
}

# shellcheck disable=SC2317,SC2329  # called in the namespace
fill_images() {
  local images=$1 release=$2 mirror=$3 base node
  read -ra base <<<"$4"
  read -ra node <<<"$5"
  # As apt reaches the mirror, so does debootstrap.
  eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
  [ -z "${http_proxy:-}" ] || export http_proxy
  export DEBIAN_FRONTEND=noninteractive LC_ALL=C
  # shellcheck disable=SC2001
  debootstrap --variant=minbase --include="$(sed 's/ /,/g' <<<"${base[*]}")" "$release" "$images/base" "$mirror"
  debian_sources >"$images/base/etc/apt/sources.list"
  printf 'APT::Install-Recommends "false";\nAcquire::Languages "none";\nDpkg::Use-Pty "false";\nquiet "1";\n' >"$images/base/etc/apt/apt.conf.d/90lab"
  # An image can be made again: nothing has to be on the disk before the next package.
  echo force-unsafe-io >"$images/base/etc/dpkg/dpkg.cfg.d/lab"

  mount -t overlay -o "lowerdir=$images/base,upperdir=$images/node,workdir=$images/work" lab "$images/root"
  mount -t proc proc "$images/root/proc"
  # Installing starts nothing.
  printf '#!/bin/sh\nexit 101\n' >"$images/root/usr/sbin/policy-rc.d"
  chmod 0755 "$images/root/usr/sbin/policy-rc.d"
  chroot "$images/root" apt-get update -q
  chroot "$images/root" apt-get install -y -q "${node[@]}"
  rm "$images/root/usr/sbin/policy-rc.d"
  # Each machine makes its own.
  rm -f "$images"/root/etc/ssh/ssh_host_*
  chroot "$images/root" apt-get clean
  rm -rf "$images"/root/var/lib/apt/lists/* "$images"/base/var/cache/apt/archives/*.deb "$images"/base/var/lib/apt/lists/*
}
