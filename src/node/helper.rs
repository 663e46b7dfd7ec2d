//! `certgate-principals`: with which principals may this login be used now? sshd asks on every login
//! (AuthorizedPrincipalsCommand) and waits, so there is no network, no lock and no parsing here: one file is mapped and
//! searched. Nothing is used but the access table's reader, the standard library and libc. Afterwards the agent is told
//! of it, if it listens.
//!
//! Whatever goes wrong prints nothing, and nothing printed means nobody is let in. What an operator has to mend also
//! leaves one line in the system's log, for sshd throws the standard error of this command away (misc.c, `subprocess`).

pub mod notice;
mod start;

use crate::bundle::table::{MAX_TABLE_BYTES, Table, TableError};
use notice::Notice;
use std::{
    ffi::{CString, OsStr, OsString},
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
            net::UnixDatagram,
            process::parent_id,
        },
    },
    path::Path,
    ptr, slice,
};

/// Where the agent keeps the table unless told otherwise.
pub const DEFAULT_TABLE: &str = "/var/lib/certgate-node/access.table";

const USAGE: &str = "usage: certgate-principals [--table PATH] LOGIN SERIAL KEYFP CAFP KEYID (sshd: %u %s %f %F %i)";

/// What sshd tells of a login (sshd_config(5), TOKENS). None of it is escaped, and the key ID is whatever the CA wrote.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// `%u`
    pub login: &'a [u8],
    /// `%s`
    pub serial: &'a [u8],
    /// `%f`
    pub key: &'a [u8],
    /// `%F`
    pub ca: &'a [u8],
    /// `%i`
    pub key_id: &'a [u8],
}

/// The lines to print: empty for anyone who may not log in.
///
/// # Errors
/// The table is damaged where the answer depends on it.
pub fn answer<'a>(table: &Table<'a>, question: &Question<'_>) -> Result<&'a [u8], TableError> {
    const NOTHING: Result<&[u8], TableError> = Ok(&[]);
    let Question { login, serial, key, ca, key_id } = *question;
    // A table never holds root; should one ever, it is refused here.
    if login == b"root" || !is_name(login) || !is_name(key_id) {
        return NOTHING;
    }
    let (Some(serial), Some(key), Some(ca)) = (number(serial), fingerprint(key), fingerprint(ca)) else {
        return NOTHING;
    };
    if !table.is_user_ca(&ca)? || table.serial_is_denied(serial)? || table.key_is_denied(&key)? {
        return NOTHING;
    }
    match table.login(login)? {
        Some(entry) if entry.shared || key_id == login => Ok(entry.principals),
        _ => NOTHING,
    }
}

/// The alphabet of logins and user names; the table says which of them exist.
fn is_name(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// A decimal number as sshd prints it (`%llu`).
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// `SHA256:` and 43 characters of base64 without padding, as OpenSSH prints fingerprints.
fn fingerprint(text: &[u8]) -> Option<[u8; 32]> {
    let encoded = text.strip_prefix(b"SHA256:").filter(|encoded| encoded.len() == 43)?;
    let mut digest = [0; 32];
    let mut bytes = digest.iter_mut();
    let (mut bits, mut held) = (0_u32, 0);
    for character in encoded {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            *bytes.next()? = (bits >> held) as u8;
            bits &= (1 << held) - 1;
        }
    }
    // Two bits are left over; a second spelling of the same fingerprint is not taken.
    (bits == 0).then_some(digest)
}

/// Why nobody is let in.
enum Fault {
    /// Called wrongly.
    Usage,
    /// The file cannot be opened, mapped or written from.
    Io(io::Error),
    /// The file is not one to believe.
    File(&'static str),
    /// What is in it is not.
    Table(TableError),
    /// It is too old.
    Stale {
        /// How old, in seconds; negative if it is from the future.
        age: i64,
        /// How old it may be.
        max_age: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage => f.write_str(USAGE),
            Self::Io(error) => error.fmt(f),
            Self::File(why) => f.write_str(why),
            Self::Table(error) => error.fmt(f),
            Self::Stale { age, max_age } if *age < 0 => write!(
                f,
                "confirmed {} s in the future, and at most {max_age} s (max_age) are believed: look at the clock",
                age.unsigned_abs()
            ),
            Self::Stale { age, max_age } => write!(
                f,
                "confirmed {age} s ago, which is longer than the {max_age} s (max_age) that it is believed: the agent, \
                 certgate-node, has not heard from the authority since"
            ),
        }
    }
}

/// A file's bytes as they are on disk. The agent replaces the file by rename and never writes into it, so what is
/// mapped stays as it is.
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
    /// When the file was last modified, in seconds since 1970: when the agent last knew that it was not out of date.
    confirmed: i64,
}

