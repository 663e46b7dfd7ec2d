//! Reading a list that [`super::write`] has written: for those who look at what is installed, and for tests. A list of
//! somebody else's, with what is never written here, is refused rather than understood in part.

use super::{
    CERTIFICATE_EXTENSION, CERTIFICATES, EXPLICIT_KEY, EXTENSION, FINGERPRINT_SHA1, FINGERPRINT_SHA256, FORMAT, KEY_ID,
    Krl, KrlError, MAGIC, MAX_BITMAP_BITS, MAX_KRL_BYTES, MAX_SERIALS, SERIAL_BITMAP, SERIAL_LIST, SERIAL_RANGE,
    SIGNATURE,
};
use crate::domain::{Fingerprint, PublicKey, Serial, Timestamp};
use std::collections::BTreeSet;

/// How many more serial numbers may be read.
struct Left(u64);

impl Left {
    fn take(&mut self, serials: u64) -> Result<(), KrlError> {
        self.0 = self.0.checked_sub(serials).ok_or(KrlError::TooLarge)?;
        Ok(())
    }
}

/// What is still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], KrlError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(KrlError::Format(what))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, KrlError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, KrlError> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, KrlError> {
        self.array(what).map(u64::from_be_bytes)
    }

    fn string(&mut self, what: &'static str) -> Result<Bytes<'a>, KrlError> {
        let length = usize::try_from(self.u32(what)?).map_err(|_| KrlError::Format(what))?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(KrlError::Format(what))?;
        self.0 = rest;
        Ok(Bytes(head))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Krl {
    /// Reads a list. One that revokes no certificate names no CA.
    ///
    /// # Errors
    /// Too large, cut off, or with what is never written here.
    pub fn parse(bytes: &[u8]) -> Result<Self, KrlError> {
        if bytes.len() > MAX_KRL_BYTES {
            return Err(KrlError::TooLarge);
        }
        let mut bytes = Bytes(bytes);
        if bytes.u64("magic")? != MAGIC || bytes.u32("format")? != FORMAT {
            return Err(KrlError::Format("magic"));
        }
        let version = bytes.u64("version")?;
        let generated = Timestamp::from_secs(bytes.u64("date")?);
        if bytes.u64("flags")? != 0 || !bytes.string("reserved")?.is_empty() {
            return Err(KrlError::Foreign("flags"));
        }
        let comment =
            String::from_utf8(bytes.string("comment")?.0.to_vec()).map_err(|_| KrlError::Format("comment"))?;
        let mut krl =
            Self { version, generated, comment, authorities: vec![], serials: BTreeSet::new(), keys: BTreeSet::new() };
        let mut left = Left(MAX_SERIALS);
        while !bytes.is_empty() {
            let kind = bytes.u8("section")?;
            let data = bytes.string("section")?;
            match kind {
                CERTIFICATES => krl.read_certificates(data, &mut left)?,
                FINGERPRINT_SHA256 => krl.read_keys(data)?,
                EXPLICIT_KEY => return Err(KrlError::Foreign("keys in full")),
                FINGERPRINT_SHA1 => return Err(KrlError::Foreign("SHA-1 fingerprints")),
                SIGNATURE => return Err(KrlError::Foreign("a signature")),
                EXTENSION => return Err(KrlError::Foreign("an extension")),
                _ => return Err(KrlError::Format("section")),
            }
        }
        Ok(krl)
    }

    fn read_keys(&mut self, mut data: Bytes<'_>) -> Result<(), KrlError> {
        while !data.is_empty() {
            let hash = data.string("hash")?.0.try_into().map_err(|_| KrlError::Format("hash"))?;
            self.keys.insert(Fingerprint::from_bytes(hash));
        }
        Ok(())
    }

    fn read_certificates(&mut self, mut data: Bytes<'_>, left: &mut Left) -> Result<(), KrlError> {
        let ca = data.string("CA key")?;
        if !data.string("reserved")?.is_empty() {
            return Err(KrlError::Foreign("flags"));
        }
        let ca = PublicKey::from_wire(ca.0).map_err(|_| KrlError::Foreign("a CA key of another type"))?;
        let former = std::mem::take(&mut self.serials);
        while !data.is_empty() {
            let kind = data.u8("certificates")?;
            let data = data.string("certificates")?;
            match kind {
                SERIAL_LIST => self.read_list(data, left)?,
                SERIAL_RANGE => self.read_range(data, left)?,
                SERIAL_BITMAP => self.read_bitmap(data, left)?,
                KEY_ID => return Err(KrlError::Foreign("key IDs")),
                CERTIFICATE_EXTENSION => return Err(KrlError::Foreign("an extension")),
                _ => return Err(KrlError::Format("certificates")),
            }
        }
        if !self.authorities.is_empty() && former != self.serials {
            return Err(KrlError::Foreign("other serial numbers for another CA"));
        }
        self.authorities.push(ca);
        Ok(())
    }

    fn add(&mut self, serial: u64) -> Result<(), KrlError> {
        if serial == 0 {
            return Err(KrlError::Foreign("serial number zero"));
        }
        self.serials.insert(Serial(serial));
        Ok(())
    }

    fn read_list(&mut self, mut data: Bytes<'_>, left: &mut Left) -> Result<(), KrlError> {
        left.take(data.0.len() as u64 / 8)?;
        while !data.is_empty() {
            let serial = data.u64("serial")?;
            self.add(serial)?;
        }
        Ok(())
    }

    fn read_range(&mut self, mut data: Bytes<'_>, left: &mut Left) -> Result<(), KrlError> {
        let (first, last) = (data.u64("range")?, data.u64("range")?);
        if !data.is_empty() || first > last {
            return Err(KrlError::Format("range"));
        }
        // Before anything is counted out: these few bytes can name 2^64 numbers.
        left.take((last - first).saturating_add(1))?;
        (first..=last).try_for_each(|serial| self.add(serial))
    }

    fn read_bitmap(&mut self, mut data: Bytes<'_>, left: &mut Left) -> Result<(), KrlError> {
        let (first, bits) = (data.u64("bitmap")?, data.string("bitmap")?.0);
        if !data.is_empty() {
            return Err(KrlError::Format("bitmap"));
        }
        if bits.len() as u64 > MAX_BITMAP_BITS / 8 + 1 {
            return Err(KrlError::TooLarge);
        }
        left.take(bits.iter().map(|byte| u64::from(byte.count_ones())).sum())?;
        for (n, byte) in bits.iter().rev().enumerate() {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                let serial = first.checked_add(8 * n as u64 + bit).ok_or(KrlError::Format("bitmap"))?;
                self.add(serial)?;
            }
        }
        Ok(())
    }
}
