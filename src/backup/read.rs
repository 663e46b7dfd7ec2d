//! Reading a backup. What it is comes first, and can be looked at before anything of it is written anywhere. Every name and
//! every size in it is one that is expected: it may have been made by anybody who knows the recipient.

use super::{BackupError, DATABASE, FORMAT, MANIFEST, Manifest, SIGNATURE, SMALL, hex, signer};
use crate::domain::PublicKey;
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use zeroize::Zeroizing;

/// A backup that was opened: what it is, and the rest of it.
pub struct Opened<'a, R: Read> {
    /// What it is.
    pub manifest: Manifest,
    /// Who has signed that. Whether it is the right one, only somebody knows who has kept the authority's audit key.
    pub signed_by: PublicKey,
    entries: tar::Entries<'a, R>,
}

/// Decrypts the beginning of a backup, and hands it to `with`.
///
/// # Errors
/// It cannot be decrypted, or is not a backup; what `with` says.
pub fn open<T, E: From<BackupError>>(
    file: impl Read,
    identity: &Zeroizing<String>,
    with: impl FnOnce(Opened<'_, &mut dyn Read>) -> Result<T, E>,
) -> Result<T, E> {
    let bad = |error: &dyn std::fmt::Display| BackupError::Identity(error.to_string());
    let identities = age::IdentityFile::from_buffer(identity.as_bytes()).map_err(|error| bad(&error))?;
    let identities = identities.into_identities().map_err(|error| bad(&error))?;
    let decrypting = age::Decryptor::new_buffered(io::BufReader::new(file))
        .and_then(|file| file.decrypt(identities.iter().map(|identity| &**identity as &dyn age::Identity)));
    let mut decrypted = decrypting.map_err(|error| BackupError::Decrypt(error.to_string()))?;
    let mut archive = tar::Archive::new(&mut decrypted as &mut dyn Read);
    // Raw: a header that is about another one, and may be of any length, is no file, and refused as such.
    let mut entries = archive.entries().map_err(BackupError::from)?.raw(true);
    let manifest = text(&mut next(&mut entries)?, MANIFEST)?;
    let signature = text(&mut next(&mut entries)?, SIGNATURE)?;
    let signed_by = signer(&manifest, &signature)?;
    let known: Manifest =
        serde_json::from_str(&manifest).map_err(|error| BackupError::Format(format!("{MANIFEST}: {error}")))?;
    check(&known, &signed_by)?;
    with(Opened { manifest: known, signed_by, entries })
}

/// That it can be what it says.
fn check(manifest: &Manifest, signed_by: &PublicKey) -> Result<(), BackupError> {
    let bad = |what: &str| Err(BackupError::Format(what.to_owned()));
    if manifest.format != FORMAT {
        return bad(&format!("it has the format {}, and this certgate knows {FORMAT}", manifest.format));
    }
    if !manifest.keys.values().any(|key| key == signed_by) {
        return bad("it is signed by a key that is none of the authority's that it names");
    }
    let known = |name: &String| name == DATABASE || manifest.keys.contains_key(name);
    if !manifest.sha256.contains_key(DATABASE) || !manifest.sha256.keys().all(known) {
        return bad("it has not what it should have");
    }
    // They are shown where the signer's fingerprint is to be compared.
    let plain = |text: &str| text.len() < 256 && text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    if !plain(&manifest.bastion) || !plain(&manifest.program) {
        return bad("it has a name that is none");
    }
    let named = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if !manifest.keys.keys().all(|name| named(name)) {
        return bad("a key has a name that is none");
    }
    Ok(())
}

impl<R: Read> Opened<'_, R> {
    /// Writes what is in it into a directory that has none of it. Everything is on disk when this returns; what fails leaves
    /// files behind, for the caller to take away.
    ///
    /// # Errors
    /// It is damaged, altered or cut off, or a file cannot be written.
    pub fn extract(self, dir: &Path) -> Result<(), BackupError> {
        let Self { manifest, mut entries, .. } = self;
        let mut left = manifest.sha256;
        while !left.is_empty() {
            let entry = next(&mut entries)?;
            let name = name(&entry)?;
            let Some(hash) = left.remove(&name) else { return Err(unexpected(&name)) };
            if name != DATABASE && entry.size() > SMALL {
                return Err(unexpected(&name));
            }
            let path = dir.join(&name);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let mut hashed = Hashing { file: &mut file, hash: Sha256::new() };
            io::copy(&mut { entry }, &mut hashed)?;
            if hex(&hashed.hash.finalize()) != hash {
                return Err(BackupError::Format(format!("{name} is not what was signed")));
            }
            file.sync_all()?;
        }
        File::open(dir)?.sync_all()?;
        Ok(())
    }
}

/// Writes, and hashes what was written.
struct Hashing<'a> {
    file: &'a mut File,
    hash: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn unexpected(name: &str) -> BackupError {
    BackupError::Format(format!("{name:?} should not be there"))
}

/// The next file of the archive.
fn next<'a, R: Read>(entries: &mut tar::Entries<'a, R>) -> Result<tar::Entry<'a, R>, BackupError> {
    let entry = entries.next().ok_or_else(|| BackupError::Format("it is cut off".into()))??;
    if entry.header().entry_type().is_file() { Ok(entry) } else { Err(unexpected(&name(&entry)?)) }
}

fn name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, BackupError> {
    String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| BackupError::Format("a name is not text".into()))
}

/// One of the archive's small files, as text.
fn text<R: Read>(entry: &mut tar::Entry<'_, R>, expected: &str) -> Result<String, BackupError> {
    if name(entry)? != expected || entry.size() > SMALL {
        return Err(BackupError::Format(format!("{expected} is not where it should be")));
    }
    let mut text = String::new();
    entry.read_to_string(&mut text)?;
    Ok(text)
}
