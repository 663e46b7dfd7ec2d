//! Checking a log: its chain, its signed heads, and heads that somebody else has kept. Everything that is wrong is named,
//! not only the first of it: whoever looks into a log that was tampered with wants to know how far it goes.

use super::{ChainError, Entry, Head, SignedHead, Witness, chain::follow};
use ed25519_dalek::VerifyingKey;
use std::collections::VecDeque;

/// More problems than this are not listed.
const MAX_PROBLEMS: usize = 100;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where the log begins: after the entry of this head, which is in the archive.
    pub start: Head,
    /// Where the log ends.
    pub end: Head,
    /// How many entries were looked at.
    pub entries: u64,
    /// How many signed heads were looked at.
    pub signed_heads: u64,
    /// The last of them.
    pub last_signed: Option<SignedHead>,
    /// What is wrong, in the order in which it was found; [`MAX_PROBLEMS`] at the most.
    pub problems: Vec<ChainError>,
}

/// Takes a log in order and says in the end whether it is whole. It keeps nothing but the place where it is, so a log of
/// any length can be given to it piece by piece: the signed heads whose entries come next, then the entries.
#[derive(Debug)]
pub struct Verifier {
    key: VerifyingKey,
    /// Heads that the log is said to have had, in the order of their entries.
    awaited: VecDeque<(Head, Witness)>,
    /// Number of the last signed head.
    number: u64,
    /// One that was given.
    given: Option<SignedHead>,
    verdict: Verdict,
}

impl Verifier {
    /// Begins before the first entry. `key` is the one that signs the heads.
    #[must_use]
    pub fn new(key: VerifyingKey) -> Self {
        let (start, end) = (Head::EMPTY, Head::EMPTY);
        let verdict = Verdict { start, end, entries: 0, signed_heads: 0, last_signed: None, problems: Vec::new() };
        Self { key, awaited: VecDeque::new(), number: 0, given: None, verdict }
    }

    /// The log begins after the entry of this signed head. To be said before anything else is.
    pub fn begin_after(&mut self, start: &SignedHead) {
        if !start.is_by(&self.key) {
            self.problem(ChainError::HeadAltered { number: start.number });
        }
        self.number = start.number;
        (self.verdict.start, self.verdict.end, self.verdict.last_signed) = (start.head, start.head, Some(*start));
    }

    /// The log must have this head.
    pub fn expect(&mut self, head: Head, witness: Witness) {
        let start = self.verdict.start.seq;
        if head.seq < start {
            self.problem(ChainError::Archived { seq: head.seq, start, witness });
            return;
        }
        if head.seq < self.verdict.end.seq || head.seq == 0 {
            // It has passed, or there is nothing before the first entry but the empty log, which every log once was.
            if head.seq > 0 || head.hash != Head::EMPTY.hash {
                self.problem(ChainError::Rewritten { seq: head.seq, witness });
            }
            return;
        }
        let at = self.awaited.partition_point(|(other, _)| other.seq <= head.seq);
        self.awaited.insert(at, (head, witness));
        self.meet();
    }

    /// The log must have the head that somebody signed, if it was this authority that did.
    pub fn expect_signed(&mut self, signed: &SignedHead) {
        if signed.is_by(&self.key) {
            self.given = Some(*signed);
            self.expect(signed.head, Witness::Saved);
        } else {
            self.problem(ChainError::NotOurs);
        }
    }

    /// The next one of the log's own signed heads, before the entry that it is for.
    pub fn signed_head(&mut self, signed: &SignedHead) {
        let (expected, before) = (self.number + 1, self.covered());
        self.verdict.signed_heads += 1;
        self.number = signed.number;
        if signed.number != expected {
            self.problem(ChainError::HeadMissing { number: expected, found: signed.number });
        }
        if !signed.is_by(&self.key) {
            self.problem(ChainError::HeadAltered { number: signed.number });
            return;
        }
        if self.given.is_some_and(|given| given.number == signed.number && given != *signed) {
            self.problem(ChainError::HeadReplaced { number: signed.number });
        }
        if signed.head.seq <= before {
            let (number, seq) = (signed.number, signed.head.seq);
            self.problem(ChainError::HeadMisplaced { number, seq, before });
            return;
        }
        self.verdict.last_signed = Some(*signed);
        self.expect(signed.head, Witness::Signed(signed.number));
    }

    /// The next entry.
    pub fn entry(&mut self, entry: &Entry) {
        self.verdict.end = match follow(self.verdict.end, entry) {
            Ok(head) => head,
            Err(problem) => {
                self.problem(problem);
                // From here on it is taken for what it says that it is: what follows is judged by itself.
                Head::after(entry)
            }
        };
        self.verdict.entries += 1;
        self.meet();
    }

    /// The next entry cannot be read. Nothing can be said of what comes after it.
    pub fn unreadable(&mut self, seq: u64, what: String) {
        self.awaited.clear();
        self.problem(ChainError::Unreadable { seq, what });
    }

