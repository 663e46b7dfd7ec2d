//! The access table's reader: any bytes get an answer without a panic, and a table that was compiled answers exactly
//! as a plain map does.
#![no_main]

use arbitrary::Arbitrary;
use certgate::{
    bundle::{Bundle, DeniedKey, DeniedSerial, FORMAT, Login, SharedLogin, compile, table::Table},
    domain::{Fingerprint, Role, Serial, Timestamp, Uid, Version},
};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Arbitrary, Debug)]
struct Input {
    raw: Vec<u8>,
    version: u64,
    /// Names by number; each with how many projects.
    own: BTreeMap<u16, u8>,
    shared: BTreeMap<u8, BTreeSet<u8>>,
    serials: BTreeSet<u64>,
    keys: BTreeSet<u8>,
    asked: Vec<(u16, u64, u8)>,
    /// Where compiled tables are damaged.
    damage: Vec<(u32, u8)>,
}

fuzz_target!(|input: Input| {
    if let Ok(table) = Table::open(&input.raw) {
        ask_everything(&table, &input);
    }
    let bundle = bundle(&input);
    let mut bytes = compile(&bundle).expect("a bundle of good names");
    check(&Table::open(&bytes).expect("what was compiled"), &input);
    for (place, value) in &input.damage {
        let place = *place as usize % bytes.len();
        bytes[place] ^= value;
    }
    if let Ok(table) = Table::open(&bytes) {
        ask_everything(&table, &input);
    }
});

fn lines(name: &str, projects: u8) -> Vec<String> {
    (0..projects % 8).map(|n| format!("{name}@acme/p{n}")).collect()
}

fn bundle(input: &Input) -> Bundle {
    let until = Timestamp::from_secs(1);
    let own = input.own.iter().map(|(n, projects)| Login {
        name: format!("u{n}").parse().expect("a good name"),
        uid: Uid(u32::from(*n)),
        role: Role::Member,
        principals: lines(&format!("u{n}"), *projects),
    });
    let shared = input.shared.iter().map(|(n, users)| SharedLogin {
        name: format!("s{n}"),
        principals: users.iter().map(|user| format!("u{user}@acme/p")).collect(),
    });
    Bundle {
        format: FORMAT,
        cluster: "h100.acme".parse().expect("a good name"),
        version: Version(input.version),
        issued: until,
        logins: own.collect(),
        groups: vec![],
        shared_logins: shared.collect(),
        leaving: vec![],
        denied_serials: input.serials.iter().map(|s| DeniedSerial { serial: Serial(*s), until }).collect(),
        denied_keys: input.keys.iter().map(|k| DeniedKey { key: Fingerprint::from_bytes([*k; 32]), until }).collect(),
        user_ca: vec![],
        host_ca: vec![],
    }
}

fn check(table: &Table<'_>, input: &Input) {
    assert_eq!(table.version(), input.version);
    let asked = input.asked.iter().map(|asked| asked.0).chain(input.own.keys().copied());
    for n in asked {
        let name = format!("u{n}");
        let found = table.login(name.as_bytes()).expect("undamaged");
        let expected = input
            .own
            .get(&n)
            .map(|projects| lines(&name, *projects).iter().map(|line| format!("{line}\n")).collect::<String>());
        assert_eq!(found.map(|entry| entry.principals), expected.as_deref().map(str::as_bytes));
        assert!(found.is_none_or(|entry| !entry.shared));
    }
    for n in 0..=255 {
        let found = table.login(format!("s{n}").as_bytes()).expect("undamaged");
        assert_eq!(found.is_some_and(|entry| entry.shared), input.shared.contains_key(&n));
        assert_eq!(table.key_is_denied(&[n; 32]), Ok(input.keys.contains(&n)));
        assert_eq!(table.is_user_ca(&[n; 32]), Ok(false));
    }
    for serial in input.asked.iter().map(|asked| asked.1).chain(input.serials.iter().copied()) {
        assert_eq!(table.serial_is_denied(serial), Ok(input.serials.contains(&serial)));
    }
}

fn ask_everything(table: &Table<'_>, input: &Input) {
    for (name, serial, key) in &input.asked {
        let _ = table.login(format!("u{name}").as_bytes());
        let _ = table.login(&serial.to_le_bytes());
        let _ = table.serial_is_denied(*serial);
        let _ = table.key_is_denied(&[*key; 32]);
        let _ = table.is_user_ca(&[*key; 32]);
    }
}
