//! A healthy machine that is made up, and every trap in it, one after the other: also those of versions and machines that
//! are not here.

use super::judge;
use crate::{
    bundle::{BundleKey, Current},
    domain::{Fingerprint, PublicKey, Timestamp, Version},
    node::{
        doctor::{
            facts::{
                Accounts, Answer, Blind, BundleFacts, Directive, DropInFacts, Effective, Facts, HostCertificate,
                MachineFacts, Offered, Revoked, Role, Selinux, SshdFacts, StateFacts, Step, Word,
            },
            finding::{Finding, Severity, worst},
        },
        sshd::DropIn,
    },
};
use ed25519_dalek::SigningKey;
use std::time::Duration;

const NOW: u64 = 1_795_000_000;
const DROP_IN: &str = "/etc/ssh/sshd_config.d/10-certgate.conf";

fn chain(paths: &[&str], file: u32) -> Vec<Step> {
    let step = |(index, path): (usize, &&str)| {
        let (mode, directory) = if index == 0 { (file, false) } else { (0o755, true) };
        Step { path: (*path).into(), owner: 0, mode, directory }
    };
    paths.iter().enumerate().map(step).collect()
}

fn certificate(line: &str) -> HostCertificate {
    HostCertificate { key: key(), line: line.into(), from: NOW - 1000, until: NOW + 9000 }
}

fn key() -> PublicKey {
    PublicKey::from_ed25519(SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes())
}

/// The authority's.
fn word() -> Word {
    let now = Timestamp::from_secs(NOW);
    Word { current: Current { cluster: "h100.acme".parse().unwrap(), version: Version(7), at: now }, heard: now }
}

fn effective(login: &str) -> Effective {
    let said = [
        ("usepam", "yes"),
        ("pubkeyauthentication", "yes"),
        ("casignaturealgorithms", "ssh-ed25519,rsa-sha2-512"),
        ("pubkeyacceptedalgorithms", "ssh-ed25519-cert-v01@openssh.com,ssh-ed25519"),
        ("authenticationmethods", "any"),
        ("authorizedkeyscommand", "none"),
        ("revokedkeys", "none"),
    ];
    let said = said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let ours = wanted().directives().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    Effective { login: login.into(), lines: said.chain(ours).collect() }
}

fn wanted() -> DropIn {
    DropIn {
        helper: "/usr/lib/certgate/certgate-principals".into(),
        helper_user: "nobody".into(),
        table: "/var/lib/certgate-node/access.table".into(),
        user_ca: "/var/lib/certgate-node/user_ca.pub".into(),
        host_certificate: "/var/lib/certgate-node/ssh_host_key-cert.pub".into(),
        revoked_keys: None,
    }
}

fn directive(file: &str, name: &str, value: &str) -> Directive {
    Directive { file: file.into(), line: 3, name: name.into(), value: value.into(), matched: false }
}

