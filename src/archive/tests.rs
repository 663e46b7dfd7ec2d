//! What is written is read, and what is changed is found.

use super::*;
use crate::{
    audit::{Event, chain},
    domain::{Actor, Timestamp, Version},
};
use ed25519_dalek::SigningKey;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public() -> PublicKey {
    PublicKey::from_ed25519(key().verifying_key().to_bytes())
}

/// Ten entries, and signed heads of the entries 4, 8 and 10.
fn log() -> (Vec<Entry>, Vec<SignedHead>) {
    let mut head = Head::EMPTY;
    let entries: Vec<Entry> = (1..=10)
        .map(|n| {
            let event =
                Event::new(Timestamp::from_secs(1_795_000_000 + n), Actor::Authority, "test", format!("org-{n}"));
            let entry = chain::append(head, Version(n), event);
            head = Head::after(&entry);
            entry
        })
        .collect();
    let heads = [(1, 4), (2, 8), (3, 10)];
    let heads = heads.map(|(number, seq): (u64, usize)| {
        SignedHead::sign(number, Head::after(&entries[seq - 1]), entries[seq - 1].event.at, &key())
    });
    (entries, heads.to_vec())
}

/// Entries up to the second signed head, or after it.
fn written(dir: &Path, second: bool) -> PathBuf {
    let (entries, heads) = log();
    let start = second.then_some(&heads[1]);
    let mut writer = Writer::new(dir, &public(), start).unwrap();
    let after = start.map_or(0, |start| start.head.seq);
    let (mut done, last) = (after, if second { 10 } else { 8 });
    for head in heads.iter().filter(|head| head.head.seq > after && head.head.seq <= last) {
        writer.signed_head(head).unwrap();
        for entry in entries.iter().filter(|entry| entry.seq > done && entry.seq <= head.head.seq) {
            writer.entry(entry).unwrap();
        }
        done = head.head.seq;
    }
    writer.finish().unwrap()
}

#[test]
fn what_is_written_is_read_and_found_by_its_entries() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("audit");
    assert_eq!(holding(&archive, 1).unwrap(), None);
    let (first, second) = (written(&archive, false), written(&archive, true));
    let (_, heads) = log();
    let found = check(&first, Some(&public()), Some(4)).unwrap();
    assert_eq!((found.verdict.problems.len(), found.verdict.entries, found.verdict.end), (0, 8, heads[1].head));
    assert_eq!((found.at, found.heads), (Some(heads[0].head), heads[..2].to_vec()));
    let sum = std::process::Command::new("sha256sum").arg(&first).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&found.sha256));
    let found = check(&second, None, None).unwrap();
    assert_eq!(
        (found.verdict.problems.len(), found.verdict.start, found.verdict.end),
        (0, heads[1].head, heads[2].head)
    );
    assert_eq!(found.header.after, heads[1].head);
    for (seq, file) in [(1, Some(&first)), (8, Some(&first)), (9, Some(&second)), (10, Some(&second)), (11, None)] {
        assert_eq!(holding(&archive, seq).unwrap().map(|(path, ..)| path).as_ref(), file, "{seq}");
    }
    // Nothing takes the place of a file that is there.
    let before = fs::read(&first).unwrap();
    let (entries, heads) = log();
    let mut writer = Writer::new(&archive, &public(), None).unwrap();
    writer.signed_head(&heads[1]).unwrap();
    entries[..8].iter().for_each(|entry| writer.entry(entry).unwrap());
    assert!(writer.finish().is_err());
    assert_eq!(fs::read(&first).unwrap(), before);
}

#[test]
fn whatever_is_changed_in_a_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), true);
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let attempt = |lines: &[String]| {
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        match check(&file, Some(&public()), None) {
            Ok(checked) => checked.verdict.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            Err(error) => error.to_string(),
        }
    };
    let whole: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(attempt(&whole), "");
    let replaced = |from: &str, to: &str| {
        let changed: Vec<String> = whole.iter().map(|line| line.replace(from, to)).collect();
        assert_ne!(changed, whole, "{from}");
        attempt(&changed)
    };
    assert!(replaced("org-9", "org-7").contains("entry 9 was altered"));
    assert!(replaced("\"seq\":9", "\"seq\":11").contains("entry 9 is missing"));
    assert!(replaced(":3:", ":4:").contains("signed head 3 is missing"));
    assert!(replaced(":2:", ":1:").contains("signed head 1 was altered"));
    assert!(replaced("archive\":1", "archive\":2").contains("format 2"));
    for gone in 0..whole.len() {
        let mut fewer = whole.clone();
        fewer.remove(gone);
        assert!(!attempt(&fewer).is_empty(), "without line {}", gone + 1);
    }
    fs::write(&file, &text[..text.len() - 1]).unwrap();
    assert!(check(&file, None, None).unwrap_err().to_string().contains("the line has no end"));
    // Another authority's.
    fs::write(&file, &text).unwrap();
    let other = PublicKey::from_ed25519(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes());
    assert!(!check(&file, Some(&other), None).unwrap().verdict.problems.is_empty());
}
