//! The audit log, checked by a program that shares nothing with certgate's own verification: what is exported, the signed
//! heads and the public key, by the rules of docs/audit.md and nothing else.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::World;
use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::audit::{Entry, Head, SignedHead, chain};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde_json::Value;
use sha2::{Digest, Sha256, Sha512};
use std::fmt::Write;

/// 'Strings are UTF-8, in which …'.
fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c)).unwrap(),
            c => out.push(c),
        }
    }
    out + "\""
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => string(text),
        other => panic!("no event has {other}"),
    }
}

fn object(of: &Value, fields: &[&str]) -> String {
    assert_eq!(of.as_object().unwrap().len(), fields.len(), "{of} has fields that are not documented");
    let fields: Vec<String> = fields
        .iter()
        .map(|field| {
            format!("{}:{}", string(field), if *field == "actor" { actor(&of[field]) } else { value(&of[field]) })
        })
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn actor(actor: &Value) -> String {
    let Some(kinds) = actor.as_object() else { return value(actor) };
    let (kind, who) = kinds.iter().next().unwrap();
    let fields: &[&str] = match kind.as_str() {
        "operator" => &["uid"],
        "account" => &["id", "email", "kind", "key"],
        "node" => &["name", "key"],
        "stranger" => &["key"],
        other => panic!("{other} is not documented"),
    };
    format!("{{{}:{}}}", string(kind), object(who, fields))
}

const EVENT: [&str; 11] = [
    "at",
    "actor",
    "source",
    "connection",
    "action",
    "object",
    "outcome",
    "reason",
    "detail",
    "certificate",
    "session",
];

fn hash(entry: &Value) -> String {
    let mut bytes = b"certgate audit v1\0".to_vec();
    bytes.extend(entry["seq"].as_u64().unwrap().to_be_bytes());
    bytes.extend(entry["version"].as_u64().unwrap().to_be_bytes());
    bytes.extend(from_hex(entry["previous"].as_str().unwrap()));
    bytes.extend(object(&entry["event"], &EVENT).as_bytes());
    to_hex(&Sha256::digest(bytes))
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is wrong with a log, by its first entry that does not hold.
fn check(lines: &str) -> Result<Vec<String>, u64> {
    let mut hashes = vec!["0".repeat(64)];
    for line in lines.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let seq = u64::try_from(hashes.len()).unwrap();
        if entry["seq"] != seq || entry["previous"] != hashes[hashes.len() - 1] || entry["hash"] != hash(&entry) {
            return Err(seq);
        }
        hashes.push(entry["hash"].as_str().unwrap().to_owned());
    }
    Ok(hashes)
}

fn ssh_string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Whether a signed head is one of this key (OpenSSH's one-line format); which entry it is for, and with which hash.
fn check_head(text: &str, public: &str) -> Option<(usize, String)> {
    let parts: Vec<&str> = text.split(':').collect();
    let [seq, hash, number, at, signature] = parts[..] else { return None };
    let message = format!("certgate audit head v1 {seq}:{hash}:{number}:{at}");
    let signed = [
        b"SSHSIG".to_vec(),
        ssh_string(b"audit-head@certgate"),
        ssh_string(b""),
        ssh_string(b"sha512"),
        ssh_string(&Sha512::digest(message)),
    ]
    .concat();
    // RFC 8709, 4: the name of the algorithm, and the 32 bytes of the key.
    let key = STANDARD.decode(public.split(' ').nth(1)?).ok()?;
    let key: [u8; 32] =
        key.strip_prefix(&*[ssh_string(b"ssh-ed25519"), vec![0, 0, 0, 32]].concat())?.try_into().ok()?;
    let signature = Signature::from_slice(&STANDARD.decode(signature).ok()?).ok()?;
    VerifyingKey::from_bytes(&key).ok()?.verify_strict(&signed, &signature).ok()?;
    Some((seq.parse().ok()?, hash.to_owned()))
}

#[tokio::test]
async fn a_log_is_checked_by_the_rules_of_the_document_alone() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    world.node("login-0.h100.acme", 50).await;
    world.user(2, "cert").await;
    world.open(2, 1, "login-0.h100.acme").await.unwrap();
    // What somebody chose: quotes, what moves a cursor, what turns the direction of a text, what is no plain letter.
    for asked in ["a\"b\\c", "\u{1b}[2J\u{7}", "\u{202e}x\u{7f}\u{85}", "é漢😀", "\t\r\n\u{8}\u{c}"] {
        world.open(2, 9, asked).await.unwrap_err();
    }
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    world.settle().await;
    let first: Value = serde_json::from_str(&world.operator("audit head --json").await.stdout).unwrap();
    world.operator("org create later").await;
    // The end of the session follows the removal by itself.
    while !world.operator("audit list --what session.end --json").await.stdout.contains("session.end") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    world.settle().await;
    let second = world.operator("audit head").await.stdout;
    let key = world.operator("ca show --json").await.stdout;
    let key = serde_json::from_str::<Value>(&key).unwrap()["audit"].as_str().unwrap().to_owned();

    // In steps, as the document collects it.
    let mut lines = String::new();
    loop {
        let page = world.operator(&format!("audit export --limit 7 --after {}", lines.lines().count())).await.stdout;
        if page.is_empty() {
            break;
        }
        lines.push_str(&page);
    }
    let hashes = check(&lines).unwrap();
    assert!(hashes.len() > 20, "the log is too short to show anything");
    for kind in ["operator", "account", "node"] {
        assert!(lines.contains(&format!(r#""actor":{{"{kind}":"#)), "{kind}");
    }
    assert!(!lines.contains(|c: char| c.is_control() && c != '\n'), "something could take over a terminal");

    let (head, signed) = (first["signed"]["text"].as_str().unwrap(), second.trim_end());
    for (text, number) in [(head, 1), (signed, 2)] {
        let (seq, hash) = check_head(text, &key).unwrap();
        assert_eq!(hashes[seq], hash);
        assert_eq!(text.split(':').nth(2), Some(number.to_string().as_str()));
    }
    assert_eq!(check_head(signed, &key).unwrap().0, hashes.len() - 1);
    assert_eq!(first["key"], key.as_str());
    assert_eq!(first["message"], format!("certgate audit head v1 {}", head.rsplit_once(':').unwrap().0));

    // It is a check: each change to what was exported is found where it is, and no other head is taken.
    for (line, old, new) in [(3, "done", "refused"), (5, "\"uid\":0", "\"uid\":1"), (8, "acme", "acne")] {
        let tampered: Vec<String> = lines
            .lines()
            .zip(1..)
            .map(|(text, n)| if n == line { text.replacen(old, new, 1) } else { text.to_owned() })
            .collect();
        assert_eq!(check(&tampered.join("\n")), Err(line), "{old}");
    }
    let without: Vec<&str> = lines.lines().enumerate().filter(|(at, _)| *at != 9).map(|(_, line)| line).collect();
    assert_eq!(check(&without.join("\n")), Err(10));
    assert_eq!(check_head(&signed.replacen(":2:", ":3:", 1), &key), None);
    let other = world.operator("ca show --json").await.stdout;
    let other = serde_json::from_str::<Value>(&other).unwrap()["user"].as_str().unwrap().to_owned();
    assert_eq!(check_head(signed, &other), None);
}

/// The commands of the document, as they stand there.
#[tokio::test]
async fn a_signed_head_is_checked_with_nothing_but_openssh() {
    let world = World::story().await;
    world.settle().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.txt"), world.operator("ca show").await.stdout).unwrap();
    let head: Value = serde_json::from_str(&world.operator("audit head --json").await.stdout).unwrap();
    std::fs::write(dir.path().join("head.sig"), world.operator("audit head --sshsig").await.stdout).unwrap();
    assert_eq!(head["sshsig"], std::fs::read_to_string(dir.path().join("head.sig")).unwrap());
    let document = std::fs::read_to_string("docs/audit.md").unwrap();
    let signers = document.lines().find(|line| line.starts_with("echo \"certgate ")).unwrap();
    let verify = document.lines().find_map(|line| line.split_once("| ssh-keygen ")).unwrap().1;
    let run = |message: &str| {
        let script = format!("{signers}\nprintf %s '{message}' | ssh-keygen {verify}");
        let status = std::process::Command::new("sh").args(["-c", &script]).current_dir(dir.path()).status();
        status.unwrap().success()
    };
    let message = head["message"].as_str().unwrap();
    assert!(run(message));
    assert!(!run(&message.replace("head v1 ", "head v1 1")));
}

/// What the document shows is what its rules say, and what certgate makes of the same events.
#[test]
fn the_example_of_the_document_is_one() {
    let document = std::fs::read_to_string("docs/audit.md").unwrap();
    let lines: Vec<&str> = document.lines().filter(|line| line.starts_with(r#"{"seq":"#)).collect();
    let hashes = check(&lines.join("\n")).unwrap_or_else(|seq| {
        let entry: Value = serde_json::from_str(lines[usize::try_from(seq).unwrap() - 1]).unwrap();
        panic!("the hash of entry {seq} is {}", hash(&entry))
    });
    assert_eq!(hashes.len(), 3);
    for line in &lines {
        let entry: Entry = serde_json::from_str(line).unwrap();
        let before = Head { seq: entry.seq - 1, hash: entry.previous };
        assert_eq!(chain::follow(before, &entry), Ok(Head::after(&entry)));
        assert_eq!(serde_json::to_string(&entry).unwrap(), *line);
    }
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = certgate::domain::PublicKey::from_ed25519(key.verifying_key().to_bytes()).to_string();
    let last: Entry = serde_json::from_str(lines[1]).unwrap();
    let signed = SignedHead::sign(1, Head::after(&last), "2026-11-25T12:00:01Z".parse().unwrap(), &key).to_string();
    assert_eq!(check_head(&signed, &public), Some((2, hashes[2].clone())));
    assert!(document.contains(&public), "the key is {public}");
    assert!(document.lines().any(|line| line == signed), "the signed head is {signed}");
}
