//! `certgate audit verify --archive`: files of the audit log's archive, checked where they are, by whoever can read them.

use super::Problem;
use crate::{
    app::protocol::Output,
    archive::{self, Checked},
    audit::Head,
    domain::PublicKey,
};
use serde_json::json;
use std::path::PathBuf;

/// Checks files that follow one another.
pub(super) fn check(files: &[PathBuf], key: Option<&PublicKey>, json: bool) -> Result<Output, Problem> {
    let (mut problems, mut entries, mut heads) = (Vec::new(), 0, 0);
    let (mut ends, mut first, mut key) = (None::<Head>, None, key.cloned());
    for file in files {
        let Checked { header, verdict, .. } =
            archive::check(file, key.as_ref(), None).map_err(|error| ("invalid", error.to_string()))?;
        let name = file.display();
        if let Some(end) = ends.filter(|end| *end != header.after) {
            problems.push(format!(
                "{name} continues the log after entry {}, and the file before it ends with entry {}, or with another one of \
                 that number: is a file missing, or are they in another order?",
                header.after.seq, end.seq
            ));
        }
        // All of them by one key, whichever it is.
        key.get_or_insert(header.key);
        first.get_or_insert(header.after);
        problems.extend(verdict.problems.iter().map(|problem| format!("{name}: {problem}")));
        entries += verdict.entries;
        heads += verdict.signed_heads;
        ends = Some(verdict.end);
    }
    let (first, end) = (first.unwrap_or(Head::EMPTY), ends.unwrap_or(Head::EMPTY));
    let key = key.map(|key| key.fingerprint().to_string()).unwrap_or_default();
    let data = json!({ "intact": problems.is_empty(), "after": first.to_string(), "entries": entries, "head": end.to_string(),
        "signed_heads": heads, "key": key, "problems": problems });
    let text = if problems.is_empty() {
        let before = match first.seq {
            0 => String::new(),
            seq => format!(", after entry {seq}"),
        };
        format!(
            "{entries} entries and {heads} signed heads{before}, all intact, signed by {key}\n\
             the log goes on where they end: certgate audit verify --head {end}"
        )
    } else {
        problems.join("\n")
    };
    let (stdout, stderr) =
        if json { (format!("{data:#}\n"), String::new()) } else { (String::new(), format!("{text}\n")) };
    Ok(Output { stdout, stderr, exit: u8::from(!problems.is_empty()), ..Output::default() })
}
