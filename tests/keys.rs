//! Keys: told in full, of every type that is accepted, FIDO security keys included; and what their removal takes away.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{PEER, World, key, next, next_end, output};
use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    app::{
        Asker,
        protocol::{AuthenticateAnswer, AuthenticateRequest, CommandAnswer, Event, Presented, Terminal},
    },
    domain::PublicKey,
};
use std::process::Command;

/// The wire format's string (RFC 4251, 5).
fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// Security keys as OpenSSH's PROTOCOL.u2f has them, made by hand: no token is at hand here. The type, the key, and the
/// application that it was made for.
fn security_keys() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let ed25519 = key(77).to_wire();
    let ed25519 = [string(b"sk-ssh-ed25519@openssh.com"), string(&ed25519[ed25519.len() - 32..]), string(b"ssh:")];
    // The base point of P-256 (SEC 2, 2.4.2), uncompressed: a point that is on the curve.
    let point = [
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    ]
    .concat();
    let point: Vec<u8> =
        (0..point.len()).step_by(2).map(|at| u8::from_str_radix(&point[at..at + 2], 16).unwrap()).collect();
    let ecdsa = [
        string(b"sk-ecdsa-sha2-nistp256@openssh.com"),
        string(b"nistp256"),
        string(&point),
        // One that a verifier may not take for another one's.
        string(b"ssh:acme.example"),
    ];
    vec![
        ("sk-ssh-ed25519@openssh.com", "ED25519-SK", ed25519.concat()),
        ("sk-ecdsa-sha2-nistp256@openssh.com", "ECDSA-SK", ecdsa.concat()),
    ]
}

