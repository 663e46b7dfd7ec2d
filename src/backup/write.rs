//! Writing a backup.

use super::{BackupError, DATABASE, FORMAT, MANIFEST, Manifest, Recipient, SIGNATURE, hex, sha256};
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{Read, Seek, Write},
};
use zeroize::Zeroizing;

/// Writes a backup. `manifest` says what it is of; its format and its hashes are filled in here. Nothing is written before
/// the database has been read once, for its hash.
///
/// # Errors
/// The database cannot be read, or the backup not be written.
pub fn write(
    manifest: Manifest,
    keys: &[(&'static str, Zeroizing<String>)],
    mut database: File,
    signer: &SigningKey,
    recipients: &[Recipient],
    out: impl Write,
) -> Result<(), BackupError> {
    let (hash, length) = sha256(&mut database)?;
    database.rewind()?;
    let hashes = keys.iter().map(|(name, text)| ((*name).to_owned(), hex(&Sha256::digest(text.as_bytes()))));
    let sha256 = hashes.chain([(DATABASE.to_owned(), hash)]).collect();
    let created = manifest.created.millis() / 1000;
    let manifest = Manifest { format: FORMAT, sha256, ..manifest };
    let text = serde_json::to_string_pretty(&manifest).map_err(|error| BackupError::Format(error.to_string()))?;
    let signature = Manifest::sign(&text, signer)?;

    let recipients = recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
    let encryptor =
        age::Encryptor::with_recipients(recipients).map_err(|error| BackupError::Encrypt(error.to_string()))?;
    let mut archive = tar::Builder::new(encryptor.wrap_output(out)?);
    let mut add = |name: &str, length: u64, content: &mut dyn Read| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(length);
        header.set_mtime(created);
        archive.append_data(&mut header, name, content.take(length))
    };
    add(MANIFEST, text.len() as u64, &mut text.as_bytes())?;
    add(SIGNATURE, signature.len() as u64, &mut signature.as_bytes())?;
    for (name, text) in keys {
        add(name, text.len() as u64, &mut text.as_bytes())?;
    }
    add(DATABASE, length, &mut database)?;
    archive.into_inner()?.finish()?.flush()?;
    Ok(())
}
