//! Compiles a bundle into the access table that [`super::table::Table`] reads.
//!
//! What reaches the table reaches sshd's list of principals as it is, so everything is parsed into the checked types
//! once more: a space in a principal would be read as an option before it (auth2-pubkeyfile.c,
//! `auth_check_principals_line`), a line break as a second principal.

use super::{
    Bundle,
    table::{
        CA, HEADER, KEY, LOGIN, MAGIC, MAX_LOGIN, MAX_TABLE_BYTES, SERIAL, Section, TABLE_FORMAT, crc32c,
        header_checksum, pad, record_checksum,
    },
};
use crate::domain::{Fingerprint, Principal, Ttl, UserName};
use std::collections::BTreeMap;
use thiserror::Error;

/// Why no table can be made of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// A shared login that is not a login name.
    #[error("the bundle has a shared login whose name is not one")]
    Login,
    /// Two entries for one login.
    #[error("the bundle has the login {0} twice")]
    Twice(String),
    /// A text that is not a principal, or one that does not belong there.
    #[error("the bundle has a principal for the login {0} that does not belong there")]
    Principal(String),
    /// More than the reader reads.
    #[error("the access table would be larger than {MAX_TABLE_BYTES} bytes")]
    TooLarge,
}

/// The table of a bundle, which is believed however old it is. The same bundle always gives the same bytes.
///
/// # Errors
/// The bundle says something that no table can hold. Nothing of it is used then.
pub fn compile(bundle: &Bundle) -> Result<Vec<u8>, CompileError> {
    compile_with(bundle, None)
}

/// The same, believed for `max_age` after it was last confirmed, if that is set.
///
/// # Errors
/// As [`compile`].
pub fn compile_with(bundle: &Bundle, max_age: Option<Ttl>) -> Result<Vec<u8>, CompileError> {
    let mut lists = Vec::new();
    let mut logins = Vec::new();
    for (name, (owner, principals)) in entries(bundle)? {
        let start = lists.len();
        for text in principals {
            let principal = text.parse::<Principal>().ok().filter(|p| belongs(p, owner, bundle));
            let principal = principal.ok_or_else(|| CompileError::Principal(name.to_owned()))?;
            lists.extend(format!("{principal}\n").bytes());
        }
        logins.push(login_record(name, owner.is_none(), start, &lists)?);
    }
    let serials: BTreeMap<_, _> = bundle.denied_serials.iter().map(|denied| (denied.serial.0, denied.until)).collect();
    let serials = serials.iter().map(|(serial, until)| {
        let mut record = [0; SERIAL];
        record[..8].copy_from_slice(&serial.to_le_bytes());
        record[8..16].copy_from_slice(&until.millis().to_le_bytes());
        record
    });
    let keys: BTreeMap<_, _> = bundle.denied_keys.iter().map(|denied| (denied.key, denied.until)).collect();
    let keys = keys.iter().map(|(key, until)| {
        let mut record = [0; KEY];
        record[..32].copy_from_slice(key.as_bytes());
        record[32..40].copy_from_slice(&until.millis().to_le_bytes());
        record
    });
    let mut cas: Vec<Fingerprint> = bundle.user_ca.iter().map(crate::domain::PublicKey::fingerprint).collect();
    cas.sort_unstable();
    cas.dedup();
    let cas = cas.iter().map(|fingerprint| {
        let mut record = [0; CA];
        record[..32].copy_from_slice(fingerprint.as_bytes());
        record
    });

    let mut table = vec![0; HEADER];
    let version = bundle.version.0;
    let counts = [
        append(&mut table, version, Section::Logins, logins.into_iter())?,
        append(&mut table, version, Section::Serials, serials)?,
        append(&mut table, version, Section::Keys, keys)?,
        append(&mut table, version, Section::Cas, cas)?,
    ];
    table.extend_from_slice(&lists);
    if table.len() > MAX_TABLE_BYTES {
        return Err(CompileError::TooLarge);
    }
    let header = header(bundle, table.len(), counts, lists.len(), max_age);
    table[..HEADER].copy_from_slice(&header);
    Ok(table)
}

/// The logins in order, each once, with whose own it is (nobody's if shared). `root` is nobody's login here, whatever
/// the bundle says; the helper refuses it as well.
type Entries<'a> = BTreeMap<&'a str, (Option<&'a UserName>, &'a [String])>;

fn entries(bundle: &Bundle) -> Result<Entries<'_>, CompileError> {
    let own = bundle.logins.iter().map(|login| (login.name.as_str(), (Some(&login.name), &login.principals[..])));
    let shared = bundle.shared_logins.iter().map(|login| (login.name.as_str(), (None, &login.principals[..])));
    let mut entries = BTreeMap::new();
    for (name, entry) in own.chain(shared).filter(|(name, _)| *name != "root") {
        if !is_login(name) {
            return Err(CompileError::Login);
        }
        if entries.insert(name, entry).is_some() {
            return Err(CompileError::Twice(name.to_owned()));
        }
    }
    Ok(entries)
}

/// A login name as useradd(8) takes them.
fn is_login(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    name.len() <= MAX_LOGIN
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && name.bytes().all(inner)
}

