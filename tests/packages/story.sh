#!/usr/bin/env bash
# What becomes of a machine on which the packages are installed, upgraded, removed and purged. Plays on a copy of this
# machine's files that is thrown away (an overlay, in namespaces of its own, without a running systemd); the packages are
# real, and so are dpkg, rpm, sshd, and the authority and gateway that a node joins. Run as root, by tests/packages.rs.
#
#   story.sh OLD-DIR NEW-DIR       the directories of the packages of two versions
set -euo pipefail

[ "$1" != inside ] || shift
if [ -z "${CERTGATE_STORY:-}" ]; then
  old=$(readlink -f "$1") new=$(readlink -f "$2")
  export CERTGATE_STORY=1
  exec unshare --mount --net --pid --ipc --uts --fork --kill-child --propagation private "$(readlink -f "$0")" "$old" "$new"
fi

fail() {
  printf '✗ %s\n' "$*"
  exit 1
}
# check WHAT COMMAND…
check() {
  local what=$1
  shift
  "$@" || fail "$what"
  printf '✓ %s\n' "$what"
}
not() { ! "$@"; }
same() { [ "$1" = "$2" ] || { printf '  %s\n  is not what was expected:\n  %s\n' "$1" "$2" && return 1; }; }
holds() { grep -q -e "$2" "$1" || { printf '  %s:\n' "$1" && cat "$1" && return 1; }; }
mode() { same "$(stat -c '%A %U:%G' "$1")" "$2"; }
eventually() {
  local tries=0
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || return 1
    sleep 0.1
  done
}

if [ "$CERTGATE_STORY" = 1 ]; then
  # --- The copy ----------------------------------------------------------------------------------------------------
  ip link set lo up
  mount -t tmpfs tmpfs /mnt
  mkdir /mnt/upper /mnt/work /mnt/root
  mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
  cd /mnt/root
  mount -t proc proc proc
  mount --rbind /dev dev
  mount -t tmpfs tmpfs run
  mount -t tmpfs tmpfs tmp
  mkdir -p run/sshd run/lock tmp/old tmp/new
  cp "$1"/* tmp/old/
  cp "$2"/* tmp/new/
  cp "$0" tmp/story.sh
  # What this machine has of certgate's is none of the copy's business, and neither is its sshd's configuration.
  rm -rf etc/certgate etc/userdb etc/ssh/sshd_config.d var/lib/certgate* etc/ssh/ssh_host_*
  mkdir etc/ssh/sshd_config.d
  sed -i '/^certgate/d' etc/passwd etc/group etc/shadow etc/gshadow
  printf 'Include /etc/ssh/sshd_config.d/*.conf\nUsePAM no\n' >etc/ssh/sshd_config
  sed -i -E '/^(passwd|group|shadow|gshadow):/d' etc/nsswitch.conf
  printf '%s: files systemd\n' passwd group shadow gshadow >>etc/nsswitch.conf
  printf '127.0.0.1 localhost\n127.10.0.1 bastion.example.com\n' >etc/hosts
  export CERTGATE_STORY=2
  exec chroot . /usr/bin/env -i CERTGATE_STORY=2 DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash /tmp/story.sh "$1" "$2"
fi

# --- The story -------------------------------------------------------------------------------------------------------
cd /
log=/tmp/log
runs() { "$@" >"$log" 2>&1 || { cat "$log" && return 1; }; }
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key

check 'both packages are installed' runs dpkg --install /tmp/old/*.deb
check 'the state of the authority is its own user'\''s alone' mode /var/lib/certgate 'drwx------ certgate-authority:certgate-authority'
check 'and so is the gateway'\''s' mode /var/lib/certgate-gateway 'drwx------ certgate-gateway:certgate-gateway'
check 'and the provisioner'\''s' mode /var/lib/certgate-provisioner 'drwx------ certgate-provisioner:certgate-provisioner'
check 'sshd'\''s helper can read in the agent'\''s' mode /var/lib/certgate-node 'drwxr-xr-x root:root'
for user in certgate-authority certgate-gateway certgate-provisioner certgate-principals; do
  check "$user is a user of the system that nobody logs in as" test "$(getent passwd "$user" | cut -d : -f 7)" = /usr/sbin/nologin
done
check 'the helper is what sshd insists on' mode /usr/lib/certgate/certgate-principals '-rwxr-xr-x root:root'
enabled() { find /etc/systemd/system -name 'certgate*' -printf '%f\n' | sort | tr '\n' ' '; }
check 'the agent is enabled, and nothing of the bastion' same "$(enabled)" 'certgate-node.service '
check 'sshd is as it was' test -z "$(ls /etc/ssh/sshd_config.d)"
check 'the units are what systemd understands' runs systemd-analyze verify /lib/systemd/system/certgate*
for page in certgate.1 certgated.8 certgate-node.8 certgate-principals.8 certgate-{authority,gateway,node}.toml.5; do
  check "man ${page%.*}" test -e "/usr/share/man/man${page##*.}/$page.gz"
done

# An authority and a gateway, and this machine joins: what systemd would start, and 'certgate setup' write.
sed 's/^\[bastion\]/node_networks = ["127.0.0.0\/8"]\n&/; s/# gateway_user/gateway_user/' \
  /usr/share/doc/certgate/examples/authority.toml >/etc/certgate/authority.toml
sed -i 's/^listen = .*/listen = ["127.10.0.1:22"]/' /etc/certgate/gateway.toml
install -d -o certgate-authority -g certgate-authority /run/certgate
# To be run in the background: it becomes the program.
as() { exec setpriv --reuid "$1" --regid "$1" --init-groups --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service -- "${@:2}"; }
serve() {
  as certgate-authority certgated authority >/tmp/authority.log 2>&1 &
  authority=$!
  as certgate-gateway certgated gateway >/tmp/gateway.log 2>&1 &
  gateway=$!
  eventually certgate status || { cat /tmp/authority.log /tmp/gateway.log && fail 'the bastion does not come up'; }
  eventually grep -q 'gw1 ' <(certgate status) || fail 'the gateway does not come up'
}
rest() {
  kill "$authority" "$gateway"
  wait "$authority" "$gateway" || :
}
serve
ssh-keygen -q -t ed25519 -N '' -f /tmp/key
for line in 'org create acme' 'user create admin1@acme.example --org acme --name admin1' \
  'project create acme/ml-training --admin admin1@acme.example' 'cluster create acme/ml-training h100'; do
  # shellcheck disable=SC2086  # words
  case $line in user*) set -- $line --key "$(cat /tmp/key.pub)" ;; *) set -- $line ;; esac
  check "certgate ${line%% --*}" runs certgate "$@"
