//! Public keys: what is accepted survives its text and its wire format unchanged; the rest is refused without a panic.
#![no_main]

use certgate::domain::PublicKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = PublicKey::from_wire(data) {
        check(&key);
    }
    if let Some(key) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<PublicKey>().ok()) {
        check(&key);
    }
});

fn check(key: &PublicKey) {
    let text = key.to_string();
    let again: PublicKey = text.parse().expect("what was printed can be read");
    assert_eq!(again, *key);
    assert_eq!(again.to_string(), text);
    assert_eq!(PublicKey::from_wire(&key.to_wire()).expect("what was written can be read"), *key);
    assert_eq!(again.fingerprint(), key.fingerprint());
}