fn healthy() -> Facts {
    let lines: Vec<(String, String)> =
        wanted().directives().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let config = format!(
        "node = \"login-0.h100.acme\"\ngateways = [\"b:22\"]\ngateway_host_keys = [\"{}\"]\nbundle_keys = [\"{}\"]\n\
         state_dir = \"/var/lib/certgate-node\"\nhost_key = \"/k\"\n",
        Fingerprint::from_bytes([3; 32]),
        BundleKey::from(&SigningKey::from_bytes(&[7; 32])),
    );
    let directives = lines.iter().map(|(name, value)| directive(DROP_IN, name, value)).collect();
    Facts {
        now: Timestamp::from_secs(NOW),
        authority: Some(Timestamp::from_secs(NOW)),
        latest: Some(Version(7)),
        max_age: Some(Duration::from_secs(86_400)),
        role: None,
        accounts: Accounts::Unknown,
        config_path: "/etc/certgate/node.toml".into(),
        sshd_config: "/etc/ssh/sshd_config".into(),
        drop_in_path: DROP_IN.into(),
        config: Ok(toml::from_str(&config).unwrap()),
        drop_in: Ok(DropInFacts { lines, wanted: Some(wanted()) }),
        sshd: SshdFacts {
            version: Ok("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026".into()),
            accepted: Ok(()),
            effective: Ok(vec![effective("certgate-check"), effective("user1")]),
            directives: Ok(directives),
            offered: Ok(Offered { address: "127.0.0.1:22".into(), certificate: Some(certificate("one")) }),
        },
        state: StateFacts {
            bundle: Ok(BundleFacts {
                version: Version(7),
                issued: Timestamp::from_secs(NOW - 100),
                lets_in: true,
                logins: vec![("user1".into(), 60_001)],
                shared: vec![],
                same_user_ca: true,
            }),
            table: Ok(Version(7)),
            table_chain: Ok(chain(&["/var/lib/certgate-node/access.table", "/var/lib/certgate-node", "/"], 0o644)),
            confirmed: Some(Timestamp::from_secs(NOW - 60)),
            host_certificate: Ok(certificate("one")),
            host_key: Ok(key()),
            helper_chain: Ok(chain(&["/usr/lib/certgate/certgate-principals", "/usr/lib/certgate", "/"], 0o755)),
            helper_answers: Ok(()),
            revoked: None,
        },
        machine: MachineFacts {
            nsswitch: Ok("passwd:  files systemd\ngroup: files systemd\n".into()),
            pam: Ok(vec!["account required pam_unix.so".into()]),
            selinux: None,
            slurmd: false,
            agents: Ok(vec![42]),
            accounts: Ok(vec![("user1".into(), Some(60_001))]),
            synchronized: Some(true),
        },
        gateways: vec![("b:22".into(), Ok(Answer::Welcome(Some(word()))))],
        tunnel: None,
    }
}

fn failed<T>(why: &str) -> Result<T, Blind> {
    Err(Blind::Failed(why.into()))
}

/// What is found on a machine on which one thing was changed, without what is well there.
fn found(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = healthy();
    change(&mut facts);
    judge(&facts).into_iter().filter(|finding| finding.severity != Severity::Ok).collect()
}

/// Exactly one thing is found.
#[track_caller]
fn one(check: &str, severity: Severity, words: &[&str], change: impl FnOnce(&mut Facts)) {
    let found = found(change);
    let [finding] = &found[..] else { panic!("one finding is expected: {found:#?}") };
    assert_eq!((finding.check, finding.severity), (check, severity), "{finding:#?}");
    let all = format!("{} {}", finding.finding, finding.mend.as_deref().unwrap_or_default());
    for word in words {
        assert!(all.contains(word), "{word:?}: {finding:#?}");
    }
}

fn set(facts: &mut Facts, logins: &[usize], name: &str, value: &str) {
    let all = facts.sshd.effective.as_mut().unwrap();
    for login in logins {
        let lines = &mut all[*login].lines;
        lines.retain(|line| line.0 != name);
        lines.push((name.into(), value.into()));
    }
}

fn put(facts: &mut Facts, file: &str, name: &str, value: &str) {
    facts.sshd.directives.as_mut().unwrap().insert(0, directive(file, name, value));
}

#[test]
fn a_healthy_machine_is_all_well_and_says_so_check_by_check() {
    let findings = judge(&healthy());
    assert_eq!(worst(&findings), Severity::Ok, "{findings:#?}");
    let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    // The names are for programs, and stay.
    assert_eq!(
        checks,
        [
            "config",
            "sshd-version",
            "sshd-config",
            "drop-in",
            "in-force",
            "other-files",
            "helper",
            "access-table",
            "bundle",
            "clock",
            "agent",
            "gateway",
            "host-certificate",
            "nsswitch",
            "accounts",
            "pam"
        ]
    );
}

