//! Join tokens: what is accepted survives its text unchanged; the rest is refused without a panic, and neither shows
//! the secret.
#![no_main]

use certgate::app::token::TokenText;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(token) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<TokenText>().ok()) {
        check(&token);
    }
    // Behind the base64.
    if let Ok(token) = serde_json::from_slice::<TokenText>(data) {
        check(&token);
    }
});

fn check(token: &TokenText) {
    let again = token.to_string().parse::<TokenText>();
    // A token that is longer than any that is read is refused, and not cut.
    assert!(again.is_err() && token.to_string().len() > 16_000 || again.is_ok_and(|again| again == *token));
}
