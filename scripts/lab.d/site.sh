# shellcheck shell=bash
# How the lab comes up: machines that boot, a Slurm cluster on two of them, our packages, and people. Sourced by
# scripts/lab; never run.

# The lab's own network, which leads nowhere else.
declare -A address=([bastion]=10.77.0.2 [login0]=10.77.1.10 [compute0]=10.77.1.20 [laptop]=10.77.9.2)

# Begins a program of scripts/lab.d/machine that is to run until the lab ends.
keep() {
  if [ -n "$stay" ]; then
    setsid "$lab" "$@" 8>&- 9>&- >/dev/null 2>&1 &
  else
    setpriv --pdeathsig KILL -- "$lab" "$@" 8>&- 9>&- &
  fi
}

# Whether a machine has booted, and without a unit that failed.
running() { quietly "$1" root 'systemctl is-system-running --wait' | grep -qx running; }

# Boots a machine, and waits until it can be entered. Arguments: NAME [SHARED-DIRECTORY…]
boot() {
  local name=$1
  keep up "$dir/$name" "${layers[$name]}" "${@:2}"
  eventually 60 test -e "$dir/$name/ready" || die "$name did not come up: $(cat "$dir/$name/log/machine.log")"
}

# Writes a file on a machine that has not booted yet. Arguments: NAME PATH [MODE], and what is to stand in it on standard
# input.
into() {
  "$lab" prepare "$dir/$1" "${layers[$1]}" install -D -m "${3:-0644}" /dev/stdin "$2"
}

build_site() {
  local name
  declare -gA layers=([bastion]=$images/base [laptop]=$images/base)
  layers[login0]=$images/node:$images/base
  layers[compute0]=${layers[login0]}
  # What an earlier lab has left behind that was killed.
  "$lab" down "$dir"
  mkdir -p "$dir"
  keep site "$dir"
  eventually 10 test -e "$dir/ready" || die 'the site did not come up'
  for name in bastion login0 compute0 laptop; do
    "$lab" plug "$dir/$name" "${address[$name]}/16"
    names | into "$name" /etc/hosts
  done
  for name in login0 compute0; do slurm_node "$name"; done
  for name in bastion login0 compute0 laptop; do
    # What a cluster's shared file system is: the same directory on each node.
    case $name in *0) boot "$name" /home ;; *) boot "$name" ;; esac
  done
  for name in bastion login0 compute0 laptop; do
    check "$name has booted, and no unit has failed" eventually 60 running "$name"
  done
  slurm_is_up() { [ "$(quietly login0 root 'sinfo --noheader --format=%t --Node | sort -u')" = idle ]; }
  eventually 30 slurm_is_up || :
  play login0 root sinfo
  check 'Slurm has both nodes' slurm_is_up
}

# What the machines know of each other without a name server.
names() {
  local name
  echo '127.0.0.1 localhost'
  for name in "${!address[@]}"; do echo "${address[$name]} $name"; done
  echo "${address[bastion]} bastion.example.com"
}

# The configuration of Slurm, and of sshd on a compute node: nobody may log in there who has no job.
slurm_node() {
  local name=$1
  into "$name" /etc/slurm/slurm.conf <<CONFIG
ClusterName=h100
SlurmctldHost=login0
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
# A step that is there for as long as the job: what pam_slurm_adopt puts a login into.
PrologFlags=Contain
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=login0,compute0 CPUs=$(nproc) State=UNKNOWN
PartitionName=compute Nodes=compute0 Default=YES
PartitionName=login Nodes=login0
CONFIG
  if grep -q ' cgroup .*freezer' /proc/mounts; then
    # This machine has control groups of both kinds, and Slurm's plugin for the new kind refuses that.
    printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=/run/slurm-cgroup\nCgroupAutomount=yes\n'
  else
    printf 'CgroupPlugin=cgroup/v2\n'
  fi | into "$name" /etc/slurm/cgroup.conf
  # shellcheck disable=SC2016
  "$lab" prepare "$dir/$name" "${layers[$name]}" bash -euc 'ssh-keygen -q -A
    if [ "$1" = compute0 ]; then
      # Not beside pam_systemd, which would move the login out of the job again (pam_slurm_adopt(8)).
      DEBIAN_FRONTEND=noninteractive pam-auth-update --package --remove systemd
      echo "account required pam_slurm_adopt.so" >>/etc/pam.d/sshd
      rm /etc/systemd/system/multi-user.target.wants/slurmctld.service
    fi' bash "$name" 2>"$dir/stderr" || die "$name could not be prepared: $(cat "$dir/stderr")"
}