#[test]
fn sshds_version_and_what_it_says_of_its_configuration() {
    use Severity::{Error, Unseen, Warning};
    let version = |text: &'static str| move |f: &mut Facts| f.sshd.version = Ok(text.into());
    one("sshd-version", Warning, &["OpenSSH 7.4", "older"], version("OpenSSH_7.4p1, OpenSSL 1.0.2k"));
    one("sshd-version", Warning, &["dropbear"], version("dropbear 2022"));
    one("sshd-version", Error, &["--sshd"], |f| f.sshd.version = failed("no such file"));
    assert_eq!(found(version("OpenSSH_10.0p2")), []);
    one("sshd-config", Error, &["line 3: Bad", "sshd -t"], |f| f.sshd.accepted = failed("line 3: Bad"));
    one("sshd-config", Unseen, &["run it as root"], |f| f.sshd.accepted = Err(Blind::Denied("root".into())));
}

#[test]
fn authorized_keys_command_before_ours_is_the_silent_loss_before_9_4() {
    let loss = |version: &'static str| {
        move |f: &mut Facts| {
            f.sshd.version = Ok(version.into());
            set(f, &[0, 1], "authorizedprincipalscommand", "none");
            set(f, &[0, 1], "authorizedkeyscommand", "/opt/aws/bin/eic_run_authorized_keys %u %f");
            put(
                f,
                "/etc/ssh/sshd_config.d/05-eic.conf",
                "authorizedkeyscommand",
                "/opt/aws/bin/eic_run_authorized_keys %u %f",
            );
        }
    };
    for version in ["OpenSSH_8.0p1", "OpenSSH_9.2p1 Debian-2", "OpenSSH_9.3p2"] {
        let found = found(loss(version));
        let lost = &found[0];
        assert_eq!((lost.check, lost.severity), ("in-force", Severity::Error), "{found:#?}");
        for word in ["silently", "EC2 Instance Connect", "05-eic.conf line 3", "nobody is let in"] {
            assert!(lost.finding.contains(word), "{word}: {lost:#?}");
        }
        assert!(found[1].check == "other-files" && found[1].finding.contains("must stay behind"), "{found:#?}");
    }
    // From 9.4 on that is not why.
    let found = found(loss("OpenSSH_9.4p1"));
    assert!(!found[0].finding.contains("silently") && found[0].severity == Severity::Error, "{found:#?}");
}

#[test]
fn what_others_claim_is_named_with_file_and_line() {
    use Severity::{Error, Hint};
    let file = "/etc/ssh/sshd_config.d/05-oslogin.conf";
    for (name, value, words) in [
        ("trustedusercakeys", "/etc/ssh/oslogin_trustedca.pub", ["TrustedUserCAKeys", "not accepted"]),
        ("authorizedprincipalsfile", "/x", ["AuthorizedPrincipalsFile", "beside certgate"]),
        (
            "authorizedprincipalscommand",
            "/usr/bin/google_authorized_principals %u %k",
            ["OS Login", "nobody is let in"],
        ),
        ("authorizedprincipalscommanduser", "root", ["nobody", "05-oslogin.conf line 3"]),
        ("fingerprinthash", "MD5", ["FingerprintHash", "lets nobody in"]),
    ] {
        let found = found(|f| {
            set(f, &[0, 1], name, value);
            put(f, file, name, value);
        });
        let all = format!("{} {}", found[0].finding, found[0].mend.as_deref().unwrap());
        assert_eq!((found[0].check, found[0].severity), ("in-force", Error), "{found:#?}");
        assert!(words.iter().all(|word| all.contains(word)) && all.contains("05-oslogin.conf line 3"), "{all}");
        assert_eq!((found[1].check, found[1].severity, found.len()), ("other-files", Hint, 2));
    }
    one("in-force", Error, &["HostCertificate", "asked about the host key"], |f| {
        set(f, &[0, 1], "hostcertificate", "none")
    });
    let found = found(|f| {
        set(f, &[1], "authorizedprincipalscommand", "none");
        let other = Directive { matched: true, ..directive("/etc/ssh/x", "authorizedprincipalscommand", "none") };
        f.sshd.directives.as_mut().unwrap().push(other);
    });
    let mend = found[0].mend.as_deref().unwrap();
    assert!(
        found[0].finding.contains(" for user1") && mend.contains("/etc/ssh/x line 3") && mend.contains("Match block")
    );
    one("in-force", Error, &["Include /etc/ssh/sshd_config.d/10-certgate.conf"], |f| {
        set(f, &[0, 1], "trustedusercakeys", "none");
        f.sshd.directives = Ok(vec![]);
    });
    one("other-files", Hint, &["systemd's userdb", "whatever certgate says"], |f| {
        put(
            f,
            "/etc/ssh/sshd_config.d/20-systemd-userdb.conf",
            "authorizedkeyscommand",
            "/usr/bin/userdbctl ssh-authorized-keys %u",
        );
    });
}

