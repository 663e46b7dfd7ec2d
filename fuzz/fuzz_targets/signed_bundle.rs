//! Signed bundles: whatever is received is refused or read, and whatever is read compiles or is refused, without a
//! panic. The input is signed as well, so that what lies behind the signature is reached.
#![no_main]

use certgate::bundle::{Bundle, BundleKey, SignedBundle, compile, table::Table};
use ed25519_dalek::SigningKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let key = SigningKey::from_bytes(&[7; 32]);
    let trusted = [BundleKey::from(&key)];
    let cluster = "h100.acme".parse().expect("a good name");
    if let Ok(signed) = serde_json::from_slice::<SignedBundle>(data) {
        // Nobody but the authority can sign.
        assert!(signed.open(&trusted, &cluster, None).is_err());
    }
    let Ok(bundle) = serde_json::from_slice::<Bundle>(data) else { return };
    let signed = SignedBundle::sign(&bundle, &key).expect("as small as the input");
    if let Ok(opened) = signed.open(&trusted, &cluster, None) {
        assert_eq!(opened, bundle);
    }
    if let Ok(bytes) = compile(&bundle) {
        assert!(Table::open(&bytes).is_ok_and(|table| table.version() == bundle.version.0));
    }
});
