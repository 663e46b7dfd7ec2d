//! The hash chain over the audit log: how an entry is hashed, appended and checked. No I/O: entries come in and go out
//! as values.
//!
//! An entry's hash covers its place, its content and the hash of the entry before, so nothing can be altered, removed,
//! inserted or moved without breaking the chain from there on. What a chain alone cannot show is that its end was cut
//! off, or that all of it was made anew: for that, a [`Head`] has to be kept somewhere else and be given to
//! [`verify_to`].

use super::{ChainHash, Entry, Event};
use crate::domain::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Borrow;
use thiserror::Error;

/// What the hashed bytes begin with, so that they can never be taken for something else that is hashed or signed.
const DOMAIN: &[u8] = b"certgate audit v1\0";

/// The end of a chain: enough to append to it, and to recognize later that it was cut off or rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Number of the last entry; zero if there is none.
    pub seq: u64,
    /// Its hash; zeros if there is none.
    pub hash: ChainHash,
}

impl Head {
    /// Before the first entry.
    pub const EMPTY: Self = Self { seq: 0, hash: ChainHash([0; 32]) };

    /// After an entry.
    #[must_use]
    pub const fn after(entry: &Entry) -> Self {
        Self { seq: entry.seq, hash: entry.hash }
    }
}

/// Where a chain is broken: always the first entry that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// An entry's content is not what was hashed.
    #[error("audit entry {seq} was altered: its content does not match its hash")]
    Altered {
        /// The entry.
        seq: u64,
    },
    /// An entry is not there.
    #[error("audit entry {seq} is missing: entry {found} stands in its place")]
    Missing {
        /// The entry that should be there.
        seq: u64,
        /// The entry that is.
        found: u64,
    },
    /// An entry stands where a later one should.
    #[error("audit entry {seq} was inserted or moved: it stands where entry {expected} should be")]
    Misplaced {
        /// The entry that is there.
        seq: u64,
        /// The entry that should be.
        expected: u64,
    },
    /// An entry is whole but continues another chain.
    #[error("audit entry {seq} does not continue the log: it, or what came before it, was replaced")]
    Unlinked {
        /// The entry.
        seq: u64,
    },
    /// The log ends before a head that was saved.
    #[error("the audit log was cut off: it ends with entry {end}, and had entry {saved}")]
    CutOff {
        /// The last entry that is there.
        end: u64,
        /// The entry of the saved head.
        saved: u64,
    },
    /// The log is whole, but is not the one whose head was saved.
    #[error("the audit log was rewritten: entry {seq} is not the one whose hash was saved")]
    Rewritten {
        /// The entry of the saved head.
        seq: u64,
    },
}

/// The bytes that are hashed: the domain, the numbers in network byte order, the hash before (all of fixed length), and
/// then the event as JSON without white space, fields in the order of their declaration.
#[must_use]
pub fn canonical(seq: u64, version: Version, previous: &ChainHash, event: &Event) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(DOMAIN);
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(&version.0.to_be_bytes());
    bytes.extend_from_slice(&previous.0);
    // An event has no map and no fallible serializer, and a Vec takes any number of bytes: this has no error case.
    bytes.extend(serde_json::to_vec(event).unwrap_or_default());
    bytes
}

fn hash(seq: u64, version: Version, previous: &ChainHash, event: &Event) -> ChainHash {
    ChainHash(Sha256::digest(canonical(seq, version, previous, event)).into())
}

/// The entry that an event becomes after `head`.
#[must_use]
pub fn append(head: Head, version: Version, event: Event) -> Entry {
    let seq = head.seq + 1;
    let hash = hash(seq, version, &head.hash, &event);
    Entry { seq, version, event, previous: head.hash, hash }
}