#[test]
fn the_drop_in_and_what_else_keeps_certificates_out() {
    use Severity::{Error, Hint, Warning};
    let lost = found(|f| f.drop_in = Err(Blind::Missing("no such file".into())));
    assert!(lost[0].check == "drop-in" && lost[0].severity == Error, "{lost:#?}");
    one("drop-in", Error, &["'FingerprintHash SHA256'", "join again"], |f| {
        f.drop_in.as_mut().unwrap().lines.retain(|line| line.0 != "fingerprinthash");
    });
    let login = "certificate-login";
    one(login, Error, &["PubkeyAuthentication"], |f| set(f, &[0, 1], "pubkeyauthentication", "no"));
    one(login, Error, &["ssh-ed25519"], |f| set(f, &[0, 1], "casignaturealgorithms", "rsa-sha2-512"));
    one(login, Error, &["cert-v01"], |f| set(f, &[0], "pubkeyacceptedalgorithms", "ssh-ed25519"));
    one(login, Warning, &["publickey,password", "user1"], |f| {
        set(f, &[1], "authenticationmethods", "publickey,password")
    });
    assert_eq!(found(|f| set(f, &[0], "authenticationmethods", "publickey publickey,password")), []);
    one(login, Hint, &["AllowGroups"], |f| set(f, &[0, 1], "allowgroups", "wheel"));
}

#[test]
fn revoked_keys_that_sshd_cannot_use_refuse_everybody() {
    use Severity::{Error, Warning};
    let state = |state, version: &'static str| {
        move |f: &mut Facts| {
            f.sshd.version = Ok(version.into());
            f.state.revoked = Some(("/etc/ssh/krl".into(), state));
        }
    };
    assert_eq!(found(state(Ok(Revoked::Fine), "OpenSSH_9.2")), []);
    one("revoked-keys", Error, &["restart the agent"], |f| {
        f.drop_in.as_mut().unwrap().wanted.as_mut().unwrap().revoked_keys = Some("/s/revoked_keys".into());
        f.drop_in.as_mut().unwrap().lines.push(("revokedkeys".into(), "/s/revoked_keys".into()));
        f.sshd.effective.as_mut().unwrap().iter_mut().for_each(|login| {
            login.lines.retain(|line| line.0 != "revokedkeys");
            login.lines.push(("revokedkeys".into(), "/s/revoked_keys".into()));
        });
        f.state.revoked = Some(("/s/revoked_keys".into(), Ok(Revoked::Damaged)));
    });
    // Turned on in node.toml, and sshd not told of it.
    one("drop-in", Warning, &["'RevokedKeys /s/revoked_keys'", "add the line"], |f| {
        f.drop_in.as_mut().unwrap().wanted.as_mut().unwrap().revoked_keys = Some("/s/revoked_keys".into());
    });
    one("revoked-keys", Error, &["every key", "by rename"], state(Err(Blind::Missing("gone".into())), "OpenSSH_9.2"));
    one("revoked-keys", Error, &["damaged"], state(Ok(Revoked::Damaged), "OpenSSH_9.2"));
    one("revoked-keys", Warning, &["9.4"], state(Ok(Revoked::Signed), "OpenSSH_9.3"));
    one("revoked-keys", Error, &["9.4"], state(Ok(Revoked::Signed), "OpenSSH_9.4"));
}