/// Whether a principal is one of this cluster, and of the login's owner if it has one.
fn belongs(principal: &Principal, owner: Option<&UserName>, bundle: &Bundle) -> bool {
    owner.is_none_or(|owner| *owner == principal.user)
        && principal.org == bundle.cluster.org
        && principal.cluster.as_ref().is_none_or(|cluster| *cluster == bundle.cluster.cluster)
}

fn login_record(name: &str, shared: bool, start: usize, lists: &[u8]) -> Result<[u8; LOGIN], CompileError> {
    let mut record = [0; LOGIN];
    record[..MAX_LOGIN].copy_from_slice(&pad(name.as_bytes()).ok_or(CompileError::Login)?);
    record[32] = u8::from(shared);
    let list = &lists[start..];
    record[36..40].copy_from_slice(&crc32c(0, list).to_le_bytes());
    record[40..48].copy_from_slice(&(start as u64).to_le_bytes());
    record[48..56].copy_from_slice(&(list.len() as u64).to_le_bytes());
    Ok(record)
}

/// Appends records, each with its checksum, and says how many they were.
fn append<const N: usize>(
    table: &mut Vec<u8>,
    version: u64,
    section: Section,
    records: impl Iterator<Item = [u8; N]>,
) -> Result<u32, CompileError> {
    let mut count = 0;
    for (index, mut record) in records.enumerate() {
        let checksum = record_checksum(version, section, index, &record);
        record[N - 4..].copy_from_slice(&checksum.to_le_bytes());
        table.extend_from_slice(&record);
        count = u32::try_from(index + 1).map_err(|_| CompileError::TooLarge)?;
    }
    Ok(count)
}

fn header(bundle: &Bundle, length: usize, counts: [u32; 4], lists: usize, max_age: Option<Ttl>) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&TABLE_FORMAT.to_le_bytes());
    header[16..24].copy_from_slice(&(length as u64).to_le_bytes());
    header[24..32].copy_from_slice(&bundle.version.0.to_le_bytes());
    header[32..40].copy_from_slice(&bundle.issued.millis().to_le_bytes());
    for (field, count) in header[40..56].chunks_exact_mut(4).zip(counts) {
        field.copy_from_slice(&count.to_le_bytes());
    }
    header[56..64].copy_from_slice(&(lists as u64).to_le_bytes());
    header[64..72].copy_from_slice(&max_age.map_or(0, |age| u64::from(age.secs())).to_le_bytes());
    let checksum = header_checksum(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bundle::{FORMAT, Login, SharedLogin},
        domain::{Role, Timestamp, Uid, Version},
    };

    fn bundle(own: &[(&str, &[&str])], shared: &[(&str, &[&str])]) -> Bundle {
        let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        Bundle {
            format: FORMAT,
            cluster: "h100.acme".parse().unwrap(),
            version: Version(7),
            issued: Timestamp::from_secs(1_795_000_000),
            logins: own
                .iter()
                .map(|(name, principals)| Login {
                    name: name.parse().unwrap(),
                    uid: Uid(10_000),
                    role: Role::Member,
                    principals: texts(principals),
                })
                .collect(),
            groups: vec![],
            shared_logins: shared
                .iter()
                .map(|(name, principals)| SharedLogin { name: (*name).to_owned(), principals: texts(principals) })
                .collect(),
            leaving: vec![],
            denied_serials: vec![],
            denied_keys: vec![],
            user_ca: vec![],
            host_ca: vec![],
        }
    }

    #[test]
    fn a_principal_that_does_not_belong_there_makes_no_table() {
        for bad in [
            "user2@acme/ml",
            "user1@other/ml",
            "user1@acme/ml/b200",
            "user1@acme/ml user1@acme/x",
            "user1@acme/ml\nroot",
            "",
            "root",
        ] {
            let error = compile(&bundle(&[("user1", &[bad])], &[])).unwrap_err();
            assert_eq!(error, CompileError::Principal("user1".into()), "{bad:?}");
        }
        assert!(compile(&bundle(&[("user1", &["user1@acme/ml", "user1@acme/ml/h100"])], &[])).is_ok());
        assert!(compile(&bundle(&[], &[("ubuntu", &["user1@acme/ml", "user2@acme/ml"])])).is_ok());
    }

    #[test]
    fn names_that_are_no_logins_and_logins_named_twice_make_no_table() {
        for bad in ["", "a b", "a\n", "A", "-a", &"a".repeat(33)] {
            assert_eq!(compile(&bundle(&[], &[(bad, &[])])), Err(CompileError::Login), "{bad:?}");
        }
        let twice = bundle(&[("user1", &[])], &[("user1", &[])]);
        assert_eq!(compile(&twice), Err(CompileError::Twice("user1".into())));
    }

    #[test]
    fn root_is_never_in_a_table() {
        let table = compile(&bundle(&[], &[("root", &["user1@acme/ml"]), ("ubuntu", &["user1@acme/ml"])])).unwrap();
        let table = crate::bundle::table::Table::open(&table).unwrap();
        assert_eq!(table.login(b"root"), Ok(None));
        assert!(table.login(b"ubuntu").unwrap().is_some_and(|entry| entry.shared));
    }
}
