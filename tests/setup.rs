//! `certgate setup` on a machine that has the programs and nothing else: what keeps it from beginning, what interrupts it,
//! and the first login. systemd is played by a script that starts what it is asked to start, as it would.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{BASTION, HOST, LAPTOP, Ran, Site};

/// `systemctl`, for the units of a bastion. /run/gateway-breaks lets the gateway fail.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -eu
echo "$*" >>/var/log/systemctl.log
serve() {
  local user=$1 role=$2 rights=$3
  if kill -s 0 "$(cat "/run/$role.pid" 2>/dev/null)" 2>/dev/null; then return; fi
  install -d -o certgate-authority -m 0755 /run/certgate
  install -d -o certgate-authority -m 0700 /var/lib/certgate
  install -d -o certgate-gateway -m 0700 /var/lib/certgate-gateway
  setsid setpriv --reuid "$user" --regid "$user" --clear-groups "--inh-caps=$rights" "--ambient-caps=$rights" \
    certgated "$role" </dev/null >>"/var/log/$role.log" 2>&1 &
  echo "$!" >"/run/$role.pid"
}
end() {
  local pid
  pid=$(cat "/run/$1.pid" 2>/dev/null) || return 0
  kill -s TERM "$pid" 2>/dev/null || return 0
  while kill -s 0 "$pid" 2>/dev/null; do sleep 0.02; done
}
case $* in
is-active*) exit 3 ;;
daemon-reload | 'enable certgate-authority.service') ;;
'start certgate-authority.service') serve certgate-authority authority -all ;;
'restart certgate-authority.service') end authority && serve certgate-authority authority -all ;;
'stop certgate-gateway.service certgate-gateway.socket') end gateway ;;
'enable --now certgate-gateway.socket certgate-gateway.service')
  if [ -e /run/gateway-breaks ]; then
    echo 'Job for certgate-gateway.service failed.' >&2
    exit 1
  fi
  serve certgate-gateway gateway -all,+net_bind_service
  ;;
*) echo "systemctl $*: nobody asks for that" >&2 && exit 1 ;;
esac
"#;

fn site() -> Site {
    let site = Site::bare();
    let install =
        "cat >/usr/local/bin/systemctl && chmod 0755 /usr/local/bin/systemctl && mkdir -p /run/systemd/system";
    site.run_with(BASTION, "root", install, SYSTEMCTL).ok();
    let key = site.run(LAPTOP, "admin1", "cat .ssh/id_ed25519.pub").ok();
    site.run_with(BASTION, "root", "cat >admin1.pub", &key).ok();
    site
}

fn bastion(site: &Site, line: &str) -> Ran {
    site.run(BASTION, "root", line)
}