#[test]
fn helper_and_table_are_roots_up_to_the_top_and_open_to_the_helper() {
    use Severity::{Error, Unseen};
    one("helper", Error, &["belongs to user 1000", "chown root:root /usr/lib/certgate"], |f| {
        f.state.helper_chain.as_mut().unwrap()[1].owner = 1000;
    });
    one("helper", Error, &["mode 0775", "chmod go-w"], |f| f.state.helper_chain.as_mut().unwrap()[0].mode = 0o775);
    one("helper", Error, &["not an executable"], |f| f.state.helper_chain.as_mut().unwrap()[0].mode = 0o644);
    one("helper", Error, &["exit status: 1"], |f| f.state.helper_answers = failed("exit status: 1"));
    one("helper", Error, &["no such file"], |f| f.state.helper_chain = Err(Blind::Missing("no such file".into())));
    one("access-table", Error, &["decides who is let in"], |f| f.state.table_chain.as_mut().unwrap()[1].mode = 0o777);
    one("access-table", Error, &["chmod o+r"], |f| f.state.table_chain.as_mut().unwrap()[0].mode = 0o640);
    one("access-table", Error, &["chmod o+x /var/lib/certgate-node"], |f| {
        f.state.table_chain.as_mut().unwrap()[1].mode = 0o700;
    });
    one("access-table", Error, &["checksum"], |f| f.state.table = failed("the checksum is wrong"));
    one("access-table", Error, &["version 6", "7"], |f| f.state.table = Ok(Version(6)));
    one("access-table", Unseen, &["root"], |f| f.state.table_chain = Err(Blind::Denied("permission denied".into())));
}

#[test]
fn a_bundle_that_is_behind_or_old_or_not_to_be_read() {
    use Severity::{Error, Warning};
    one("bundle", Error, &["signature is wrong"], |f| {
        f.state.bundle = failed("the bundle's signature is wrong");
    });
    one("bundle", Error, &["version 7, the authority 9", "still let in"], |f| f.latest = Some(Version(9)));
    // A node that has just joined has the version of the whole directory, its cluster may be as it was long before.
    assert_eq!(found(|f| f.latest = Some(Version(5))), []);
    one("bundle", Error, &["lets nobody in", "removed"], |f| f.state.bundle.as_mut().unwrap().lets_in = false);
    one("bundle", Error, &["user CAs"], |f| f.state.bundle.as_mut().unwrap().same_user_ca = false);
    let confirmed = |ago: u64| move |f: &mut Facts| f.state.confirmed = Some(Timestamp::from_secs(NOW - ago));
    assert_eq!(found(confirmed(43_200)), []);
    one("bundle", Warning, &["more than half"], confirmed(43_201));
    one("bundle", Error, &["too old"], confirmed(86_401));
    assert_eq!(found(|f| (f.max_age, f.state.confirmed) = (None, Some(Timestamp::from_secs(1)))), []);
}

#[test]
fn a_clock_that_is_wrong_by_minutes_lets_nobody_in() {
    use Severity::{Error, Hint, Warning};
    let off =
        |secs: i64| move |f: &mut Facts| f.authority = Some(Timestamp::from_secs(NOW.saturating_add_signed(secs)));
    for (secs, severity, words) in [
        (11, Warning, "11 s behind"),
        (60, Error, "not valid yet"),
        (-11, Warning, "11 s ahead"),
        (-100, Warning, "100 s ahead"),
        (-240, Error, "have ended"),
    ] {
        one("clock", severity, &[words], off(secs));
    }
    assert_eq!(found(off(9)), []);
    // Without an answer of the authority, what it has signed is not from the future.
    let signed = |bundle: u64, certificate: u64| {
        move |f: &mut Facts| {
            f.authority = None;
            f.state.bundle.as_mut().unwrap().issued = Timestamp::from_secs(bundle);
            f.state.host_certificate.as_mut().unwrap().from = certificate;
        }
    };
    assert_eq!(found(signed(NOW + 5, NOW - 100)), []);
    one("clock", Warning, &["at least 20 s behind"], signed(NOW + 20, NOW - 100));
    one("clock", Error, &["at least 100 s behind"], signed(NOW - 50, NOW + 40));
    one("clock", Hint, &["chrony"], |f| f.machine.synchronized = Some(false));
}