/// What `ssh-keygen` says of some lines in a file.
fn keygen(options: &[&str], lines: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let output = Command::new("ssh-keygen").args(options).arg("-f").arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn authenticate(world: &World, presented: Presented) -> AuthenticateAnswer {
    let (connection, peer) = ("c".into(), PEER.parse().unwrap());
    world.app.authenticate(AuthenticateRequest { connection, peer, presented, joining: false }).await
}

#[tokio::test]
async fn security_keys_are_registered_listed_and_certified() {
    let world = World::story().await;
    for (algorithm, short, wire) in security_keys() {
        let line = format!("{algorithm} {} user1@her-laptop", STANDARD.encode(&wire));
        let shown = keygen(&["-l"], &line);
        let fingerprint = shown.split(' ').nth(1).unwrap();
        assert!(shown.contains(&format!("({short})")), "{shown}");

        let asker = world.asker(2).await;
        let added = output(world.answer(&asker, "key add", None, Some(&line)).await);
        assert_eq!((added.exit, added.stderr), (0, format!("registered {algorithm} {fingerprint}\n")));
        let listed = world.user(2, "key list").await.stdout;
        let row = listed.lines().find(|row| row.contains(fingerprint)).unwrap();
        assert!(row.starts_with(&format!("{algorithm}  ")), "{row}");
        // What she wrote behind it is nobody's business.
        assert!(!listed.contains("laptop"));

        // Certified: asked for with another key, and with itself.
        let AuthenticateAnswer::Account { credential, .. } =
            authenticate(&world, Presented::Key(STANDARD.encode(&wire))).await
        else {
            panic!("a registered key was refused")
        };
        let itself = Asker::Account { credential, peer: PEER.parse().unwrap(), connection: "c".into() };
        for (asker, line) in [(&asker, format!("cert --key {fingerprint}")), (&itself, "cert".into())] {
            let certificate = output(world.answer(asker, &line, None, None).await).stdout;
            let shown = keygen(&["-L"], &certificate);
            let kind = algorithm.replace("@openssh.com", "-cert-v01@openssh.com");
            for said in [
                format!("Type: {kind} user certificate"),
                format!("Public key: {short}-CERT {fingerprint}"),
                "user1@acme/ml".into(),
            ] {
                assert!(shown.contains(&said), "{said} is not in\n{shown}");
            }
            // And believed, when it comes in.
            let blob = certificate.split(' ').nth(1).unwrap().to_owned();
            let came = authenticate(&world, Presented::Certificate(blob)).await;
            assert!(matches!(came, AuthenticateAnswer::Account { .. }), "{came:?}");
        }
    }
}

#[tokio::test]
async fn a_security_key_of_another_application_is_another_key() {
    let (algorithm, _, wire) = security_keys().remove(0);
    let other = [&wire[..wire.len() - 4], b"web:"].concat();
    let key = |wire: &[u8]| format!("{algorithm} {}", STANDARD.encode(wire)).parse::<PublicKey>().unwrap();
    assert_ne!(key(&wire).fingerprint(), key(&other).fingerprint());
    // Nor is the key inside it the same as that key outside.
    assert_ne!(key(&wire).fingerprint(), crate::key(77).fingerprint());
    for broken in [&wire[..wire.len() - 1], &[&wire[..], b"x"].concat()[..], &wire[..30]] {
        assert!(format!("{algorithm} {}", STANDARD.encode(broken)).parse::<PublicKey>().is_err());
    }
}

#[tokio::test]
async fn a_removed_key_takes_everything_with_it() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    world.node("login-0.h100.acme", 50).await;
    let second = key(21);
    let asker = world.asker(2).await;
    output(world.answer(&asker, "key add", None, Some(&second.to_string())).await);
    let session = world.open(21, 1, "login-0.h100.acme").await.unwrap();
    let kept = world.open(2, 2, "login-0.h100.acme").await.unwrap();
    let certificate = world.user(21, "cert --ttl 30m").await.stdout;
    let blob = certificate.split(' ').nth(1).unwrap().to_owned();

    // Not the last one: nothing is asked. It removes itself, too.
    let removed = world.user(21, &format!("key remove {}", second.fingerprint())).await;
    assert_eq!((removed.exit, removed.stdout.as_str()), (0, ""), "{}", removed.stderr);
    assert_eq!(removed.stderr, format!("removed {}; it is refused from now on\n", second.fingerprint()));
    // The node is told to refuse certificates on it until the last one has run out, and what was open by it ends.
    let denied = format!("\"key\":\"{}\"", second.fingerprint());
    let (mut ended, mut told) = (None, false);
    while ended.is_none() || !told {
        match next(&mut stream).await {
            Event::End { session, reason } => ended = Some((session, reason)),
            Event::Bundle { bundle, .. } => told |= bundle.payload.contains(&denied),
            _ => {}
        }
    }
    let (ended, reason) = ended.unwrap();
    assert!(ended == session && reason.contains("this key was removed"), "{reason}");
    for presented in [Presented::Key(STANDARD.encode(second.to_wire())), Presented::Certificate(blob)] {
        assert_eq!(authenticate(&world, presented).await, AuthenticateAnswer::Refused);
    }
    // By her other key she stays.
    let open = world.operator("session list --json").await.stdout;
    assert!(open.contains(&kept.to_string()) && !open.contains(&session.to_string()), "{open}");

    // The last one asks, whoever removes it.
    let first = key(2).fingerprint();
    for asker in [world.asker(2).await, Asker::Operator { uid: 0 }] {
        let line = format!("key remove {first} --account user1@acme.example");
        let terminal = Some(Terminal { columns: 80, colours: false });
        let CommandAnswer::Input { prompt, .. } = world.answer(&asker, &line, terminal, None).await else {
            panic!("was not asked")
        };
        assert!(prompt.starts_with(&format!("{first} is the last key; without one nobody can connect")), "{prompt}");
        let refused = output(world.answer(&asker, &line, terminal, Some("n\n")).await);
        assert_eq!((refused.exit, refused.stderr.as_str()), (1, "not confirmed; nothing was changed\n"));
        let nobody = output(world.answer(&asker, &line, None, None).await);
        assert!(nobody.exit == 1 && nobody.stderr.contains("--yes"), "{}", nobody.stderr);
    }
    assert!(world.operator("key list --account user1@acme.example").await.stdout.contains(&first.to_string()));
    world.operator(&format!("key remove {first} --account user1@acme.example --yes")).await;
    assert_eq!(next_end(&mut stream).await.0, kept);
}

#[tokio::test]
async fn that_somebody_removed_a_key_is_their_business_alone() {
    let world = World::story().await;
    let second = key(21);
    let add = async |number: u8| {
        output(world.answer(&world.asker(number).await, "key add", None, Some(&second.to_string())).await)
    };
    assert_eq!(add(2).await.exit, 0);
    world.user(2, &format!("key remove {}", second.fingerprint())).await;
    assert!(add(2).await.stderr.contains("was removed a short while ago"));
    let told = add(3).await.stderr;
    assert_eq!(
        told,
        format!("{} cannot be registered here; make a new key: ssh-keygen -t ed25519\n", second.fingerprint())
    );
}
