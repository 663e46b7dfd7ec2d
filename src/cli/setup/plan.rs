//! What will be done, and why it will not be: decided from what the machine is like, before anything is changed.

use super::{
    answers::Answers,
    files::{self, ToWrite},
    machine::{Holder, Machine, State},
};
use crate::command::setup::Setup;
use std::{fmt::Write, net::SocketAddr};

/// The service that has to be there first.
pub(super) const AUTHORITY: &str = "certgate-authority.service";
/// What people connect to. The socket first: what comes meanwhile waits.
pub(super) const GATEWAY: [&str; 2] = ["certgate-gateway.socket", "certgate-gateway.service"];

/// Who is in a directory that is there already.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) orgs: Vec<String>,
    pub(super) accounts: Vec<String>,
}

/// What will be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) files: Vec<ToWrite>,
    /// Whether services are started.
    pub(super) start: bool,
    pub(super) systemd: bool,
}

impl Plan {
    /// For these answers.
    ///
    /// # Errors
    /// Somebody has changed a file.
    pub(super) fn of(machine: &Machine, answers: &Answers, given: &Setup) -> Result<Self, String> {
        let files = files::to_write(&machine.present, answers)?;
        Ok(Self { files, start: !given.no_start, systemd: machine.systemd })
    }

    /// For whoever has to say yes to it.
    pub(super) fn text(&self, answers: &Answers, machine: &Machine) -> String {
        let mut text = String::from("This machine becomes a bastion:\n");
        let listen: Vec<String> = answers.listen.iter().map(ToString::to_string).collect();
        let mut line = |name: &str, value: &str| {
            // Into a String, which takes everything.
            let _ = writeln!(text, "  {name:<12}{value}");
        };
        line("reached at", &format!("{} port {}", answers.host, answers.port));
        line("listens at", &listen.join(", "));
        let networks: Vec<String> = answers.node_networks.iter().map(ToString::to_string).collect();
        let networks = if networks.is_empty() { "any network".to_owned() } else { networks.join(", ") };
        line("nodes in", &networks);
        if let Some(first) = &answers.first {
            line("first user", &format!("{}, {} on the nodes, of {}", first.email, first.user, first.org));
            line("with key", &format!("{} {}", first.key.algorithm(), first.key.fingerprint()));
        }
        text.push_str("To be done:\n");
        for file in &self.files {
            let _ = writeln!(text, "  write {}", file.path);
        }
        if machine.state == State::Nothing {
            let _ = writeln!(text, "  make the CA and an empty directory in {}", machine.state_dir.display());
        }
        if self.start {
            let _ = writeln!(text, "  enable and start {AUTHORITY}, {}", GATEWAY.join(", "));
        }
        if let Some(first) = &answers.first {
            let _ = writeln!(text, "  create {} and {}", first.org, first.email);
        }
        text
    }
}

/// Whether a bastion can be made of this machine at all.
pub(super) fn fit(machine: &Machine, given: &Setup) -> Result<(), String> {
    let state = machine.state_dir.display();
    if !machine.root {
        return Err("only root can set up a bastion".into());
    }
    if !machine.missing_users.is_empty() {
        let users = machine.missing_users.join(" and ");
        return Err(format!(
            "there is no user {users} on this machine, which the package makes. Without the package: systemd-sysusers with \
             packaging/certgate.sysusers, or useradd --system --no-create-home"
        ));
    }
    if !machine.systemd && !given.no_start {
        return Err(
            "systemd does not run this machine: 'certgate setup --no-start' writes the configuration, and says \
                    what has to be started"
                .into(),
        );
    }
    match (machine.state, given.restored) {
        (State::Nothing, true) => Err(format!("nothing was restored: {state} is empty")),
        (State::Keys, _) => Err(format!(
            "{state} has CA keys without the directory that belongs to them. Restore it from a backup; or, if this bastion \
             was never used, empty {state}"
        )),
        (State::Directory, false) if machine.said.host.is_none() => Err(format!(
            "{state} has a directory already, but there is no {}. If it was restored from a backup: certgate setup \
             --restored. If it may go: empty {state}",
            files::AUTHORITY
        )),
        _ => Ok(()),
    }
}

/// A bastion that works is not set up again; one whose setup was interrupted is.
pub(super) fn not_in_use(standing: Option<&Standing>, given: &Setup) -> Result<(), String> {
    let Some(standing) = standing.filter(|standing| !standing.accounts.is_empty() && !given.restored) else {
        return Ok(());
    };
    if given.email.as_ref().is_some_and(|email| standing.has(&email.to_string())) {
        return Ok(());
    }
    Err("this bastion is set up already. How it is: certgate status. More people: certgate org create --help, certgate user \
         create --help. Its settings: /etc/certgate/authority.toml and gateway.toml"
        .into())
}

/// Whether the gateway can listen where it is to. `ours`: systemd listens for it already.
pub(super) fn room(
    answers: &Answers,
    taken: impl Fn(SocketAddr) -> Result<Option<Option<Holder>>, String>,
    ours: bool,
) -> Result<(), String> {
    for address in &answers.listen {
        let Some(holder) = taken(*address)? else { continue };
        match holder {
            Some(holder) if holder.name == "certgated" || (holder.pid == 1 && ours) => {}
            Some(holder) => return Err(in_the_way(*address, &holder)),
            None => return Err(format!("port {} is taken by something that cannot be seen", address.port())),
        }
    }
    Ok(())
}