#[test]
fn agent_and_gateways() {
    use Severity::{Error, Unseen, Warning};
    one("agent", Error, &["still let in", "systemctl"], |f| f.machine.agents = Ok(vec![]));
    one("agent", Warning, &["2 agents", "42, 43"], |f| f.machine.agents = Ok(vec![42, 43]));
    one("agent", Unseen, &["hidden"], |f| f.machine.agents = Err(Blind::Denied("hidden".into())));
    let gateways = |all: Vec<Result<Answer, Blind>>| {
        move |f: &mut Facts| f.gateways = all.into_iter().map(|answer| ("b:22".to_owned(), answer)).collect()
    };
    one("gateway", Error, &["refused", "removals do not arrive"], gateways(vec![failed("refused")]));
    one("gateway", Warning, &["refused"], gateways(vec![failed("refused"), Ok(Answer::Welcome(Some(word())))]));
    one("gateway", Severity::Hint, &["no word of the authority"], gateways(vec![Ok(Answer::Welcome(None))]));
    one("gateway", Error, &["does not accept"], gateways(vec![Ok(Answer::Refused)]));
    let stranger = Fingerprint::from_bytes([9; 32]);
    one("gateway", Error, &["in between", &stranger.to_string()], gateways(vec![Ok(Answer::Stranger(stranger))]));
    assert_eq!(found(gateways(vec![Ok(Answer::Right)])), []);
    let tunnel = |found| move |f: &mut Facts| f.tunnel = Some(("127.0.0.1:22".parse().unwrap(), found));
    one("tunnel", Error, &["127.0.0.1:22", "refused", "sshd_address"], tunnel(failed("refused")));
    assert_eq!(found(tunnel(Ok(()))), []);
}

#[test]
fn the_host_certificate_is_valid_and_the_one_that_sshd_shows() {
    use Severity::{Error, Warning};
    let check = "host-certificate";
    one(check, Error, &["restart certgate-node"], |f| f.state.host_certificate = Err(Blind::Missing("gone".into())));
    let left = |secs: u64| {
        move |f: &mut Facts| {
            f.state.host_certificate.as_mut().unwrap().until = NOW + secs;
            f.state.host_certificate.as_mut().unwrap().from = NOW - 1000;
        }
    };
    assert_eq!(found(left(400)), []);
    one(check, Warning, &["ends in 5 min", "renewed"], left(300));
    one(check, Error, &["ended now"], left(0));
    one(check, Error, &["another host key"], |f| {
        f.state.host_key = Ok(PublicKey::from_ed25519(SigningKey::from_bytes(&[2; 32]).verifying_key().to_bytes()));
    });
    let shows = |certificate: Option<HostCertificate>| {
        move |f: &mut Facts| f.sshd.offered.as_mut().unwrap().certificate = certificate
    };
    one(check, Error, &["shows no host certificate", "reload"], shows(None));
    one(check, Warning, &["another host certificate"], shows(Some(certificate("two"))));
    one(check, Error, &["has ended"], shows(Some(HostCertificate { until: NOW - 1, ..certificate("two") })));
    one(check, Error, &["does not answer"], |f| f.sshd.offered = failed("connection refused"));
}

