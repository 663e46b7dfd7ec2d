//! Reading an archive: all of it, to see that it is whole.

use super::{ArchiveError, FORMAT, Header, Line, failed, signed_head};
use crate::{
    audit::{Head, SignedHead, Verdict, Verifier},
    domain::PublicKey,
};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// The longest line, in bytes: an entry has bounds that are far below.
const MAX_LINE: u64 = 1 << 20;

/// What was found in a file.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What it says of itself.
    pub header: Header,
    /// What is wrong with it, and where it ends.
    pub verdict: Verdict,
    /// Where the log was after one of its entries that was asked for, if it has that entry.
    pub at: Option<Head>,
    /// All its signed heads, if they were wanted.
    pub heads: Vec<SignedHead>,
    /// SHA-256 of the file, as 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Reads a file to its end and checks its chain, and its signed heads with `key` (none: with the one that it names). It must
/// end with a signed head. `at`: the entry whose head is wanted.
///
/// # Errors
/// It cannot be read, or a line of it is not one. What is wrong with the log itself is in the verdict.
pub fn check(path: &Path, key: Option<&PublicKey>, at: Option<u64>) -> Result<Checked, ArchiveError> {
    let mut lines =
        Lines { path, reader: BufReader::new(File::open(path).map_err(failed(path))?), hash: Sha256::new(), number: 0 };
    let Some(first) = lines.next()? else { return Err(lines.bad("the file is empty")) };
    let header: Header = serde_json::from_str(&first).map_err(|error| lines.bad(&error.to_string()))?;
    if header.format != FORMAT {
        return Err(lines.bad(&format!("it has the format {}, and this certgate knows {FORMAT}", header.format)));
    }
    let key = key.unwrap_or(&header.key).ed25519().and_then(|key| VerifyingKey::from_bytes(key).ok());
    let Some(key) = key else { return Err(lines.bad("the key is not one of ed25519")) };
    let mut verifier = Verifier::new(key);
    match &header.signed {
        None if header.after == Head::EMPTY => {}
        None => return Err(lines.bad("what it continues is not signed")),
        Some(text) => {
            let start = signed_head(text).map_err(|why| lines.bad(&why))?;
            if start.head != header.after {
                return Err(lines.bad("what it continues is not what was signed"));
            }
            verifier.begin_after(&start);
        }
    }
    let (mut heads, mut found) = (Vec::new(), None);
    while let Some(line) = lines.next()? {
        match serde_json::from_str(&line).map_err(|error| lines.bad(&error.to_string()))? {
            Line::Signed { signed } => {
                let signed = signed_head(&signed).map_err(|why| lines.bad(&why))?;
                verifier.signed_head(&signed);
                heads.push(signed);
            }
            Line::Entry(entry) => {
                verifier.entry(&entry);
                found = found.or((Some(entry.seq) == at).then(|| Head::after(&entry)));
            }
        }
    }
    let verdict = verifier.end();
    if verdict.problems.is_empty() && verdict.last_signed.is_none_or(|last| last.head != verdict.end) {
        return Err(lines.bad("it does not end with a signed head"));
    }
    let sha256 = lines.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Checked { header, verdict, at: found, heads, sha256 })
}

struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    hash: Sha256,
    number: u64,
}

impl Lines<'_> {
    fn next(&mut self) -> Result<Option<String>, ArchiveError> {
        let mut line = String::new();
        let read = (&mut self.reader).take(MAX_LINE).read_line(&mut line).map_err(failed(self.path))?;
        self.number += 1;
        if read == 0 {
            return Ok(None);
        }
        self.hash.update(&line);
        if line.ends_with('\n') { Ok(Some(line)) } else { Err(self.bad("the line has no end")) }
    }

    fn bad(&self, what: &str) -> ArchiveError {
        ArchiveError::Format { path: self.path.to_owned(), line: self.number, what: what.to_owned() }
    }
}
