//! `certgate backup`: the authority makes it; here it becomes a file, whole or not at all.

use super::{Problem, unreachable};
use crate::app::{
    authority::Console,
    protocol::{BackupRequest, Output, Refusal},
};
use serde_json::json;
use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Has a backup made.
pub(super) async fn make(
    authority: &impl Console,
    request: &BackupRequest,
    file: &Path,
    json: bool,
) -> Result<Output, Problem> {
    let length = if file == Path::new("-") {
        if json {
            return Err(("usage", "--json and a backup on standard output do not go together: name a file".into()));
        }
        if io::stdout().is_terminal() {
            return Err(("usage", "a backup is not for a terminal: name a file, or > FILE".into()));
        }
        transfer(authority, request, &mut io::stdout().lock()).await?
    } else {
        into_file(authority, request, file).await?
    };
    let keys = if request.with_ca_keys { "with the CA keys" } else { "without the CA keys" };
    let name = file.display();
    let mut text = if file == Path::new("-") {
        format!("{length} bytes, {keys}")
    } else {
        format!("{name}: {length} bytes, {keys}")
    };
    if !request.with_ca_keys {
        text.push_str(
            "\nAn authority that is restored from it needs the key files too (user_ca, host_ca, bundle_key, audit_key): keep \
             them elsewhere, or make one with --with-ca-keys",
        );
    }
    text.push_str(
        "\nNot in it: the configuration (/etc/certgate), the gateways' host keys (/var/lib/certgate-gateway), which nodes and \
         people know them by, and what was archived of the audit log",
    );
    let data = json!({ "file": file, "bytes": length, "with_ca_keys": request.with_ca_keys, "to": request.to });
    let stdout = if json { format!("{data:#}\n") } else { String::new() };
    Ok(Output { stdout, stderr: format!("{text}\n"), ..Output::default() })
}

/// Under another name until it is whole and on disk.
async fn into_file(authority: &impl Console, request: &BackupRequest, file: &Path) -> Result<u64, Problem> {
    let failed = |path: &Path, error: io::Error| ("failed", format!("{}: {error}", path.display()));
    if file.symlink_metadata().is_ok() {
        return Err((
            "conflict",
            format!("{} is there already; a backup is never written over another file", file.display()),
        ));
    }
    let mut part = OsString::from(file.as_os_str());
    part.push(".part");
    let part = PathBuf::from(part);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
    let mut out = opened.map_err(|error| failed(&part, error))?;
    let written = transfer(authority, request, &mut out).await.and_then(|length| {
        let synced = out.sync_all().map_err(|error| failed(&part, error));
        synced.and_then(|()| std::fs::rename(&part, file).map_err(|error| failed(file, error))).map(|()| length)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
        return written;
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(dir, error))?;
    written
}

async fn transfer(authority: &impl Console, request: &BackupRequest, out: &mut impl Write) -> Result<u64, Problem> {
    let mut counting = Progress::new(out);
    let made = authority.backup(request, &mut counting).await;
    counting.end();
    match made.map_err(unreachable)? {
        Ok(length) => Ok(length),
        Err(Refusal { message, .. }) => Err(("refused", message)),
    }
}

/// Shows a person how far it is, once a second.
struct Progress<'a, W: Write> {
    out: &'a mut W,
    bytes: u64,
    /// None: nobody sits there.
    shown: Option<Instant>,
    any: bool,
}

impl<'a, W: Write> Progress<'a, W> {
    #[allow(clippy::disallowed_methods, reason = "only what is shown depends on it")]
    fn new(out: &'a mut W) -> Self {
        let shown = io::stderr().is_terminal().then(Instant::now);
        Self { out, bytes: 0, shown, any: false }
    }

    fn end(&self) {
        if self.any {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

impl<W: Write> Write for Progress<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        if let Some(shown) = self.shown.filter(|shown| shown.elapsed() >= Duration::from_secs(1)) {
            let _ = write!(io::stderr(), "\r{} MiB", self.bytes >> 20);
            self.any = true;
            self.shown = Some(shown + shown.elapsed());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