/// The head after `entry`, if it continues the chain that ends with `head`.
///
/// # Errors
/// The entry is not the next one, or not what was appended.
pub fn follow(head: Head, entry: &Entry) -> Result<Head, ChainError> {
    let expected = head.seq + 1;
    if entry.seq > expected {
        return Err(ChainError::Missing { seq: expected, found: entry.seq });
    }
    if entry.seq < expected {
        return Err(ChainError::Misplaced { seq: entry.seq, expected });
    }
    if hash(entry.seq, entry.version, &entry.previous, &entry.event) != entry.hash {
        return Err(ChainError::Altered { seq: entry.seq });
    }
    if entry.previous != head.hash {
        return Err(ChainError::Unlinked { seq: entry.seq });
    }
    Ok(Head::after(entry))
}

/// Checks a whole log, or the part of it after `from` ([`Head::EMPTY`] for the whole), and says where it ends.
///
/// # Errors
/// The first entry that does not hold.
pub fn verify<E: Borrow<Entry>>(from: Head, entries: impl IntoIterator<Item = E>) -> Result<Head, ChainError> {
    entries.into_iter().try_fold(from, |head, entry| follow(head, entry.borrow()))
}

/// Like [`verify`], and the log must reach and contain the entry of a head that was saved earlier.
///
/// # Errors
/// The first entry that does not hold; or the log was cut off before the saved head, or rewritten.
pub fn verify_to<E: Borrow<Entry>>(
    from: Head,
    entries: impl IntoIterator<Item = E>,
    saved: Head,
) -> Result<Head, ChainError> {
    let at_saved = |head: Head| {
        if head.seq == saved.seq && head.hash != saved.hash {
            return Err(ChainError::Rewritten { seq: saved.seq });
        }
        Ok(head)
    };
    let end =
        entries.into_iter().try_fold(at_saved(from)?, |head, entry| follow(head, entry.borrow()).and_then(at_saved))?;
    if end.seq < saved.seq {
        return Err(ChainError::CutOff { end: end.seq, saved: saved.seq });
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::Outcome,
        domain::{Actor, Fingerprint, Timestamp},
    };

    fn event(n: u64) -> Event {
        Event {
            at: Timestamp::from_secs(1_795_000_000 + n),
            actor: Actor::Operator { uid: 0 },
            source: "local".into(),
            connection: None,
            action: "org.create".into(),
            object: format!("org-{n}"),
            outcome: Outcome::Done,
            detail: String::new(),
        }
    }

    fn log(n: u64) -> Vec<Entry> {
        let mut head = Head::EMPTY;
        (1..=n)
            .map(|i| {
                let entry = append(head, Version(i), event(i));
                head = Head::after(&entry);
                entry
            })
            .collect()
    }

    fn check(entries: &[Entry]) -> Result<Head, ChainError> {
        verify(Head::EMPTY, entries)
    }

    /// As somebody would who can write the log: an entry with a hash that fits it.
    fn rehash(entry: &mut Entry) {
        entry.hash = hash(entry.seq, entry.version, &entry.previous, &entry.event);
    }

    #[test]
    fn an_untouched_log_holds_and_tells_its_head() {
        let entries = log(5);
        assert_eq!(check(&[]), Ok(Head::EMPTY));
        assert_eq!(check(&entries), Ok(Head::after(&entries[4])));
        assert_eq!(verify(Head::after(&entries[1]), &entries[2..]), Ok(Head::after(&entries[4])));
        assert_eq!(entries[0].previous, ChainHash([0; 32]));
    }

    #[test]
    fn the_hashed_bytes_are_what_is_documented() {
        let bytes = canonical(2, Version(3), &ChainHash([7; 32]), &event(1));
        let mut expected = b"certgate audit v1\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03".to_vec();
        expected.extend([7; 32]);
        expected.extend(
            br#"{"at":"2026-11-18T11:06:41Z","actor":{"operator":{"uid":0}},"source":"local","connection":null,"#,
        );
        expected.extend(br#""action":"org.create","object":"org-1","outcome":"done","detail":""}"#);
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn a_change_to_any_field_is_found_at_that_entry() {
        type Tamper = fn(&mut Entry);
        let tampers: &[(&str, Tamper)] = &[
            ("version", |e| e.version = Version(99)),
            ("previous", |e| e.previous.0[31] ^= 1),
            ("hash", |e| e.hash.0[0] ^= 1),
            ("at", |e| e.event.at = Timestamp::from_secs(1)),
            ("actor", |e| e.event.actor = Actor::Stranger { key: Fingerprint::from_bytes([1; 32]) }),
            ("source", |e| e.event.source.push('x')),
            ("connection", |e| e.event.connection = Some(String::new())),
            ("action", |e| e.event.action = "org.delete".into()),
            ("object", |e| e.event.object.clear()),
            ("outcome", |e| e.event.outcome = Outcome::Refused),
            ("detail", |e| e.event.detail = "nothing to see".into()),
        ];
        for (field, tamper) in tampers {
            let mut entries = log(5);
            tamper(&mut entries[2]);
            assert_eq!(check(&entries), Err(ChainError::Altered { seq: 3 }), "{field}");
        }
    }

    #[test]
    fn text_moved_from_one_field_to_the_next_is_found() {
        let mut entries = log(1);
        entries[0].event.action = "org".into();
        entries[0].event.object = ".createorg-1".into();
        assert_eq!(check(&entries), Err(ChainError::Altered { seq: 1 }));
    }

    #[test]
    fn what_is_missing_or_moved_or_inserted_is_named() {
        let mut removed = log(5);
        removed.remove(2);
        assert_eq!(check(&removed), Err(ChainError::Missing { seq: 3, found: 4 }));

        let mut first_removed = log(5);
        first_removed.remove(0);
        assert_eq!(check(&first_removed), Err(ChainError::Missing { seq: 1, found: 2 }));

        let mut swapped = log(5);
        swapped.swap(1, 2);
        assert_eq!(check(&swapped), Err(ChainError::Missing { seq: 2, found: 3 }));

        let mut twice = log(5);
        twice.insert(3, twice[2].clone());
        assert_eq!(check(&twice), Err(ChainError::Misplaced { seq: 3, expected: 4 }));

        let mut renumbered = log(5);
        renumbered.remove(2);
        renumbered[2].seq = 3;
        assert_eq!(check(&renumbered), Err(ChainError::Altered { seq: 3 }));
    }

    #[test]
    fn an_entry_hashed_anew_breaks_the_next_one() {
        let mut entries = log(5);
        entries[2].event.detail = "rewritten".into();
        rehash(&mut entries[2]);
        assert_eq!(check(&entries), Err(ChainError::Unlinked { seq: 4 }));
    }

    #[test]
    fn a_saved_head_shows_a_cut_off_or_rewritten_log() {
        let entries = log(5);
        let saved = Head::after(&entries[3]);
        assert_eq!(verify_to(Head::EMPTY, &entries, saved), Ok(Head::after(&entries[4])));
        assert_eq!(verify_to(Head::EMPTY, &entries[..4], saved), Ok(saved));
        assert_eq!(verify_to(Head::EMPTY, &entries[..3], saved), Err(ChainError::CutOff { end: 3, saved: 4 }));

        let mut forged = log(5);
        let mut head = Head::after(&forged[1]);
        for entry in &mut forged[2..] {
            entry.event.detail = "rewritten".into();
            *entry = append(head, entry.version, entry.event.clone());
            head = Head::after(entry);
        }
        assert!(check(&forged).is_ok());
        assert_eq!(verify_to(Head::EMPTY, &forged, saved), Err(ChainError::Rewritten { seq: 4 }));
    }

    #[test]
    fn an_entry_survives_json_with_its_hash_in_hexadecimal() {
        let entry = &log(2)[1];
        let json = serde_json::to_string(entry).unwrap();
        assert!(json.contains(&format!("\"hash\":\"{}\"", entry.hash)));
        assert_eq!(entry.hash.to_string().len(), 64);
        assert_eq!(&serde_json::from_str::<Entry>(&json).unwrap(), entry);
        for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"A".repeat(64), &"g".repeat(64), &"+1".repeat(32)] {
            assert!(bad.parse::<ChainHash>().is_err(), "{bad}");
        }
    }
}