    /// There are no more entries.
    #[must_use]
    pub fn end(mut self) -> Verdict {
        // The furthest says how much is missing.
        if let Some((head, witness)) = self.awaited.pop_back() {
            self.problem(ChainError::CutOff { end: self.verdict.end.seq, saved: head.seq, witness });
        }
        if let Some(given) = self.given.filter(|given| given.number > self.number) {
            self.problem(ChainError::HeadsCutOff { end: self.number, saved: given.number });
        }
        self.verdict
    }

    /// Where it is.
    #[must_use]
    pub fn at(&self) -> Head {
        self.verdict.end
    }

    /// The entry of the last signed head that counts: the next one must be given before an entry after this one is.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.verdict.last_signed.map_or(0, |signed| signed.head.seq)
    }

    /// Compares the heads that have been reached.
    fn meet(&mut self) {
        while let Some((head, witness)) = self.awaited.front().copied().filter(|(h, _)| h.seq <= self.verdict.end.seq) {
            self.awaited.pop_front();
            if head != self.verdict.end {
                self.problem(ChainError::Rewritten { seq: head.seq, witness });
            }
        }
    }

    fn problem(&mut self, problem: ChainError) {
        if self.verdict.problems.len() < MAX_PROBLEMS {
            self.verdict.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{
            Event,
            chain::{append, chained},
        },
        domain::{Actor, Timestamp, Version},
    };
    use ChainError::*;
    use ed25519_dalek::SigningKey;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn event(n: u64) -> Event {
        Event::new(Timestamp::from_secs(1_795_000_000 + n), Actor::Authority, "test", format!("org-{n}"))
    }

    fn log(n: u64) -> Vec<Entry> {
        chained((1..=n).map(event))
    }

    fn signed(number: u64, entry: &Entry) -> SignedHead {
        SignedHead::sign(number, Head::after(entry), entry.event.at, &key())
    }

    /// A log of ten, with signed heads for the entries 3, 6 and 9.
    fn whole() -> (Vec<Entry>, Vec<SignedHead>) {
        let entries = log(10);
        let heads = (1..=3).map(|number| signed(number, &entries[number as usize * 3 - 1])).collect();
        (entries, heads)
    }

    fn check(entries: &[Entry], heads: &[SignedHead]) -> Verdict {
        let mut verifier = Verifier::new(key().verifying_key());
        heads.iter().for_each(|head| verifier.signed_head(head));
        entries.iter().for_each(|entry| verifier.entry(entry));
        verifier.end()
    }

    /// As somebody would who can write the log but has not the key: everything from `from` on is made anew.
    fn rewritten(entries: &[Entry], from: usize) -> Vec<Entry> {
        let mut forged = entries.to_vec();
        let mut head = from.checked_sub(1).map_or(Head::EMPTY, |before| Head::after(&forged[before]));
        for entry in &mut forged[from..] {
            entry.event.detail = "rewritten".into();
            *entry = append(head, entry.version, entry.event.clone());
            head = Head::after(entry);
        }
        forged
    }

    #[test]
    fn a_whole_log_with_its_heads_holds_in_pieces_of_any_size() {
        let (entries, heads) = whole();
        let expected = Verdict {
            start: Head::EMPTY,
            end: Head::after(&entries[9]),
            entries: 10,
            signed_heads: 3,
            last_signed: Some(heads[2]),
            problems: vec![],
        };
        assert_eq!(check(&entries, &heads), expected);
        // Each head just before its entry, and one just after it.
        let mut verifier = Verifier::new(key().verifying_key());
        for (n, entry) in (1..).zip(&entries) {
            heads.iter().filter(|head| head.head.seq == n && n != 9).for_each(|head| verifier.signed_head(head));
            verifier.entry(entry);
            heads.iter().filter(|head| head.head.seq == n && n == 9).for_each(|head| verifier.signed_head(head));
        }
        assert_eq!(verifier.end(), expected);
        assert_eq!(check(&[], &[]).problems, []);
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let (mut entries, heads) = whole();
        entries[1].event.detail = "x".into();
        entries[7].version = Version(99);
        entries.remove(4);
        let problems = check(&entries, &heads).problems;
        assert_eq!(problems[0], Altered { seq: 2 });
        assert_eq!(problems[1], Missing { seq: 5, found: 6 });
        assert!(problems.contains(&Altered { seq: 8 }), "{problems:?}");
    }

    #[test]
    fn a_log_made_anew_is_found_by_any_signed_head_behind() {
        let (entries, heads) = whole();
        for from in 0..9 {
            let forged = rewritten(&entries, from);
            assert_eq!(check(&forged, &[]).problems, [], "the chain alone does not show it");
            let problems = check(&forged, &heads).problems;
            let first = heads.iter().find(|head| head.head.seq > from as u64).unwrap();
            let expected = Rewritten { seq: first.head.seq, witness: Witness::Signed(first.number) };
            assert_eq!(problems[0], expected, "from {from}");
        }
        let behind = rewritten(&entries, 9);
        assert_eq!(check(&behind, &heads).problems, [], "nobody has signed the last entry");
    }

    #[test]
    fn a_tail_that_was_cut_off_is_found_by_heads_beyond_the_end() {
        let (entries, heads) = whole();
        let problems = check(&entries[..8], &heads).problems;
        assert_eq!(problems, [CutOff { end: 8, saved: 9, witness: Witness::Signed(3) }]);
        assert_eq!(check(&[], &heads).problems, [CutOff { end: 0, saved: 9, witness: Witness::Signed(3) }]);

        let mut verifier = Verifier::new(key().verifying_key());
        verifier.expect(Head::after(&entries[9]), Witness::Saved);
        entries[..9].iter().for_each(|entry| verifier.entry(entry));
        assert_eq!(verifier.end().problems, [CutOff { end: 9, saved: 10, witness: Witness::Saved }]);
    }

    #[test]
    fn heads_that_were_given_are_compared_in_any_order() {
        let (entries, heads) = whole();
        let other = Head { seq: 7, ..Head::after(&entries[7]) };
        let mut verifier = Verifier::new(key().verifying_key());
        verifier.expect(Head::after(&entries[9]), Witness::Authority);
        verifier.expect(other, Witness::Saved);
        verifier.expect(Head::after(&entries[0]), Witness::Saved);
        verifier.expect(Head::EMPTY, Witness::Saved);
        verifier.expect_signed(&heads[1]);
        let forged = SignedHead::sign(2, heads[1].head, heads[1].at, &SigningKey::from_bytes(&[8; 32]));
        verifier.expect_signed(&forged);
        entries.iter().for_each(|entry| verifier.entry(entry));
        verifier.expect(Head::after(&entries[9]), Witness::Saved);
        let expected = [
            NotOurs,
            Rewritten { seq: 7, witness: Witness::Saved },
            // The log's own signed heads were not given, and one of number 2 was.
            HeadsCutOff { end: 0, saved: 2 },
        ];
        assert_eq!(verifier.end().problems, expected);
    }

    #[test]
    fn what_is_done_to_signed_heads_is_named() {
        let (entries, heads) = whole();
        let found = |tamper: &dyn Fn(&mut Vec<SignedHead>)| {
            let mut tampered = heads.clone();
            tamper(&mut tampered);
            check(&entries, &tampered).problems
        };
        assert_eq!(found(&|h| h[1].signature[5] ^= 1), [HeadAltered { number: 2 }]);
        assert_eq!(found(&|h| h[1].head.seq = 7), [HeadAltered { number: 2 }]);
        assert_eq!(found(&|h| h[1].head.seq = 100), [HeadAltered { number: 2 }]);
        assert_eq!(found(&|h| h[1].head.hash.0[0] ^= 1), [HeadAltered { number: 2 }]);
        assert_eq!(found(&|h| h[1].at = Timestamp::from_secs(1)), [HeadAltered { number: 2 }]);
        assert_eq!(found(&|h| _ = h.remove(0)), [HeadMissing { number: 1, found: 2 }]);
        assert_eq!(found(&|h| _ = h.remove(1)), [HeadMissing { number: 2, found: 3 }]);
        let moved = found(&|h| {
            h[0].number = 9;
            h.rotate_left(1);
        });
        assert_eq!(moved[0], HeadMissing { number: 1, found: 2 });
        assert!(moved.contains(&HeadAltered { number: 9 }), "{moved:?}");
        // Both are signed, which happens when one was removed and the next one got its number.
        let mut verifier = Verifier::new(key().verifying_key());
        verifier.expect_signed(&signed(3, &entries[6]));
        heads.iter().for_each(|head| verifier.signed_head(head));
        entries.iter().for_each(|entry| verifier.entry(entry));
        assert_eq!(verifier.end().problems, [HeadReplaced { number: 3 }]);
        // With the key, and for an entry that is there: still out of order.
        let early = signed(3, &entries[0]);
        assert_eq!(found(&|h| h[2] = early), [HeadMisplaced { number: 3, seq: 1, before: 6 }]);
        let renumbered = found(&|h| {
            h.remove(1);
            h[1].number = 2;
        });
        assert_eq!(renumbered, [HeadAltered { number: 2 }]);
    }

    #[test]
    fn an_entry_that_cannot_be_read_ends_what_can_be_said() {
        let (entries, heads) = whole();
        let mut verifier = Verifier::new(key().verifying_key());
        heads.iter().for_each(|head| verifier.signed_head(head));
        entries[..4].iter().for_each(|entry| verifier.entry(entry));
        verifier.unreadable(5, "column actor".into());
        assert_eq!(verifier.end().problems, [Unreadable { seq: 5, what: "column actor".into() }]);
    }
}
