//! The access table: what a node's helper reads on every login. This is the reader, over bytes, with nothing but the
//! standard library and without an allocation; [`super::compile`] writes. docs/access-table.md has the layout byte by
//! byte.
//!
//! The reader is total: whatever the bytes are, it answers or says [`TableError`], and never reads outside of them.
//! Damage must never make a login out of nothing, and looking for it must not cost more than the login: so the header
//! and every record carry a checksum of their own, and exactly what is read is verified. A checksum over the whole
//! file would make each login read all of it.

use std::{cmp::Ordering, fmt};

/// How a table begins.
pub const MAGIC: [u8; 8] = *b"CGACCESS";
/// The format that this code writes and reads.
pub const TABLE_FORMAT: u32 = 2;
/// The longest login that a record holds, in bytes: Linux's own limit (`LOGIN_NAME_MAX` of shadow-utils).
pub const MAX_LOGIN: usize = 32;

pub(super) const HEADER: usize = 72;
pub(super) const LOGIN: usize = 64;
pub(super) const SERIAL: usize = 24;
pub(super) const KEY: usize = 48;
pub(super) const CA: usize = 40;

/// The largest table that is read, in bytes.
pub const MAX_TABLE_BYTES: usize = 256 * 1024 * 1024;

/// A section of records; part of each record's checksum, so that no record is taken for one of another kind.
#[derive(Clone, Copy)]
pub(super) enum Section {
    Logins = 1,
    Serials = 2,
    Keys = 3,
    Cas = 4,
}

/// Why a table cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Shorter than a header, or not of the length that the header tells.
    Length,
    /// Does not begin as an access table does.
    Magic,
    /// Another format than [`TABLE_FORMAT`].
    Format(u32),
    /// The header's checksum is wrong.
    Header,
    /// The checksum of something that the answer depends on is wrong.
    Record,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("the access table is truncated or has something after its end"),
            Self::Magic => f.write_str("this is not an access table"),
            Self::Format(found) => {
                write!(f, "the access table has format {found}, this program reads {TABLE_FORMAT}")
            }
            Self::Header => f.write_str("the access table's header is damaged"),
            Self::Record => f.write_str("a record of the access table is damaged"),
        }
    }
}

impl std::error::Error for TableError {}

/// A login that the table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Several people share it; otherwise it is one person's own.
    pub shared: bool,
    /// The principals with which it may be used, each on a line of its own: what sshd is to be told, as it is.
    pub principals: &'a [u8],
}

/// An access table over its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    version: u64,
    issued: u64,
    max_age: u64,
    logins: &'a [[u8; LOGIN]],
    serials: &'a [[u8; SERIAL]],
    keys: &'a [[u8; KEY]],
    cas: &'a [[u8; CA]],
    lists: &'a [u8],
}

impl<'a> Table<'a> {
    /// Checks the header and the length; the records are checked as they are read.
    ///
    /// # Errors
    /// What is wrong first: length, magic, format, header.
    pub fn open(bytes: &'a [u8]) -> Result<Self, TableError> {
        let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or(TableError::Length)?;
        if header[..8] != MAGIC {
            return Err(TableError::Magic);
        }
        let format = u32_at(header, 8);
        if format != TABLE_FORMAT {
            return Err(TableError::Format(format));
        }
        if header_checksum(header) != u32_at(header, 12) {
            return Err(TableError::Header);
        }
        if u64_at(header, 16) != bytes.len() as u64 || bytes.len() > MAX_TABLE_BYTES {
            return Err(TableError::Length);
        }
        let (logins, body) = section::<LOGIN>(body, u32_at(header, 40))?;
        let (serials, body) = section::<SERIAL>(body, u32_at(header, 44))?;
        let (keys, body) = section::<KEY>(body, u32_at(header, 48))?;
        let (cas, lists) = section::<CA>(body, u32_at(header, 52))?;
        if u64_at(header, 56) != lists.len() as u64 {
            return Err(TableError::Length);
        }
        let (version, issued, max_age) = (u64_at(header, 24), u64_at(header, 32), u64_at(header, 64));
        Ok(Self { version, issued, max_age, logins, serials, keys, cas, lists })
    }

    /// The version of the bundle that it was compiled from.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When that bundle was made, in milliseconds since 1970.
    #[must_use]
    pub fn issued_millis(&self) -> u64 {
        self.issued
    }

    /// For how many seconds the table is believed after the authority has last confirmed it: after the time at which
    /// its file was last modified. 0: for ever.
    #[must_use]
    pub fn max_age_secs(&self) -> u64 {
        self.max_age
    }