#[test]
fn accounts_are_seen_with_the_right_numbers() {
    use Severity::{Error, Hint, Warning};
    let files = |accounts| {
        move |f: &mut Facts| {
            f.accounts = accounts;
            f.machine.nsswitch = Ok("passwd: files\ngroup: files systemd\n# passwd: systemd\n".into());
        }
    };
    one("nsswitch", Hint, &["passwd", "libnss-systemd"], files(Accounts::Unknown));
    one("nsswitch", Error, &["passwd"], files(Accounts::Ours));
    assert_eq!(found(files(Accounts::Site)), []);
    one("accounts", Warning, &["60002 here", "60001"], |f| {
        f.machine.accounts = Ok(vec![("user1".into(), Some(60_002))])
    });
    one("accounts", Warning, &["no such account"], |f| f.machine.accounts = Ok(vec![("user1".into(), None)]));
    one("accounts", Error, &["no answer in 10 s"], |f| f.machine.accounts = failed("no answer in 10 s"));
}

#[test]
fn pam_and_slurm() {
    use Severity::{Error, Hint, Warning};
    let stack = |lines: &'static [&'static str]| {
        move |f: &mut Facts| f.machine.pam = Ok(lines.iter().map(|line| (*line).to_owned()).collect())
    };
    const ADOPT: &[&str] = &["account required pam_slurm_adopt.so"];
    one("slurm", Error, &["lets nobody in", "login node"], stack(ADOPT));
    one("slurm", Error, &["on a login node", "take it out"], |f| {
        stack(ADOPT)(f);
        (f.role, f.machine.slurmd) = (Some(Role::Login), true);
    });
    assert_eq!(
        found(|f| {
            stack(ADOPT)(f);
            f.machine.slurmd = true;
        }),
        []
    );
    one("slurm", Hint, &["without a job"], |f| f.machine.slurmd = true);
    one("slurm", Hint, &["without a job"], |f| f.role = Some(Role::Compute));
    one("slurm", Warning, &["pam_systemd"], |f| {
        stack(&["account required pam_slurm_adopt.so", "session optional pam_systemd.so"])(f);
        f.machine.slurmd = true;
    });
    let off = |f: &mut Facts| set(f, &[0, 1], "usepam", "no");
    one("pam", Hint, &["UsePAM yes"], off);
    one("pam", Error, &["without a job"], |f| {
        off(f);
        stack(ADOPT)(f);
    });
    one("pam", Error, &["refuses everybody"], |f| f.machine.pam = Err(Blind::Missing("gone".into())));
}

#[test]
fn selinux_types_matter_where_it_enforces() {
    use Severity::{Hint, Warning};
    let types = |enforcing, helper: &'static str, table: &'static str| {
        move |f: &mut Facts| {
            let context = |kind: &str| Some(format!("system_u:object_r:{kind}:s0\0"));
            let user_ca = context("var_lib_t");
            f.machine.selinux = Some(Selinux { enforcing, helper: context(helper), table: context(table), user_ca });
        }
    };
    assert_eq!(found(types(true, "bin_t", "var_lib_t")), []);
    one("selinux", Warning, &["lib_t", "restorecon"], types(true, "lib_t", "var_lib_t"));
    one("selinux", Warning, &["access table", "default_t"], types(true, "bin_t", "default_t"));
    one("selinux", Warning, &["user_home_t"], types(true, "bin_t", "user_home_t"));
    one("selinux", Hint, &["only warns"], types(false, "lib_t", "var_lib_t"));
}

#[test]
fn somebody_who_is_not_root_is_told_what_cannot_be_seen_and_nothing_is_called_broken() {
    let denied = || Blind::Denied("only root".into());
    let findings = found(|f| {
        f.config = Err(denied());
        (f.sshd.accepted, f.sshd.effective, f.sshd.offered) = (Err(denied()), Err(denied()), Err(denied()));
        (f.state.bundle, f.state.host_key, f.machine.accounts) = (Err(denied()), Err(denied()), Err(denied()));
        (f.authority, f.latest, f.gateways) = (None, None, vec![]);
    });
    assert!(findings.iter().all(|finding| finding.severity == Severity::Unseen), "{findings:#?}");
    assert_eq!(worst(&findings).exit(), 1);
    assert!(findings.len() >= 4);
}
