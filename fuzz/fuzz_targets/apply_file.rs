//! Files of descriptions: whatever is in one, it is planned or refused without a panic; what was planned leads to a
//! directory for which nothing is left to do; and that directory, described, is itself.
#![no_main]

use arbitrary::Arbitrary;
use certgate::{
    app::apply::{Circumstances, Described, Extent, Plan, Problems, plan, write},
    domain::{Actor, Directory, Timestamp},
    policy::CertificateSettings,
};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

/// The shipped example: what most inputs are made of, and the directory that they are applied to.
const EXAMPLE: &str = include_str!("../../config/directory.toml");

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    raw: &'a str,
    /// Where something else stands in the example: from, how much, what.
    edits: Vec<(u16, u8, Other<'a>)>,
    prune: bool,
}

#[derive(Arbitrary, Debug)]
enum Other<'a> {
    Text(&'a str),
    /// Another part of the example.
    Part(u16, u8),
}

fuzz_target!(|input: Input<'_>| {
    let directory = directory();
    check(&Directory::default(), input.raw, input.prune);
    let edited = edited(&input.edits);
    check(directory, &edited, input.prune);
    check(&Directory::default(), &edited, input.prune);
});

fn how(prune: bool) -> Circumstances {
    let now = Timestamp::from_secs(1_800_000_000);
    Circumstances {
        by: Actor::Operator { uid: 0 },
        now,
        denied_until: Timestamp::from_secs(1_800_003_600),
        settings: CertificateSettings {
            gateway_addresses: Some("198.51.100.1".parse().expect("an address")),
            ..CertificateSettings::default()
        },
        prune,
    }
}

fn planned(directory: &Directory, text: &str, prune: bool) -> Result<Plan, Problems> {
    plan(directory, &Described::read(text)?, &how(prune))
}

fn directory() -> &'static Directory {
    static DIRECTORY: OnceLock<Directory> = OnceLock::new();
    DIRECTORY.get_or_init(|| planned(&Directory::default(), EXAMPLE, false).expect("the example").after)
}

fn edited(edits: &[(u16, u8, Other<'_>)]) -> String {
    let mut text: Vec<char> = EXAMPLE.chars().collect();
    let example = text.clone();
    let part = |from: u16, length: u8| {
        let from = usize::from(from) % example.len();
        &example[from..(from + usize::from(length)).min(example.len())]
    };
    for (from, length, other) in edits.iter().take(8) {
        let from = usize::from(*from) % (text.len() + 1);
        let to = (from + usize::from(*length)).min(text.len());
        match other {
            Other::Text(other) => drop(text.splice(from..to, other.chars())),
            Other::Part(start, length) => drop(text.splice(from..to, part(*start, *length).iter().copied())),
        }
    }
    text.into_iter().collect()
}

fn check(directory: &Directory, text: &str, prune: bool) {
    let plan = match planned(directory, text, prune) {
        Ok(plan) => plan,
        Err(problems) => {
            let told = problems.to_string();
            let lines = text.matches('\n').count() + 1;
            for problem in problems.told() {
                assert!((1..=lines).contains(&problem.line), "{problem}");
                assert!(!problem.text.chars().any(char::is_control), "{problem}");
            }
            assert!(told.ends_with("nothing was changed"));
            return;
        }
    };
    let all: Vec<_> = plan.steps.iter().flat_map(|step| &step.mutations).collect();
    assert_eq!(directory.after(all.iter().copied()).is_ok(), true);
    let again = planned(&plan.after, text, prune).expect("what was planned before");
    assert!(again.steps.is_empty(), "{:?}", again.steps);
    let described = write(&plan.after, &Extent::All).expect("all there is");
    let same = planned(&plan.after, &described, prune).expect("a directory described");
    assert!(same.steps.is_empty(), "{:?}", same.steps);
}
