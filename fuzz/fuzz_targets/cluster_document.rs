//! Configuration documents of clusters: what is taken survives being written again and taken again, as text and as what it
//! says; the rest is refused in one line without a panic.
#![no_main]

use certgate::domain::{ClusterKind, Document, MAX_DOCUMENT, Specification};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for kind in [ClusterKind::Slurm, ClusterKind::Kubernetes] {
        match Document::parse(text, kind) {
            Ok(document) => {
                assert!(document.text().len() <= MAX_DOCUMENT);
                assert_eq!(document.text().trim_end_matches('\n'), text.replace("\r\n", "\n").trim_end_matches('\n'));
                // As the store keeps it.
                let again = Document::parse(document.text(), kind).expect("what was taken is taken again");
                assert_eq!(again, document);
                // As the site's machinery is told it.
                let told = serde_json::to_string(document.specification()).expect("a specification can be written");
                let read: Specification = serde_json::from_str(&told).expect("and read");
                assert_eq!(read, *document.specification());
            }
            Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
        }
    }
});