fn in_the_way(address: SocketAddr, holder: &Holder) -> String {
    let port = address.port();
    let mut text = format!("port {port} is taken by {} (process {})", holder.name, holder.pid);
    let elsewhere = "Or the gateway listens elsewhere: at another port (certgate setup --port 2222), or at an address \
                     that is not taken (certgate setup --listen ADDRESS:22)";
    match holder.name.as_str() {
        "sshd" => {
            let _ = write!(
                text,
                ", this machine's own way in.\nEither that moves:\n  echo 'Port 2222' > \
                 /etc/ssh/sshd_config.d/00-port.conf && systemctl restart ssh\n(sshd, where the service is called so; \
                 with SELinux first: semanage port -a -t ssh_port_t -p tcp 2222). Stay logged in until you have come in \
                 at the new port, then run setup again.\n{elsewhere}."
            );
        }
        "systemd" => {
            let _ = write!(
                text,
                ", for a service: 'systemctl list-sockets' says which. If it is ssh.socket, this machine's own way in, \
                 either that moves:\n  printf '[Socket]\\nListenStream=\\nListenStream=2222\\n' | systemctl edit --stdin \
                 ssh.socket && systemctl restart ssh.socket\nStay logged in until you have come in at the new port, then \
                 run setup again.\n{elsewhere}."
            );
        }
        _ => {
            let _ = write!(text, ".\nEither that moves.\n{elsewhere}.");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn machine() -> Machine {
        Machine {
            root: true,
            systemd: true,
            name: None,
            v6: true,
            present: files::Present::default(),
            said: files::Said::default(),
            state_dir: PathBuf::from("/var/lib/certgate"),
            state: State::Nothing,
            missing_users: vec![],
        }
    }

    fn answers() -> Answers {
        let listen = vec!["0.0.0.0:22".parse().unwrap(), "[::]:22".parse().unwrap()];
        Answers { host: "b.acme.example".into(), port: 22, listen, node_networks: vec![], first: None }
    }

    #[track_caller]
    fn refused(machine: &Machine, given: &Setup, word: &str) {
        let said = fit(machine, given).unwrap_err();
        assert!(said.contains(word), "{said}");
    }

    #[test]
    fn a_machine_that_cannot_be_one_or_is_one_is_left_alone() {
        let (fresh, restored) = (Setup::default(), Setup { restored: true, ..Setup::default() });
        fit(&machine(), &fresh).unwrap();
        refused(&Machine { root: false, ..machine() }, &fresh, "only root");
        refused(
            &Machine { missing_users: vec!["certgate-authority"], ..machine() },
            &fresh,
            "no user certgate-authority",
        );
        let bare = Machine { systemd: false, ..machine() };
        refused(&bare, &fresh, "certgate setup --no-start");
        fit(&bare, &Setup { no_start: true, ..Setup::default() }).unwrap();
        refused(&Machine { state: State::Keys, ..machine() }, &fresh, "CA keys without the directory");
        refused(&Machine { state: State::Keys, ..machine() }, &restored, "CA keys without the directory");
        let there = Machine { state: State::Directory, ..machine() };
        refused(&there, &fresh, "certgate setup --restored");
        fit(&there, &restored).unwrap();
        refused(&machine(), &restored, "nothing was restored");
        // A setup that was interrupted has written it.
        let said = files::said(&files::authority_toml(&answers())).unwrap();
        fit(&Machine { said, ..there }, &fresh).unwrap();
    }

    #[test]
    fn a_bastion_in_use_is_not_set_up_again_but_one_that_was_interrupted_is() {
        let given = |email: &str| Setup { email: Some(email.parse().unwrap()), ..Setup::default() };
        let standing = Standing { orgs: vec!["acme".into()], accounts: vec!["admin1@acme.example".into()] };
        not_in_use(None, &Setup::default()).unwrap();
        not_in_use(Some(&Standing { accounts: vec![], ..standing.clone() }), &Setup::default()).unwrap();
        not_in_use(Some(&standing), &given("admin1@acme.example")).unwrap();
        for other in [Setup::default(), given("user2@acme.example")] {
            assert!(not_in_use(Some(&standing), &other).unwrap_err().contains("certgate status"));
        }
        not_in_use(Some(&standing), &Setup { restored: true, ..Setup::default() }).unwrap();
    }

    #[test]
    fn whoever_listens_there_is_named_with_what_to_do() {
        let held = |pid, name: &str, ours| {
            let holder = Holder { pid, name: name.into() };
            room(&answers(), move |address| Ok(address.is_ipv6().then(|| Some(holder.clone()))), ours)
        };
        room(&answers(), |_| Ok(None), false).unwrap();
        let said = held(812, "sshd", false).unwrap_err();
        for part in ["port 22 is taken by sshd (process 812)", "sshd_config.d", "systemctl restart ssh", "--port 2222"]
        {
            assert!(said.contains(part), "{said}");
        }
        let said = held(1, "systemd", false).unwrap_err();
        assert!(said.contains("ssh.socket"), "{said}");
        held(1, "systemd", true).unwrap();
        held(99, "certgated", false).unwrap();
        assert!(held(7, "nginx", true).unwrap_err().contains("taken by nginx"));
        assert!(room(&answers(), |_| Ok(Some(None)), false).is_err());
        assert_eq!(room(&answers(), |_| Err("no such address".into()), false), Err("no such address".into()));
    }

    #[test]
    fn all_that_will_be_done_is_shown_before_it_is_done() {
        let plan = Plan::of(&machine(), &answers(), &Setup::default()).unwrap();
        let text = plan.text(&answers(), &machine());
        for part in [
            "  reached at  b.acme.example port 22\n",
            "  listens at  0.0.0.0:22, [::]:22\n",
            "  write /etc/certgate/authority.toml\n  write /etc/certgate/gateway.toml\n",
            "  make the CA and an empty directory in /var/lib/certgate\n",
            "certgate-authority.service, certgate-gateway.socket, certgate-gateway.service\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
