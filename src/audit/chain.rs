//! The hash chain over the audit log: how an entry is hashed, appended and checked. No I/O: entries come in and go out
//! as values.
//!
//! An entry's hash covers its place, its content and the hash of the entry before, so nothing can be altered, removed,
//! inserted or moved without breaking the chain from there on. What a chain alone cannot show is that its end was cut
//! off, or that all of it was made anew: for that there are signed heads, and heads that are kept somewhere else; see
//! [`super::Verifier`].

use super::{ChainHash, Entry, Event};
use crate::domain::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{borrow::Borrow, fmt, str::FromStr};
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

/// `NUMBER:HASH`.
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a head is written NUMBER:HASH";
        let (seq, hash) = text.split_once(':').ok_or(FORM)?;
        let head = Self { seq: seq.parse().map_err(|_| FORM)?, hash: hash.parse().map_err(|_| FORM)? };
        // One head has one text: no sign, no leading zeros.
        if head.to_string() == text { Ok(head) } else { Err(FORM) }
    }
}

/// Who says that the log once had a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// Whoever has it verified, with a head that was saved elsewhere.
    Saved,
    /// A signed head of this number.
    Signed(u64),
    /// The running authority, which remembers where the log ended.
    Authority,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Saved => f.write_str("the head that was given"),
            Self::Signed(number) => write!(f, "signed head {number}"),
            Self::Authority => f.write_str("the running authority"),
        }
    }
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
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
    /// An entry cannot be read at all.
    #[error("audit entry {seq} was altered: it cannot be read ({what}); what comes after it was not checked")]
    Unreadable {
        /// The entry.
        seq: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The log ends before a head that it had.
    #[error("the audit log was cut off: it ends with entry {end}, and {witness} says that it had entry {saved}")]
    CutOff {
        /// The last entry that is there.
        end: u64,
        /// The entry of the head.
        saved: u64,
        /// Who says so.
        witness: Witness,
    },
    /// The log is whole, but is not the one that had this head.
    #[error("the audit log was rewritten: entry {seq} is not the one of which {witness} has the hash")]
    Rewritten {
        /// The entry of the head.
        seq: u64,
        /// Who has it.
        witness: Witness,
    },
    /// A head was given of entries that are not in the log any more.
    #[error(
        "the log begins after entry {start}: entry {seq}, of which {witness} has the hash, is in the archive, and is \
             checked there ('audit verify --archive')"
    )]
    Archived {
        /// The entry of the head.
        seq: u64,
        /// The entry that the log begins after.
        start: u64,
        /// Who has it.
        witness: Witness,
    },
    /// A signed head is not what was signed.
    #[error("signed head {number} was altered: its signature does not fit")]
    HeadAltered {
        /// Its number.
        number: u64,
    },
    /// A signed head is not there.
    #[error("signed head {number} is missing: {found} stands in its place")]
    HeadMissing {
        /// The one that should be there.
        number: u64,
        /// The one that is.
        found: u64,
    },
    /// Another signed head has the number of one that was given.
    #[error("signed head {number} is not the one that was given: that one was removed")]
    HeadReplaced {
        /// Its number.
        number: u64,
    },
    /// The last signed heads are not there.
    #[error("signed heads were cut off: the last one is {end}, and one of number {saved} was given")]
    HeadsCutOff {
        /// The last that is there.
        end: u64,
        /// The one that was given.
        saved: u64,
    },
    /// Signed heads are out of order.
    #[error("signed head {number} was moved: it is for entry {seq}, and the one before it for entry {before}")]
    HeadMisplaced {
        /// Its number.
        number: u64,
        /// Its entry.
        seq: u64,
        /// The entry of the one before.
        before: u64,
    },
    /// A head was given that this authority has not signed.
    #[error("the head that was given is not signed by this authority's audit key ('ca show' prints it)")]
    NotOurs,
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

/// The entries that events become, from the first.
#[cfg(test)]
pub(crate) fn chained(events: impl IntoIterator<Item = Event>) -> Vec<Entry> {
    let mut head = Head::EMPTY;
    let entries = events.into_iter().zip(1..).map(|(event, version)| {
        let entry = append(head, Version(version), event);
        head = Head::after(&entry);
        entry
    });
    entries.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::Outcome,
        domain::{Actor, Fingerprint, Serial, SessionId, Timestamp},
    };

    fn event(n: u64) -> Event {
        let at = Timestamp::from_secs(1_795_000_000 + n);
        Event::new(at, Actor::Operator { uid: 0 }, "org.create", format!("org-{n}"))
    }

    fn log(n: u64) -> Vec<Entry> {
        chained((1..=n).map(event))
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
        expected.extend(br#""action":"org.create","object":"org-1","outcome":"done","reason":null,"detail":"","#);
        expected.extend(br#""certificate":null,"session":null}"#);
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
            ("reason", |e| e.event.reason = Some(String::new())),
            ("detail", |e| e.event.detail = "nothing to see".into()),
            ("certificate", |e| e.event.certificate = Some(Serial(0))),
            ("session", |e| e.event.session = Some(SessionId::from_bits(0))),
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
    fn a_head_has_one_text() {
        let head = Head::after(&log(3)[2]);
        assert_eq!(head.to_string().parse(), Ok(head));
        let hash = head.hash;
        for bad in [format!("+3:{hash}"), format!("03:{hash}"), format!("3:{hash}:"), format!("3 :{hash}"), "3:".into()]
        {
            assert!(bad.parse::<Head>().is_err(), "{bad}");
        }
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
