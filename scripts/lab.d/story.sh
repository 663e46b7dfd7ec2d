# shellcheck shell=bash
# What is played on the lab: a user works, is removed, comes back; the bastion is upgraded and rebooted; a node is cut off.
# Sourced by scripts/lab; never run.

login=login0.h100.acme compute=compute0.h100.acme
no_job='Access denied by pam_slurm_adopt: you have no active jobs on this node'
reason='removed from acme/ml-training at .* by admin1@acme\.example'

play_story() {
  units bastion authority:15 gateway:20
  units login0 node:30
  healthy login0
  healthy compute0
  works
  removed
  returns
  upgraded
  rebooted
  cut_off
  reinstalled
  lost
}

# Straight to a node's sshd, past the gateway, as somebody could who is inside the network.
direct() {
  printf 'ssh -F none -i .ssh/id_ed25519 -o CertificateFile=kept.pub -o IdentitiesOnly=yes -o BatchMode=yes'
  printf ' -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -l user1 %s %s' "$1" "${2:-hostname}"
}

user1() { play laptop user1 "$@"; }
admin1() { play laptop admin1 "$@"; }
# A certificate that user1 keeps, valid for minutes whatever happens to her.
keep_certificate() { user1 'ssh bastion.example.com cert 2>/dev/null >kept.pub; ssh-keygen -L -f kept.pub | grep Valid'; }
still_valid() {
  local until
  until=$(quietly laptop user1 'ssh-keygen -L -f kept.pub' | sed -n 's/.*Valid: .* to //p')
  [ "$(date -d "$until" +%s)" -gt "$(date +%s)" ]
}

job_is() { [ "$(quietly login0 root "scontrol show job $job" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p')" = "$1" ]; }

