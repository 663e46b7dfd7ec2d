# shellcheck shell=bash
# The stage on which stories are played (scripts/demo, scripts/upgrade): builds what they need, becomes root, and gives
# them machines, commands that are shown as they are typed, and checks. Sourced after scripts/lib.sh; never run.
#
# Uses $build, the words for scripts/build, and "$@", with which the script began.

# As root only what needs root: the build belongs to whoever began.
if [ -z "${CERTGATE_BIN:-}" ]; then
  need_to_play
  need jq:jq
  echo 'Building (a first release build takes several minutes) ...'
  # shellcheck disable=SC2154  # an array of the story
  "$top/scripts/build" "${build[@]}"
  CERTGATE_BIN=$top/target/dist${build:+-debug}
  export CERTGATE_BIN
fi
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "root is needed to make machines, and there is no sudo: run it as root"
  exec sudo -- env "CERTGATE_BIN=$CERTGATE_BIN" "TERM=${TERM:-dumb}" "$0" "$@"
fi
check_namespaces

# --- The stage ------------------------------------------------------------------------------------------------------

dir=$(TMPDIR=/tmp mktemp -d -t "certgate-${0##*/}.XXXXXX")
machine=$top/scripts/machine
keepers=()
# shellcheck source=scripts/play.sh
. "$top/scripts/play.sh"

# shellcheck disable=SC2317,SC2329  # called by the trap
clean_up() {
  local status=$?
  trap - EXIT INT TERM HUP
  # The shell would report each of the ends that follow.
  exec 2>/dev/null
  exec 9>&-
  # With the first process of a machine, everything in it ends.
  [ "${#keepers[@]}" = 0 ] || kill -s KILL "${keepers[@]}" 2>/dev/null || :
  [ "${#background[@]}" = 0 ] || kill -s KILL "${background[@]}" 2>/dev/null || :
  wait 2>/dev/null || :
  rm -rf "$dir"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Makes a machine, and waits for it.
raise() {
  local name=$1 hostname=$2
  setpriv --pdeathsig KILL -- "$machine" up "$dir/$name" "$hostname" ${3:+"$dir/$3"} 9>&- &
  keepers+=("$!")
  eventually 10 test -e "$dir/$name/ready" || die "the machine $hostname did not come up: $(cat "$dir/$name/log/machine.log")"
}
