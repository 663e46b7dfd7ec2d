//! What has left the audit log: files of JSON lines that are never changed again. Each begins with what it continues; then
//! come the signed heads, each before the entries that it is for, so that one can be checked from its beginning to its end
//! without keeping any of it. docs/audit.md describes them for those who check without this code.

mod read;
mod write;

pub use read::{Checked, check};
pub use write::Writer;

use crate::{
    audit::{Entry, Head, SignedHead},
    domain::PublicKey,
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Of this description.
    #[serde(rename = "certgate_audit_archive")]
    pub format: u32,
    /// The key that signs the heads.
    pub key: PublicKey,
    /// The head of the log before the first entry here.
    pub after: Head,
    /// The signed head of it; none at the beginning of the log.
    pub signed: Option<String>,
}

/// Another line. An entry is as `audit export` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Signed { signed: String },
    Entry(Box<Entry>),
}

const FORMAT: u32 = 1;

/// Why an archive could not be written or read.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it.
    #[error("{path}, line {line}: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Where.
        line: u64,
        /// What is wrong.
        what: String,
    },
}

/// Sees to it that a file is on disk, and its name, and the directory's.
///
/// # Errors
/// The disk says no.
pub fn sync(file: &Path) -> Result<(), ArchiveError> {
    let sync = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all()).map_err(failed(path));
    file.ancestors().take(3).filter(|path| !path.as_os_str().is_empty()).try_for_each(sync)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
    move |source| ArchiveError::Io { path: path.to_owned(), source }
}

/// The name of a file with these entries. They sort in the order of their entries.
#[must_use]
pub fn name(first: u64, last: u64) -> String {
    format!("audit-{first:012}-{last:012}.jsonl")
}

/// The file of a directory that has an entry, if there is one: its path, its first entry and its last.
///
/// # Errors
/// The directory is there and cannot be read.
pub fn holding(dir: &Path, seq: u64) -> Result<Option<(PathBuf, u64, u64)>, ArchiveError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(failed(dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed(dir))?;
        let file = entry.file_name();
        let Some((first, last)) = file.to_str().and_then(numbers) else { continue };
        if (first..=last).contains(&seq) {
            return Ok(Some((entry.path(), first, last)));
        }
    }
    Ok(None)
}

fn numbers(file: &str) -> Option<(u64, u64)> {
    let (first, last) = file.strip_prefix("audit-")?.strip_suffix(".jsonl")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (name(first, last) == file).then_some((first, last))
}

/// A signed head, or why it is none.
fn signed_head(text: &str) -> Result<SignedHead, String> {
    text.parse().map_err(|why: &str| why.to_owned())
}

#[cfg(test)]
mod tests;