# What systemd says of our units. Arguments: MACHINE UNIT:EXPOSURE…, where the exposure is in tenths.
units() {
  local name=$1 unit
  shift
  for unit in "$@"; do
    play "$name" root "systemd-analyze verify --man=no certgate-${unit%:*}.service"
    check "systemd finds no mistake in certgate-${unit%:*}.service" test "$status" = 0 -a ! -s "$dir/out"
    play "$name" root "set -o pipefail
      systemd-analyze security --no-pager --threshold=${unit#*:} certgate-${unit%:*}.service | tail -n 1" \
      "systemd-analyze security --threshold=${unit#*:} certgate-${unit%:*}.service | tail -n 1"
    check 'nor is it more exposed than that' succeeded
  done
}

# What certgate itself says of a node.
healthy() {
  play "$1" root "certgate-node doctor --role ${1%0}"
  check "$1 is as it should be" succeeded
}

works() {
  chapter 'user1 is added, logs in through the bastion, and works with Slurm'
  admin1 'ssh bastion.example.com member add acme/ml-training user1@acme.example'
  check 'admin1 has added her' succeeded
  user1 "ssh bastion.example.com config > ~/.ssh/certgate.conf && echo 'Include certgate.conf' >> ~/.ssh/config"
  user1 "ssh $login 'hostname; id'"
  check 'she is on the login node, as herself' says '^uid=[0-9]+\(user1\)'
  user1 'ssh h100.acme hostname'
  check 'the cluster alone is its login node' says_exactly login0
  user1 "ssh $compute hostname"
  check 'without a job, the compute node turns her away: pam_slurm_adopt does, not certgate' refused_saying "$no_job"
  user1 "ssh $login srun hostname"
  check 'srun runs on the compute node' says_exactly compute0
  # It ends when a file appears.
  "$machine" run "$dir/laptop" user1 sh -c 'cat >job.sh' <<'JOB'
#!/bin/sh
echo "begun on $(hostname) by $(id -un)"
until [ -e "$HOME/go" ]; do sleep 0.5; done
echo "finished on $(hostname) by $(id -un)"
JOB
  user1 "ssh $login sbatch --parsable --output=job.out < job.sh"
  job=$(cat "$dir/stdout")
  eventually 20 job_is RUNNING || :
  user1 "ssh $login squeue"
  check 'sbatch has begun a job' says ' user1 +R '
  user1 "ssh $compute 'hostname; cat /proc/self/cgroup'"
  check 'now she is let in on the compute node, within her job' says "job_$job/step_extern"
  user1 "ssh $login 'echo from the login node > shared'; ssh $compute 'cat shared'"
  check 'both nodes share her home' says 'from the login node'
  for name in login0 compute0; do play "$name" root 'stat -c "%u %U %n" /home/user1/shared /home/user1/job.out; getent passwd user1'; done
  owners() { quietly "$1" root 'stat -c "%u %U %g %G" /home/user1 /home/user1/shared /home/user1/job.out; getent passwd user1'; }
  check 'and agree whose files these are, by number and by name' \
    test "$(owners login0)" = "$(owners compute0)" -a -n "$(owners login0 | grep -E '^[0-9]{4,} user1 ')"
}

removed() {
  chapter 'She is removed while she is connected and her job runs'
  begin on-login laptop user1 "ssh -tt $login 'echo connected; exec sleep 1000'"
  begin on-compute laptop user1 "ssh -tt $compute 'echo connected; exec sleep 1001'"
  keep_certificate
  begin past laptop user1 "$(direct "${address[login0]}" "'echo connected; exec sleep 1002'")"
  local id
  for id in on-login on-compute past; do
    check "a session is open ($id)" eventually 20 grep -q connected "$dir/$id.out"
  done
  eventually 20 sessions 3 || :
  operator 'certgate session list'
  check 'the bastion knows of all three' counts 3 'user1@acme\.example'
  admin1 'ssh bastion.example.com member remove acme/ml-training user1@acme.example --yes --wait'
  check 'she is removed, and gateway and nodes have confirmed' succeeded
  all_ended() { not alive "${pid_of[on-login]}" && not alive "${pid_of[on-compute]}" && not alive "${pid_of[past]}"; }
  check 'all her sessions have ended, the one past the gateway too' eventually 30 all_ended
  for id in on-login on-compute; do
    printf '  %swhat her terminal shows:%s\n' "$dim" "$plain"
    show "$dir/$id.out"
    check "the session says why ($id)" grep -qE "$reason" "$dir/$id.out"
  done
  user1 "ssh $login hostname"
  check 'the gateway refuses her, and says why' refused_saying "$reason"
  user1 'ssh bastion.example.com cert'
  check 'no certificate for her any more' refused_saying "$reason"
  user1 "$(direct "${address[login0]}")"
  check 'past the gateway, the login node refuses her certificate' refused_saying 'Permission denied'
  user1 "$(direct "${address[compute0]}")"
  check 'so does the compute node, where her job still runs: certgate does, not pam_slurm_adopt' refused_saying 'Permission denied'
  check 'and that certificate has not run out' still_valid
  play login0 root 'squeue'
  check 'squeue shows her job running on, under her name' says " $job .* user1 +R "
  play compute0 root 'ps -u user1 -o user,args'
  check 'nothing else of hers runs' says_nothing_of 'sleep 100[0-9]'
  quietly login0 root 'touch /home/user1/go'
  check 'the job finishes' eventually 30 job_is COMPLETED
  play login0 root 'cat /home/user1/job.out'
  check 'as herself' says '^finished on compute0 by user1$'
  play login0 root "squeue; scontrol show job $job | grep -E 'JobState|UserId'"
}

returns() {
  chapter 'admin1 adds her again, and all works as before'
  admin1 'ssh bastion.example.com member add acme/ml-training user1@acme.example'
  check 'she is added' succeeded
  check 'both nodes have confirmed' eventually 30 in_force
  user1 "ssh $login 'id; cat shared'"
  check 'she logs in, and her files are hers' says 'from the login node'
  user1 "ssh $login srun hostname"
  check 'srun runs' says_exactly compute0
  user1 "ssh $login rm -f go; ssh $login sbatch --parsable --output=job.out < job.sh"
  job=$(cat "$dir/stdout")
  eventually 20 job_is RUNNING || :
  user1 "ssh $compute hostname"
  check 'with a job she reaches the compute node' says_exactly compute0
}

upgraded() {
  chapter 'The package is upgraded under a running transfer'
  local before facts
  # It goes on until it is told that it is enough.
  quietly laptop user1 "rm -f enough sent; mkfifo data"
  begin transfer laptop user1 \
    "(until [ -e enough ]; do head -c 200000 /dev/urandom; sleep 0.05; done | tee sent >data) & ssh $login 'cat >received' <data"
  check 'a transfer runs' eventually 20 quietly login0 root 'test -s /home/user1/received'
  before=$(quietly bastion root 'systemctl show -P MainPID certgate-gateway')
  facts=$(decided)
  put bastion "$(package next certgate)"
  operator "apt-get install -y ./$(basename "$(package next certgate)")"
  check 'the next version is installed' succeeded
  play bastion root "dpkg-query -W certgate; systemctl status --no-pager --lines=0 certgate-gateway | head -n 12"
  # shellcheck disable=SC2016
  handed_over() { quietly bastion root 'now=$(systemctl show -P MainPID certgate-gateway); [ "$now" != '"$before"' ] &&
    [ "$(readlink /proc/$now/exe)" = /usr/bin/certgated ] && [ "$(readlink /proc/'"$before"'/exe)" != /usr/bin/certgated ]'; }
  check 'another process of the new file has taken over; the one before still carries the transfer' eventually 30 handed_over
  check 'what was decided is as it was' eventually 20 same_as "$facts"
  quietly bastion root 'journalctl --no-pager --output=cat --priority=warning --unit=certgate-gateway' >"$dir/warnings"
  show "$dir/warnings"
  check 'and the journal has no warning about it' test ! -s "$dir/warnings"
  put login0 "$(package next certgate-node)"
  play login0 root "apt-get install -y ./$(basename "$(package next certgate-node)")"
  check "the node's package is upgraded too" succeeded
  check 'the transfer has not ended' alive "${pid_of[transfer]}"
  local size
  size=$(quietly login0 root 'stat -c %s /home/user1/received')
  check 'and more has come' eventually 20 quietly login0 root "test \$(stat -c %s /home/user1/received) -gt $size"
  quietly laptop user1 'touch enough'
  transferred() { not alive "${pid_of[transfer]}"; }
  check 'it ends when it is complete' eventually 60 transferred
  check 'and every byte has arrived' \
    test "$(quietly laptop user1 'sha256sum <sent')" = "$(quietly login0 root 'sha256sum </home/user1/received')"
  alone() { [ "$(quietly bastion root 'pgrep -xc certgated')" = 2 ] && [ "$(connected)" = gw1 ]; }
  check 'then the process from before the upgrade ends by itself' eventually 60 alone
  user1 "ssh $login hostname"
  check 'new connections are made' says_exactly login0
}

# Whether so many sessions are open.
sessions() { [ "$(quietly bastion root 'certgate session list --json' | jq length)" = "$1" ]; }

# What the authority has decided, and must not forget.
decided() { quietly bastion root 'certgate ca show && certgate dump' | grep -v '^#'; }
same_as() { [ "$(decided)" = "$1" ]; }
connected() { quietly bastion root 'certgate status --json' | jq -r '.gateways[].gateway'; }

rebooted() {
  chapter 'The bastion is rebooted'
  local before facts
  before=$(cat "$dir/bastion/ready") facts=$(decided)
  operator 'systemctl reboot' || :
  again() { [ -s "$dir/bastion/ready" ] && [ "$(cat "$dir/bastion/ready")" != "$before" ] && running bastion; }
  check 'it has booted again, and no unit has failed' eventually 90 again
  check 'authority, gateway and both nodes are connected again' eventually 60 all_connected
  operator 'certgate status'
  check 'what was decided is as it was' same_as "$facts"
  user1 "ssh $login srun --partition=login hostname"
  check 'user1 works on as before' says_exactly login0
}

# Heard of since the authority has started.
all_connected() {
  [ "$(connected)" = gw1 ] && in_force &&
    quietly bastion root 'certgate status --json' | jq -e '.started as $started | all(.nodes[]; .heard > $started)'
}

cut_off() {
  chapter 'A node is cut off, and comes back; the other one ends all that a login has begun'
  play login0 root 'sed -i "s/^on_removal = .*/on_removal = \"terminate\"/" /etc/certgate/node.toml
    grep on_removal /etc/certgate/node.toml && systemctl restart certgate-node'
  check 'so it is to be on login0' says '^on_removal = "terminate"$'
  begin leaving laptop user1 "ssh $login 'setsid sleep 4242 >/dev/null 2>&1 </dev/null & exec sleep 1004'"
  # The agent has to have seen the connection while it is open.
  seen() { quietly bastion root 'certgate session list --json' | jq -e 'any(.[]; .process != null)'; }
  check 'the node knows of a session' eventually 30 seen
  kill -s KILL "${pid_of[leaving]}"
  check 'its connection has ended' eventually 30 sessions 0
  play login0 root 'pgrep -af "sleep [14]"'
  check 'and it has left something behind' says 'sleep 4242$'
  keep_certificate
  begin past laptop user1 "$(direct "-tt ${address[compute0]}" "'echo connected; exec sleep 1003'")"
  check 'user1 is on the compute node, past the gateway' eventually 20 grep -q connected "$dir/past.out"
  printf '  %sthe cable of compute0 is pulled out%s\n' "$dim" "$plain"
  "$lab" link "$dir/compute0" down
  admin1 'ssh bastion.example.com member remove acme/ml-training user1@acme.example --yes --wait'
  check 'she is removed; the node that is cut off has not confirmed it' says "^$compute +not confirmed"
  user1 'ssh bastion.example.com cert'
  check 'no certificate for her any more' refused_saying "$reason"
  check 'what she left behind on login0 has ended' eventually 30 not quietly login0 root 'pgrep -xf "sleep 4242"'
  # What it goes by is from before.
  play compute0 root 'ps -C sleep -o user,args'
  check 'there, her session does not know yet' says '^user1 +sleep 1003'
  printf '  %sand plugged in again%s\n' "$dim" "$plain"
  "$lab" link "$dir/compute0" up
  check 'the node catches up' eventually 60 in_force
  check 'and her session has ended' eventually 30 not quietly compute0 root 'pgrep -xf "sleep 1003"'
  user1 "$(direct "${address[compute0]}")"
  check 'her certificate is refused' refused_saying 'Permission denied'
  check 'though it has not run out' still_valid
  admin1 'ssh bastion.example.com member add acme/ml-training user1@acme.example'
  check 'both nodes know that she is back' eventually 30 in_force
  user1 "ssh $compute hostname"
  check 'and her job is where it was' says_exactly compute0
}

reinstalled() {
  chapter "A node's package is removed, and installed again"
  play login0 root 'apt-get remove -y certgate-node'
  check 'it is removed' succeeded
  keep_certificate
  user1 "$(direct "${address[login0]}")"
  check 'the node lets nobody in by certificate' refused_saying 'Permission denied'
  play login0 root 'sshd -t && systemctl is-active ssh'
  check 'its sshd is as it was before' says '^active$'
  play login0 root "apt-get install -y ./$(basename "$(package next certgate-node)")"
  check 'it is installed again' succeeded
  check 'and is a node again, without a token' eventually 30 quietly laptop user1 "ssh $login hostname"
}

lost() {
  chapter 'The bastion is lost, and another takes its place, from a backup'
  local recipient audit_key facts serial
  # Whoever is to read backups has the secret key; the bastion only ever sees the public one.
  recipient=$(quietly laptop admin1 'age-keygen -o backup-key.txt 2>/dev/null && age-keygen -y backup-key.txt')
  operator "certgate backup --to $recipient --with-ca-keys certgate.age"
  check 'a backup is made while everything runs' succeeded
  # Carried away, with what is no state of the authority's: the key by which nodes know the gateway, and this fingerprint.
  fetch bastion certgate.age /var/lib/certgate-gateway/ssh_host_ed25519_key
  audit_key=$(quietly bastion root 'certgate ca show' | sed -n 's/.* audit log \(SHA256:.*\)/\1/p')
  facts=$(decided)
  # What comes after the backup is lost with the bastion, but for what has left it.
  user1 'ssh bastion.example.com cert --ttl 6m 2>/dev/null >kept.pub; ssh-keygen -L -f kept.pub | grep Serial'
  serial=$(sed -n 's/.*Serial: //p' "$dir/out")
  check 'a certificate is issued after the backup' test "${serial:-0}" -gt 0
  operator 'systemctl poweroff' || :
  check 'the bastion is gone' eventually 60 test ! -e "$dir/bastion/ready"
  "$lab" erase "$dir/bastion"
  printf '  %sits disk is erased; another machine gets its name and address%s\n' "$dim" "$plain"
  names | into bastion /etc/hosts
  boot bastion
  check 'it has booted' eventually 60 running bastion
  install_bastion next
  put bastion "$dir/certgate.age"
  quietly laptop admin1 'cat backup-key.txt' | "$machine" run "$dir/bastion" root install -m 0600 /dev/stdin backup-key.txt
  "$machine" run "$dir/bastion" root install -m 0600 -o certgate-gateway -g certgate-gateway /dev/stdin \
    /var/lib/certgate-gateway/ssh_host_ed25519_key <"$dir/ssh_host_ed25519_key"
  operator 'certgate restore certgate.age --identity backup-key.txt --dry-run'
  check 'it says what the backup is' says 'bastion\.example\.com'
  operator "certgate restore certgate.age --identity backup-key.txt --audit-key $audit_key --yes"
  check 'the authority is restored' succeeded
  operator 'certgate setup --restored --host bastion.example.com --yes'
  check 'and the services run' succeeded
  check 'authority, gateway and both nodes are connected again' eventually 90 all_connected
  operator 'certgate status'
  check 'what was decided is as it was' same_as "$facts"
  operator 'certgate audit verify'
  check 'the audit log is whole' succeeded
  user1 'ssh bastion.example.com cert --ttl 7m 2>/dev/null >kept.pub; ssh-keygen -L -f kept.pub | grep Serial'
  check 'no serial number is given out twice' test "$(sed -n 's/.*Serial: //p' "$dir/out")" -gt "${serial:-0}"
  user1 "ssh $login srun --partition=login hostname"
  check 'user1 works on, and her known_hosts knows the bastion' says_exactly login0
  admin1 'ssh bastion.example.com member remove acme/ml-training user1@acme.example --yes --wait'
  check 'gateway and nodes take what is decided from now on' succeeded
}

# Copies files from a machine to the lab's directory. Arguments: NAME FILE…
fetch() {
  local name=$1 file
  shift
  for file in "$@"; do "$machine" run "$dir/$name" root cat "$file" >"$dir/${file##*/}"; done
}
