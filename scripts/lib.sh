# shellcheck shell=bash
# What the scripts share: where the project is, what must be installed, and who may install it. Sourced, never run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export top
# rustup's usual place, for shells that have not read its environment yet.
case ":$PATH:" in *":$HOME/.cargo/bin:"*) ;; *) PATH="$HOME/.cargo/bin:$PATH" ;; esac
# sshd and ip live where an ordinary user's PATH does not look.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Runs a command as root.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "root is needed for '$*', and there is no sudo: run it as root, then try again"
  fi
}

# Installs the Debian packages of the commands and libraries that are missing. Arguments: COMMAND:PACKAGE…
need() {
  local pair missing=()
  for pair in "$@"; do
    case $pair in
      # A library, which is no command.
      *.so.*:*) ldconfig -p | grep -q -F "${pair%%:*}" || missing+=("${pair#*:}") ;;
      *) command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}") ;;
    esac
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "these are missing and apt-get is not there to install them: ${missing[*]} (names of Debian packages)"
  printf 'Installing %s ...\n' "${missing[*]}" >&2
  as_root apt-get update -q >/dev/null || die "apt-get update failed"
  # A package that starts a daemon when installed (openssh-server) is told not to: nothing on this machine should
  # begin to listen because a test wants the program.
  as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}

# To build.
need_to_build() {
  need cc:gcc
  command -v cargo >/dev/null || die "no Rust toolchain: install one (https://rustup.rs), then try again"
}

# To make packages.
need_to_package() {
  need dh:debhelper dpkg-buildpackage:dpkg-dev rpmbuild:rpm
}

# To make machines out of namespaces, and to play on them.
need_to_play() {
  need sshd:openssh-server ssh:openssh-client rsync:rsync ip:iproute2 unshare:util-linux mount:mount ps:procps jq:jq \
    curl:curl age:age systemd-socket-activate:systemd libnss_systemd.so.2:libnss-systemd
}

# Says why machines cannot be made here, before anything else fails for a reason that nobody understands.
check_namespaces() {
  [ "$(id -u)" = 0 ] || die "machines are made of namespaces, which needs root"
  unshare --net --mount --uts --pid --fork --propagation private mount -t tmpfs none /mnt 2>/dev/null ||
    die "cannot make namespaces here: in a container, it must run privileged (docker run --privileged)"
}

# Writes what the programs say of themselves, from the definitions of their commands: man pages to TO/man, completions to
# TO/completions. Arguments: where the programs are, and TO.
describe() {
  local bin=$1 to=$2 name
  rm -rf "$to/man" "$to/completions"
  "$bin/certgate" man "$to/man" 2>/dev/null
  mkdir -p "$to/completions"
  for name in certgate certgate-node; do
    "$bin/$name" completions bash >"$to/completions/$name"
    "$bin/$name" completions zsh >"$to/completions/_$name"
    "$bin/$name" completions fish >"$to/completions/$name.fish"
  done
}