#[test]
fn a_bare_machine_becomes_a_bastion_and_its_first_user_logs_in() {
    let site = site();
    let words = format!("certgate setup --host {HOST} --org acme --email admin1@acme.example --key admin1.pub");
    let untouched = |ran: Ran, word: &str| {
        assert!(ran.refused(word).said().contains("Nothing was changed"));
        bastion(&site, "test ! -e /etc/certgate/authority.toml && test ! -e /var/log/systemctl.log").ok();
    };

    // What keeps it from beginning.
    let missing = bastion(&site, "certgate setup --host b.acme.example");
    assert_eq!(missing.status, Some(2));
    missing.refused("missing: --org --email --key");
    bastion(&site, "rm -f /var/log/systemctl.log").ok();
    untouched(bastion(&site, &format!("{words} --no-start")), "add --yes");
    let no_key = format!("{} --no-start --yes", words.replace("admin1.pub", "/etc/passwd"));
    untouched(bastion(&site, &no_key), "--key: ");
    site.bastions_own_sshd();
    let taken = bastion(&site, &format!("{words} --yes"));
    assert!(taken.said().contains("systemctl restart ssh"), "{taken:?}");
    bastion(&site, "rm -f /var/log/systemctl.log").ok();
    untouched(taken, "port 22 is taken by sshd (process ");
    site.signal(BASTION, "sshd", "TERM");

    // A gateway that does not start; what was done by then is not done twice.
    bastion(&site, "touch /run/gateway-breaks").ok();
    let interrupted = bastion(&site, &format!("{words} --yes")).refused("Job for certgate-gateway.service failed");
    let said = interrupted.said();
    assert!(
        said.contains("journalctl -u certgate-gateway.service") && said.contains("Done so far: wrote /etc"),
        "{said}"
    );
    let ca = bastion(&site, "certgate ca show").ok();
    bastion(&site, "rm /run/gateway-breaks").ok();
    let ready = bastion(&site, &format!("{words} --yes")).ok();
    assert_eq!(bastion(&site, "certgate ca show").ok(), ca, "the CA was not made again");
    let config = bastion(&site, "cat /etc/certgate/authority.toml").ok();
    assert!(
        config.contains("host = \"bastion.example.com\"\n") && config.contains("# host_ttl = \"30d\"\n"),
        "{config}"
    );

    // What the first user is told, is so.
    let host_key = ready.lines().find(|line| line.trim().starts_with("SHA256:")).unwrap().trim().to_owned();
    let shown = site.admin1(&format!("ssh-keyscan -t ed25519 {HOST} 2>/dev/null | ssh-keygen -lf -")).ok();
    assert!(shown.contains(&host_key), "{shown} {ready}");
    assert!(ready.contains(&format!("\n  ssh {HOST}\n")), "{ready}");
    let whoami = site.admin1(&format!("ssh -o StrictHostKeyChecking=accept-new {HOST}")).ok();
    assert!(whoami.contains("admin1@acme.example"), "{whoami}");
    let line = ready.lines().find(|line| line.contains("Include certgate.conf")).unwrap();
    site.admin1(line).ok();
    site.admin1("ssh -G login-0.h100.acme | grep -q '^identityfile'").ok();
    bastion(&site, "certgate project create acme/ml --admin admin1@acme.example").ok();
    assert!(bastion(&site, "certgate status").ok().starts_with("Nothing needs attention."));

    // Again: for whoever set it up it says the same, for others that it is set up.
    let again = bastion(&site, &format!("{words} --yes --json")).ok();
    let again: Value = again.parse().unwrap();
    assert_eq!((&again["state"], &again["host_keys"][0]), (&Value::from("ready"), &Value::from(host_key)));
    let done: Vec<_> = again["done"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert!(done.iter().all(|step| step.starts_with("started ")), "{done:?}");
    bastion(&site, &words.replace("admin1@", "user2@")).refused("is set up already");
    bastion(&site, &format!("{} --yes", words.replace(HOST, "b2.example.com")))
        .refused("host is bastion.example.com there");
}

#[test]
fn where_nothing_is_started_the_rest_is_done_when_something_else_has() {
    let site = site();
    bastion(&site, "rm -r /run/systemd").ok();
    let words = "certgate setup --host bastion.example.com --port 2022 --org acme --email admin1@acme.example --key \
                 \"$(cat admin1.pub)\" --yes";
    bastion(&site, words).refused("certgate setup --no-start");
    let said = bastion(&site, &format!("{words} --no-start")).ok();
    assert!(said.contains("nothing was started") && said.contains("certgated authority"), "{said}");
    bastion(&site, "grep -q 'ListenStream=0.0.0.0:2022' /etc/systemd/system/certgate-gateway.socket.d/setup.conf").ok();
    bastion(&site, "systemctl start certgate-authority.service").ok();
    bastion(&site, "systemctl enable --now certgate-gateway.socket certgate-gateway.service").ok();
    site.gateway_is_connected();
    let said = bastion(&site, &format!("{words} --no-start")).ok();
    assert!(said.contains(&format!("\n  ssh -p 2022 {HOST}\n")), "{said}");
    let whoami = site.admin1(&format!("ssh -p 2022 -o StrictHostKeyChecking=accept-new {HOST}")).ok();
    assert!(whoami.contains("admin1@acme.example"), "{whoami}");
}