# Arguments: this|next
install_bastion() {
  put bastion "$(package "$1" certgate)"
  operator "apt-get install -y ./$(basename "$(package "$1" certgate)")"
  check 'the package is installed' succeeded
}

# Our packages, as a site installs them, and people.
build_certgate() {
  local name user key token
  for user in admin1 user1; do
    "$machine" account "$dir/laptop" "$user" "$((1000 + ${#user}))"
    quietly laptop "$user" "mkdir -m 0700 .ssh && ssh-keygen -q -t ed25519 -N '' -C $user@laptop -f .ssh/id_ed25519"
  done
  install_bastion this
  key=$(quietly laptop admin1 'cat .ssh/id_ed25519.pub')
  operator "certgate setup --host bastion.example.com --org acme --email admin1@acme.example --user admin1 --key '$key' --yes" \
    "certgate setup --host bastion.example.com --org acme --email admin1@acme.example --user admin1 --key '${key:0:24}…' --yes"
  check 'the bastion is set up' succeeded
  operator 'certgate status'
  check 'authority and gateway are up' says 'gw1 '
  key=$(quietly laptop user1 'cat .ssh/id_ed25519.pub')
  operator "certgate user create user1@acme.example --org acme --name user1 --key '$key'" \
    "certgate user create user1@acme.example --org acme --name user1 --key '${key:0:24}…'"
  operator 'certgate project create acme/ml-training --admin admin1@acme.example'
  operator 'certgate cluster create acme/ml-training h100 --kind slurm'
  for name in login0 compute0; do
    put "$name" "$(package this certgate-node)"
    play "$name" root "apt-get install -y ./$(basename "$(package this certgate-node)")"
    operator "certgate node token $name.h100.acme --role ${name%0}"
    token=$(head -n 1 "$dir/stdout")
    play "$name" root "certgate-node join $token" "certgate-node join ${token:0:24}…"
    play "$name" root 'systemctl enable --now certgate-node'
    check "$name has joined" succeeded
  done
  check 'both nodes have confirmed their access list' eventually 30 in_force
  # What an operator hands out with the address of the bastion.
  for user in admin1 user1; do
    quietly laptop "$user" "printf '%s\n' '$(quietly bastion root 'certgate config known-hosts')' >.ssh/known_hosts"
  done
}

# The file of one of our packages. Arguments: this|next PACKAGE
package() { printf '%s\n' "$packages/$1/$2"_*.deb; }

# Whether all nodes have what they are to have.
in_force() {
  [ "$(quietly bastion root 'certgate status --json' | jq '[.nodes[] | select(.version != null and .version >= .wanted)] | length')" = 2 ]
}

# Copies files to root's home on a machine. Arguments: NAME FILE…
put() {
  local name=$1 file
  shift
  for file in "$@"; do "$machine" run "$dir/$name" root install -m 0644 /dev/stdin "${file##*/}" <"$file"; done
}

# What the machines have to say when something has failed.
journals() {
  local name
  for name in bastion login0 compute0; do
    [ -e "$dir/$name/ready" ] || continue
    chapter "The journal of $name"
    quietly "$name" root "journalctl --no-pager -n 60 -o short-iso -u 'certgate*' -u 'slurm*' -u ssh; systemctl --failed --no-pager" || :
  done
}