impl Mapping {
    /// Opens, then checks the descriptor, so that what was checked is what is read.
    fn open(path: &Path) -> Result<Self, Fault> {
        // Not blocking: a FIFO in the table's place must not hang every login.
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
            if error.raw_os_error() == Some(libc::ELOOP) { Fault::File("a symbolic link") } else { Fault::Io(error) }
        })?;
        let meta = file.metadata().map_err(Fault::Io)?;
        if !meta.file_type().is_file() {
            return Err(Fault::File(if meta.file_type().is_fifo() { "a FIFO, not a file" } else { "not a file" }));
        }
        if meta.uid() != 0 {
            return Err(Fault::File("not owned by root"));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(Fault::File("writable by others than root"));
        }
        let length = usize::try_from(meta.size()).ok().filter(|length| *length <= MAX_TABLE_BYTES);
        let length = length.filter(|length| *length > 0).ok_or(Fault::Table(TableError::Length))?;
        Self::map(&file, length, meta.mtime())
    }

    fn map(file: &File, length: usize, confirmed: i64) -> Result<Self, Fault> {
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else points there.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_fd().as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(Fault::Io(io::Error::last_os_error()));
        }
        Ok(Self { start, length, confirmed })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is a mapping of `length` readable bytes that lives as long as `self`, and `map` refused a
        // failure. The file's owner, root, does not change it in place.
        unsafe { slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; no slice of it outlives `self`.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// Whether a table that was confirmed at this time is still believed. A time in the future counts like one as long ago:
/// a clock that was wrong once must not keep a table alive for ever.
fn check_age(confirmed: i64, now: i64, max_age: u64) -> Result<(), Fault> {
    let age = now.saturating_sub(confirmed);
    if max_age != 0 && age.unsigned_abs() > max_age { Err(Fault::Stale { age, max_age }) } else { Ok(()) }
}

fn run(path: &Path, words: &[&[u8]], now: i64) -> Result<(), Fault> {
    let [login, serial, key, ca, key_id] = *words else { return Err(Fault::Usage) };
    let question = Question { login, serial, key, ca, key_id };
    let mapping = Mapping::open(path)?;
    let table = Table::open(mapping.bytes()).map_err(Fault::Table)?;
    check_age(mapping.confirmed, now, table.max_age_secs())?;
    let lines = answer(&table, &question).map_err(Fault::Table)?;
    // Past the standard library's line buffer, which would make several writes of it.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(Fault::Io)?;
    File::from(stdout).write_all(lines).map_err(Fault::Io)?;
    if !lines.is_empty() {
        tell(path, &question);
    }
    Ok(())
}

/// Tells the agent, which is how it knows whose session sshd is about to open. It is told or not: nobody waits here, and
/// no login depends on it.
fn tell(table: &Path, question: &Question<'_>) {
    let (Some(serial), Some(key)) = (number(question.serial), fingerprint(question.key)) else { return };
    let notice = Notice { parent: parent_id(), serial, key, login: question.login, key_id: question.key_id };
    let (Some(bytes), Ok(socket)) = (notice.encode(), UnixDatagram::unbound()) else { return };
    if socket.set_nonblocking(true).is_ok() {
        let _ = socket.send_to(&bytes, table.with_file_name(notice::SOCKET));
    }
}

/// The whole program, at `now`, in seconds since 1970. Exit status 0 if the table could be asked, whatever the answer; 1 if
/// not; 2 if called wrongly.
/// sshd lets nobody in on 1 and 2 even if something had been printed.
#[must_use]
pub fn main(now: i64) -> u8 {
    start::prepare();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
    let (path, words) = match &words[..] {
        [b"--table", path, words @ ..] => (Path::new(OsStr::from_bytes(path)), words),
        words => (Path::new(DEFAULT_TABLE), words),
    };
    match run(path, words, now) {
        Ok(()) => 0,
        Err(fault) => {
            report(path, &fault);
            if matches!(fault, Fault::Usage) { 2 } else { 1 }
        }
    }
}

/// One line in the system's log (the journal, through /dev/log), and the same on standard error.
fn report(path: &Path, fault: &Fault) {
    let place = path.display().to_string();
    let line = match fault {
        Fault::Usage => fault.to_string(),
        fault => format!("nobody is let in by certificate: {}: {fault}", place.escape_debug()),
    };
    // Standard error may be closed; the log is what counts.
    let _ = writeln!(io::stderr(), "certgate-principals: {line}");
    let Ok(line) = CString::new(line) else { return };
    // SAFETY: three C strings that end in a zero and live as long as the process is in these calls; the format has
    // exactly one string.
    unsafe {
        libc::openlog(c"certgate-principals".as_ptr(), libc::LOG_PID, libc::LOG_AUTH);
        libc::syslog(libc::LOG_ERR, c"%s".as_ptr(), line.as_ptr());
        libc::closelog();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Fingerprint;

    #[test]
    fn fingerprints_are_read_as_openssh_writes_them_and_in_no_other_way() {
        for seed in 0..=255_u8 {
            let bytes = std::array::from_fn(|i| seed.wrapping_mul(31).wrapping_add(i as u8 * 7));
            let text = Fingerprint::from_bytes(bytes).to_string();
            assert_eq!(fingerprint(text.as_bytes()), Some(bytes));
        }
        let good = Fingerprint::from_bytes([0; 32]).to_string();
        assert_eq!(fingerprint(good.replace("SHA256", "MD5").as_bytes()), None);
        assert_eq!(fingerprint(format!("{good}=").as_bytes()), None);
        assert_eq!(fingerprint(&good.as_bytes()[..good.len() - 1]), None);
        // The last character holds four bits of the digest and two that must be zero.
        assert_eq!(fingerprint(format!("{}B", &good[..good.len() - 1]).as_bytes()), None);
        assert_eq!(fingerprint(good.replace('A', " ").as_bytes()), None);
    }

    #[test]
    fn a_table_is_believed_for_as_long_as_it_says() {
        let believed = |confirmed, now, max_age| check_age(confirmed, now, max_age).is_ok();
        assert!(believed(1000, 1100, 100));
        assert!(!believed(1000, 1101, 100));
        assert!(believed(1100, 1000, 100));
        assert!(!believed(1101, 1000, 100));
        assert!(believed(0, i64::MAX, 0));
        assert!(!believed(i64::MIN, i64::MAX, u64::MAX >> 2));
    }

    #[test]
    fn a_serial_is_what_sshd_prints() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"+1", b"-1", b" 1", b"1 ", b"18446744073709551616", b"0x1", b"1\n"] {
            assert_eq!(number(bad), None);
        }
    }
}
