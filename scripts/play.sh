# shellcheck shell=bash
# How stories are played (scripts/demo, scripts/upgrade, scripts/lab): commands that are shown as they are typed, what they
# print, and checks that are counted. Sourced; never run.
#
# Uses $dir, a directory with one for each machine, and $machine, the program whose `run` runs a command on one.

passed=0 failed=0
# The commands that run in the background: pids.
background=()
declare -A pid_of

bold='' dim='' red='' green='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; fi

chapter() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# Waits until a command succeeds. Arguments: SECONDS COMMAND…
eventually() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.1
  done
}

# A check: a tick if the command succeeds, a cross if not. Arguments: WHAT COMMAND…
check() {
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then
    passed=$((passed + 1))
    printf '  %s✓ %s%s\n' "$green" "$what" "$plain"
  else
    failed=$((failed + 1))
    printf '  %s✗ %s%s\n' "$red" "$what" "$plain"
  fi
}

# Conditions on the last command that was shown.
succeeded() { [ "$status" = 0 ]; }
refused() { [ "$status" != 0 ]; }
refused_saying() { refused && says "$1"; }
says() { grep -qE -- "$1" "$dir/out"; }
says_nothing_of() { succeeded && ! says "$1"; }
says_exactly() { [ "$(cat "$dir/stdout")" = "$1" ]; }
counts() { [ "$(grep -cE -- "$2" "$dir/out")" = "$1" ]; }
not() { ! "$@"; }

# Runs a command line on a machine without showing it.
quietly() {
  local name=$1 user=$2
  shift 2
  "$machine" run "$dir/$name" "$user" bash -c "$*" </dev/null 9>&-
}

prompt() {
  local user=$1 host=$2 sign='$'
  [ "$user" != root ] || sign='#'
  printf '%s%s@%s%s%s ' "$dim" "$user" "$host" "$sign" "$plain"
}

# Shows a command line as it is typed, runs it, shows what it prints; keeps both and the status for the checks.
play() {
  local name=$1 user=$2 line=$3 shown=${4:-$3}
  prompt "$user" "${name%%.*}"
  printf '%s%s%s\n' "$bold" "$shown" "$plain"
  status=0
  "$machine" run "$dir/$name" "$user" bash -c "$line" </dev/null >"$dir/stdout" 2>"$dir/stderr" 9>&- || status=$?
  cat "$dir/stdout" "$dir/stderr" >"$dir/out"
  show "$dir/out"
  [ "$status" = 0 ] || printf '  %s(exit status %s)%s\n' "$dim" "$status" "$plain"
}

# Prints a file, indented; a long one in part.
show() {
  local lines
  lines=$(wc -l <"$1")
  head -n 24 "$1" | cut -c 1-200 | sed 's/^/  /'
  [ "$lines" -le 24 ] || printf '  %s… (%s more lines)%s\n' "$dim" "$((lines - 24))" "$plain"
}

operator() { play bastion root "$@"; }

# Begins a command line in the background; its output is in $dir/ID.out. Arguments: ID MACHINE USER COMMAND-LINE
begin() {
  local id=$1 name=$2 user=$3 line=$4
  prompt "$user" "$name"
  printf '%s%s%s %s&%s\n' "$bold" "$line" "$plain" "$dim" "$plain"
  "$machine" run "$dir/$name" "$user" bash -c "$line" <"${5:-/dev/null}" >"$dir/$id.out" 2>&1 9>&- &
  background+=("$!")
  # shellcheck disable=SC2034  # for the story
  pid_of[$id]=$!
}

alive() { kill -s 0 "$1" 2>/dev/null; }