done
token() { certgate node token login-0.h100.acme --role login --address 127.0.0.1 | head -n 1; }
drop_in=/etc/ssh/sshd_config.d/10-certgate.conf
check 'the machine becomes a node' runs certgate-node join --no-reload --accounts userdb "$(token)"
check 'sshd asks the helper' holds "$drop_in" '^AuthorizedPrincipalsCommand /usr/lib/certgate/certgate-principals'
check 'as the user that was made for it' holds "$drop_in" '^AuthorizedPrincipalsCommandUser certgate-principals$'
certgate-node run >/tmp/agent.log 2>&1 &
agent=$!
check 'accounts are made' eventually getent passwd admin1
kill "$agent"
wait "$agent" || :
ca=$(sha256sum /var/lib/certgate/user_ca)
rest

printf '# ours\n' >>/etc/certgate/gateway.toml
settings=$(cat /etc/certgate/*)
check 'an upgrade asks nothing' runs dpkg --install /tmp/new/*.deb
check 'configuration is as it was' same "$(cat /etc/certgate/*)" "$settings"
check 'and so are the keys' same "$(sha256sum /var/lib/certgate/user_ca)" "$ca"
check 'and sshd'\''s configuration' test -e "$drop_in"
serve
check 'the directory is there' holds <(certgate node list h100.acme) login-0.h100.acme
rest

check 'the agent'\''s package is removed' runs dpkg --remove certgate-node
check 'sshd has no helper to call any more' test ! -e "$drop_in"
check 'and starts' runs /usr/sbin/sshd -t
check 'who was let in has no account left' not getent passwd admin1
check 'it is installed again' runs dpkg --install /tmp/new/certgate-node_*.deb
check 'and sshd asks the helper again' holds "$drop_in" '^AuthorizedPrincipalsCommand /usr/lib/certgate/certgate-principals'
check 'with the table that was there' test -e /var/lib/certgate-node/access.table
certgate-node run >/tmp/agent.log 2>&1 &
agent=$!
check 'the agent makes the accounts again' eventually getent passwd admin1
kill "$agent"
wait "$agent" || :
runs dpkg --remove certgate-node
check 'the agent'\''s package is purged' runs dpkg --purge certgate-node
check 'nothing of it is left' test -z "$(ls -d /var/lib/certgate-node /etc/certgate/node.toml "$drop_in" 2>/dev/null)"

check 'the bastion'\''s package is removed' runs dpkg --remove certgate
check 'configuration and state stay' test -e /etc/certgate/gateway.toml -a -e /etc/certgate/authority.toml -a -e /var/lib/certgate/user_ca
check 'the programs are gone' test ! -e /usr/bin/certgated
check 'it is purged' runs dpkg --purge certgate
check 'and says that the CA is left' holds "$log" 'stay in /var/lib/certgate'
check 'which is as it was' same "$(sha256sum /var/lib/certgate/user_ca)" "$ca"
check 'the rest is gone' test ! -e /etc/certgate -a ! -e /var/lib/certgate-gateway -a ! -e /var/lib/certgate-provisioner
check 'no unit is left enabled' same "$(enabled)" ''
check 'it is installed again' runs dpkg --install /tmp/old/certgate_*.deb
check 'over the CA that it finds' same "$(sha256sum /var/lib/certgate/user_ca)" "$ca"
rm -r /var/lib/certgate
mkdir /var/lib/certgate
check 'without a CA a purge leaves nothing' runs dpkg --purge certgate
check 'not a thing' test -z "$(ls -d /var/lib/certgate* /etc/certgate 2>/dev/null)"

# rpm, whose database on a Debian machine knows none of what is needed.
check 'rpm installs both' runs rpm --install --nodeps /tmp/old/*.rpm
check 'with users and directories' mode /var/lib/certgate 'drwx------ certgate-authority:certgate-authority'
check 'with units' runs systemd-analyze verify /usr/lib/systemd/system/certgate*
printf '# ours\n' >>/etc/certgate/gateway.toml
check 'an upgrade' runs rpm --upgrade --nodeps /tmp/new/*.rpm
check 'keeps the configuration' holds /etc/certgate/gateway.toml '^# ours'
check 'removal' runs rpm --erase certgate certgate-node
check 'leaves what was changed, and no program' test -e /etc/certgate/gateway.toml.rpmsave -a ! -e /usr/bin/certgated -a ! -e /usr/lib/certgate
echo 'the end'
