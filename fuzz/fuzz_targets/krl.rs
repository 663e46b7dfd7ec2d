//! Key revocation lists: whatever is read is refused or understood, without a panic and within bounds, and what was
//! understood is written and read as the same again.
#![no_main]

use certgate::krl::Krl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut krl) = Krl::parse(data) else { return };
    let again = Krl::parse(&krl.to_bytes()).expect("what is written can be read");
    // A list without serial numbers is written without their CAs.
    if krl.serials.is_empty() {
        krl.authorities.clear();
    }
    assert_eq!(again, krl);
});
