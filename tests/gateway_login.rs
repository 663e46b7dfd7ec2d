//! Logins and commands, with OpenSSH's own client.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod gateway_support;

use certgate::app::protocol::{Event, Presented};
use gateway_support::{Running, keygen, start, text, until, wire};
use std::{process::Command, sync::Arc, time::Duration};
use tokio::io::AsyncReadExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_key_runs_commands_and_gets_their_exit_status() {
    let gateway = start(|_| {}).await;
    let output = gateway.run(&["127.0.0.1", "member", "list"]).await;
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("line <member list>\n".into(), "a word\n".into()));
    assert_eq!(output.status.code(), Some(3));
    let shell = gateway.run(&["127.0.0.1"]).await;
    assert_eq!(text(&shell.stdout), "line <>\n");
    let terminal = gateway.run(&["-tt", "127.0.0.1", "x"]).await;
    assert_eq!(text(&terminal.stdout), "line <x>\r\n");
    assert!(gateway.fake.commands.lock().unwrap().last().unwrap().terminal.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_reaches_the_authority_as_it_was_sent_and_a_refused_one_leaves_nothing_behind() {
    let gateway = start(|_| {}).await;
    let dir = gateway.dir.path();
    let (ca, key) = (keygen(dir, "ca", "ed25519"), keygen(dir, "certified", "ecdsa"));
    let mut sign = Command::new("ssh-keygen");
    sign.arg("-qs").arg(&ca).args(["-I", "user1", "-n", "user1@acme/ml"]).arg(&key);
    assert!(sign.status().unwrap().success());
    let certificate = wire(&dir.join("certified-cert"));
    let options = ["-i", key.to_str().unwrap(), "127.0.0.1", "x"];
    let refused = gateway.ssh(&options).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(255));
    assert!(text(&refused.stderr).contains("Permission denied (publickey)"), "{}", text(&refused.stderr));
    let presented = gateway.fake.presented.lock().unwrap().clone();
    assert_eq!(presented.len(), 2);
    assert!(presented.contains(&Presented::Certificate(certificate.clone())));
    assert!(presented.contains(&Presented::Key(wire(&key))));

    gateway.fake.known.lock().unwrap().insert(certificate);
    let accepted = gateway.ssh(&options).output().await.unwrap();
    assert_eq!(text(&accepted.stdout), "line <x>\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn six_keys_get_in_and_a_flood_of_offers_does_not() {
    let gateway = start(|limits| limits.auth_attempts = 8).await;
    let dir = gateway.dir.path();
    let mut options = Vec::new();
    for n in 0..5 {
        options.extend(["-i".to_owned(), keygen(dir, &format!("other{n}"), "ed25519").display().to_string()]);
    }
    let flood: Vec<_> = (5..9)
        .flat_map(|n| ["-i".to_owned(), keygen(dir, &format!("other{n}"), "ed25519").display().to_string()])
        .collect();
    let own = ["-i".to_owned(), dir.join("id").display().to_string(), "127.0.0.1".into(), "x".into()];
    let six: Vec<_> = options.iter().chain(&own).map(String::as_str).collect();
    let output = gateway.ssh(&six).output().await.unwrap();
    assert_eq!(text(&output.stdout), "line <x>\n", "{}", text(&output.stderr));
    let ten: Vec<_> = options.iter().chain(&flood).chain(&own).map(String::as_str).collect();
    let output = gateway.ssh(&ten).output().await.unwrap();
    assert!(text(&output.stderr).contains("Too many authentication attempts"), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_refused_and_nothing_hangs() {
    let gateway = start(|_| {}).await;
    let subsystem = gateway.run(&["-s", "127.0.0.1", "sftp"]).await;
    assert_eq!(subsystem.status.code(), Some(255));
    assert!(text(&subsystem.stderr).contains("subsystem request failed"), "{}", text(&subsystem.stderr));
    let node = gateway.run(&["-s", "127.0.0.1", "certgate-node"]).await;
    assert!(!node.status.success(), "an account is no agent");
    let remote = gateway.run(&["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "127.0.0.1", "x"]).await;
    assert!(text(&remote.stderr).contains("remote port forwarding failed"), "{}", text(&remote.stderr));
    let rest = gateway.run(&["-X", "-A", "-o", "SendEnv=LANG", "127.0.0.1", "x"]).await;
    assert_eq!(text(&rest.stdout), "line <x>\n", "{}", text(&rest.stderr));
    let long = gateway.run(&["127.0.0.1", &"x".repeat(5000)]).await;
    assert_eq!(long.status.code(), Some(2));
    assert!(gateway.fake.commands.lock().unwrap().iter().all(|command| command.line.len() < 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_read_to_its_end_and_bounded() {
    let gateway = start(|_| {}).await;
    for (input, expected) in [("yes".to_owned(), "got yes\n"), ("x".repeat(65), "")] {
        let file = gateway.dir.path().join("input");
        std::fs::write(&file, input).unwrap();
        let key = gateway.dir.path().join("id");
        let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "127.0.0.1", "ask"]);
        let output = ssh.stdin(std::fs::File::open(&file).unwrap()).output().await.unwrap();
        assert_eq!(text(&output.stdout), expected);
        assert!(text(&output.stderr).starts_with("sure? "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_input_is_kept_for_the_next_question_with_its_context_and_files_are_not_read() {
    let gateway = start(|_| {}).await;
    let twice = gateway.run(&["127.0.0.1", "twice"]).await;
    assert_eq!(text(&twice.stdout), "got [\"\", \"\"] for Some(\"what was shown\")\n", "{}", text(&twice.stderr));
    let ever = gateway.run(&["127.0.0.1", "ask for ever"]).await;
    assert_eq!(ever.status.code(), Some(1));
    assert_eq!(text(&ever.stderr), format!("{}the command asked for input too often\n", "more? ".repeat(8)));
    let file = gateway.run(&["127.0.0.1", "file"]).await;
    assert_eq!(file.status.code(), Some(2));
    assert!(text(&file.stderr).contains("a gateway reads no files"), "{}", text(&file.stderr));
    assert!(gateway.fake.commands.lock().unwrap().iter().filter(|command| command.line == "file").count() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_a_terminal_sees_that_something_is_going_on_and_nothing_of_it_in_the_end() {
    let gateway = start(|_| {}).await;
    let hold = Arc::new(tokio::sync::Notify::new());
    *gateway.fake.hold_command.lock().unwrap() = Some(hold.clone());
    let key = gateway.dir.path().join("id");
    let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "-tt", "127.0.0.1", "x"]).spawn().unwrap();
    let mut stdout = ssh.stdout.take().unwrap();
    let (mut said, mut buffer) = (Vec::new(), [0; 256]);
    let waiting = async {
        while !text(&said).contains("still working… 2 s") {
            let count = stdout.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ssh has ended: {}", text(&said));
            said.extend_from_slice(&buffer[..count]);
        }
        hold.notify_one();
        stdout.read_to_end(&mut said).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it is said, and ssh ends");
    let said = text(&said);
    let (_, last) = said.rsplit_once("still working… ").unwrap();
    let (seconds, after) = last.split_once(" s\r").unwrap();
    let erased = " ".repeat(format!("still working… {seconds} s").chars().count());
    assert_eq!(after, format!("{erased}\rline <x>\r\n"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_colours_that_its_type_has_and_what_goes_wrong_here_is_json_too() {
    let gateway = start(|_| {}).await;
    let key = gateway.dir.path().join("id");
    for (term, colours) in [("xterm-256color", true), ("dumb", false)] {
        let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "-tt", "127.0.0.1", "x"]);
        ssh.env("TERM", term).output().await.unwrap();
        let terminal = gateway.fake.commands.lock().unwrap().last().unwrap().terminal;
        assert_eq!(terminal.map(|terminal| terminal.colours), Some(colours), "{term}");
    }
    let output = gateway.run(&["127.0.0.1", "x", "--json", &"x".repeat(5000)]).await;
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &error["error"]["reason"]), (Some(2), &"usage".into()));
    assert_eq!(
        error["error"]["message"].as_str().map(|message| format!("{message}\n")).as_deref(),
        Some(&*text(&output.stderr))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_away_is_said_to_be() {
    let gateway = start(|_| {}).await;
    *gateway.fake.down.lock().unwrap() = true;
    *gateway.fake.events.lock().unwrap() = None;
    let output = gateway.run(&["127.0.0.1", "x"]).await;
    assert!(text(&output.stderr).contains("the access service is being restarted"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_cut_and_its_place_is_given_back() {
    let gateway = start(|limits| {
        limits.login_deadline = Duration::from_millis(300);
        limits.unauthenticated_per_address = 1;
    })
    .await;
    let mut silent = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let mut all = Vec::new();
    silent.read_to_end(&mut all).await.unwrap();
    assert_eq!(text(&all), "SSH-2.0-certgate\r\n");
    until("a place is free", || gateway.fake.presented.lock().unwrap().is_empty()).await;
    let output = gateway.run(&["127.0.0.1", "x"]).await;
    assert_eq!(text(&output.stdout), "line <x>\n", "{}", text(&output.stderr));
}

/// Makes a host certificate for the gateway, as its authority would.
fn host_certificate(gateway: &Running, ca: &str, key: &str, validity: &str) -> String {
    let path = |name: &str| gateway.dir.path().join(name);
    let public = path("certified.pub");
    std::fs::write(&public, key).unwrap();
    let signed = std::process::Command::new("ssh-keygen")
        .args(["-q", "-h", "-I", "gateway gw1", "-V", validity, "-n", "127.0.0.1", "-s"])
        .arg(path(ca))
        .arg(&public)
        .status()
        .unwrap();
    assert!(signed.success());
    std::fs::read_to_string(path("certified-cert.pub")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_certificate_is_shown_from_the_next_connection_on_and_the_plain_key_as_well() {
    let gateway = start(|_| {}).await;
    let known = gateway.dir.path().join("known_hosts");
    let plain = std::fs::read_to_string(&known).unwrap();
    let key = plain.trim_start_matches("* ").to_owned();
    for ca in ["ca", "ca2"] {
        keygen(gateway.dir.path(), ca, "ed25519");
    }
    let trust = |ca: &str| {
        let ca = std::fs::read_to_string(gateway.dir.path().join(format!("{ca}.pub"))).unwrap();
        std::fs::write(&known, format!("@cert-authority * {ca}")).unwrap();
    };
    let certify = |ca: &str, key: &str, validity: &str| {
        let certificate = host_certificate(&gateway, ca, key, validity);
        gateway.fake.send(Event::HostCertificate { certificate });
    };
    let mut held = gateway.ssh(&["-i", gateway.dir.path().join("id").to_str().unwrap(), "-N", "127.0.0.1"]);
    let mut held = held.spawn().unwrap();
    until("it is in", || !gateway.fake.presented.lock().unwrap().is_empty()).await;
    trust("ca");
    let said = text(&gateway.run(&["127.0.0.1", "whoami"]).await.stderr);
    assert!(said.contains("Host key verification failed"), "there is none yet: {said}");
    // What is not for this key is not shown: each handshake would fail.
    let other = std::fs::read_to_string(keygen(gateway.dir.path(), "other", "ed25519").with_extension("pub")).unwrap();
    certify("ca", &other, "-1m:+1h");
    certify("ca", &key, "-1m:+1h");
    let mut code = None;
    for _ in 0..100 {
        code = gateway.run(&["127.0.0.1", "whoami"]).await.status.code();
        if code == Some(3) {
            break;
        }
    }
    assert_eq!(code, Some(3), "the certificate is enough");
    // Renewed in place, by another CA to see it.
    certify("ca2", &key, "-1m:+1h");
    trust("ca2");
    for _ in 0..100 {
        code = gateway.run(&["127.0.0.1", "whoami"]).await.status.code();
        if code == Some(3) {
            break;
        }
    }
    assert_eq!(code, Some(3));
    assert!(held.try_wait().unwrap().is_none(), "and nobody was cut off");
    // One that is about to run out is not shown.
    certify("ca2", &key, "-1m:+30s");
    let mut said = String::new();
    for _ in 0..100 {
        said = text(&gateway.run(&["127.0.0.1", "whoami"]).await.stderr);
        if said.contains("Host key verification failed") {
            break;
        }
    }
    assert!(said.contains("Host key verification failed"), "{said}");
    std::fs::write(&known, &plain).unwrap();
    assert_eq!(gateway.run(&["127.0.0.1", "whoami"]).await.status.code(), Some(3), "the plain key");
    let refuse = ["-o", "HostKeyAlgorithms=ssh-ed25519", "127.0.0.1", "whoami"];
    assert_eq!(gateway.run(&refuse).await.status.code(), Some(3), "for those who know no certificates");
    held.kill().await.unwrap();
}