    /// What the table has for a login.
    ///
    /// # Errors
    /// Something that was read on the way is damaged: there is no answer.
    pub fn login(&self, name: &[u8]) -> Result<Option<Entry<'a>>, TableError> {
        let Some(padded) = pad(name) else { return Ok(None) };
        let Some(record) = self.find(self.logins, Section::Logins, |record| record[..MAX_LOGIN].cmp(&padded))? else {
            return Ok(None);
        };
        let at = |offset| usize::try_from(u64_at(record, offset)).map_err(|_| TableError::Record);
        let (start, length) = (at(40)?, at(48)?);
        let end = start.checked_add(length).ok_or(TableError::Record)?;
        let principals = self.lists.get(start..end).ok_or(TableError::Record)?;
        if crc32c(0, principals) != u32_at(record, 36) {
            return Err(TableError::Record);
        }
        Ok(Some(Entry { shared: record[MAX_LOGIN] != 0, principals }))
    }

    /// Whether the certificate with this serial number is refused.
    ///
    /// # Errors
    /// Something that was read on the way is damaged: there is no answer.
    pub fn serial_is_denied(&self, serial: u64) -> Result<bool, TableError> {
        self.find(self.serials, Section::Serials, |record| u64_at(record, 0).cmp(&serial)).map(|found| found.is_some())
    }

    /// Whether the key with this SHA-256 fingerprint is refused.
    ///
    /// # Errors
    /// Something that was read on the way is damaged: there is no answer.
    pub fn key_is_denied(&self, fingerprint: &[u8; 32]) -> Result<bool, TableError> {
        self.find(self.keys, Section::Keys, |record| record[..32].cmp(fingerprint)).map(|found| found.is_some())
    }

    /// Whether the key with this SHA-256 fingerprint is a CA of user certificates.
    ///
    /// # Errors
    /// Something that was read on the way is damaged: there is no answer.
    pub fn is_user_ca(&self, fingerprint: &[u8; 32]) -> Result<bool, TableError> {
        self.find(self.cas, Section::Cas, |record| record[..32].cmp(fingerprint)).map(|found| found.is_some())
    }

    /// Binary search. Every record that is looked at is verified first: damage on the way could otherwise hide a
    /// denial.
    fn find<const N: usize>(
        &self,
        records: &'a [[u8; N]],
        section: Section,
        order: impl Fn(&[u8; N]) -> Ordering,
    ) -> Result<Option<&'a [u8; N]>, TableError> {
        let (mut low, mut high) = (0, records.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let record = records.get(middle).ok_or(TableError::Record)?;
            if record_checksum(self.version, section, middle, record) != u32_at(record, N - 4) {
                return Err(TableError::Record);
            }
            match order(record) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(Some(record)),
            }
        }
        Ok(None)
    }
}

/// Takes `count` records of `N` bytes off the front.
fn section<const N: usize>(bytes: &[u8], count: u32) -> Result<(&[[u8; N]], &[u8]), TableError> {
    let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(N)).ok_or(TableError::Length)?;
    let (records, rest) = bytes.split_at_checked(length).ok_or(TableError::Length)?;
    Ok((records.as_chunks::<N>().0, rest))
}

/// A login as records have it: filled up with zeros, which are in no name. None if it has a zero or is too long.
pub(super) fn pad(name: &[u8]) -> Option<[u8; MAX_LOGIN]> {
    let mut padded = [0; MAX_LOGIN];
    padded.get_mut(..name.len())?.copy_from_slice(name);
    (!name.is_empty() && !name.contains(&0)).then_some(padded)
}

/// The four bytes at a constant offset inside a record.
fn u32_at<const N: usize>(record: &[u8; N], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

/// The eight bytes at a constant offset inside a record.
fn u64_at<const N: usize>(record: &[u8; N], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

/// Over the header without the field that holds it.
pub(super) fn header_checksum(header: &[u8; HEADER]) -> u32 {
    crc32c(crc32c(0, &header[..12]), &header[16..])
}

/// Over a record without the field that holds it, begun with where the record belongs: a page that a crash or a disk
/// left there from another table, or from another place, does not fit.
pub(super) fn record_checksum<const N: usize>(version: u64, section: Section, index: usize, record: &[u8; N]) -> u32 {
    let place = crc32c(0, &version.to_le_bytes());
    let place = crc32c(place, &[section as u8]);
    let place = crc32c(place, &(index as u64).to_le_bytes());
    crc32c(place, &record[..N - 4])
}

/// CRC-32C (RFC 3720, appendix B.4), continued from `crc`. Finds accidents, not attackers: the table is root's file.
pub(super) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!crc, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        // RFC 3720, B.4: 32 bytes of zeros, 32 of ones, 0..31; and the usual check value.
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(0, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(Table::open(&[]).unwrap_err(), TableError::Length);
        assert_eq!(Table::open(&[0; HEADER]).unwrap_err(), TableError::Magic);
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = 1;
        assert_eq!(Table::open(&bytes).unwrap_err(), TableError::Format(1));
        bytes[8] = 2;
        assert_eq!(Table::open(&bytes).unwrap_err(), TableError::Header);
    }

    #[test]
    fn counts_that_do_not_fit_are_refused_though_their_checksum_is_right() {
        for counts in [[u32::MAX; 4], [1, 0, 0, 0], [0, 0, 0, 1]] {
            let mut bytes = [0; HEADER];
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8] = 2;
            bytes[16] = HEADER as u8;
            for (i, count) in counts.iter().enumerate() {
                bytes[40 + 4 * i..44 + 4 * i].copy_from_slice(&count.to_le_bytes());
            }
            let checksum = header_checksum(&bytes);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
            assert_eq!(Table::open(&bytes).unwrap_err(), TableError::Length);
        }
    }
}
