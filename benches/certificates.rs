//! Certificates per second, durable before they are handed out, as gateways ask for them: over the real socket, of the
//! real process, on a real disk. Beside `ssh-keygen -s` and the cost of one fsync, in the same minutes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use certgate::{
    api::client::GatewayClient,
    app::protocol::Credential,
    domain::{PublicKey, Timestamp},
    store::{SqliteStore, Store},
};
use ed25519_dalek::SigningKey;
use ssh_key::{
    Certificate, Fingerprint, HashAlg,
    public::{Ed25519PublicKey, KeyData},
};
use std::{
    collections::HashSet,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::{
    ROUNDS,
    authority::{Authority, Caller, authenticate},
    cpu_seconds,
    disk::{Sync, place},
    median, micros, progress, quantile,
    report::{Mark, Unit, note, quantity, row, row_beside},
};

/// Callers at the socket at once.
const CALLERS: usize = 64;
/// How long they ask, each round.
const LOAD: Duration = Duration::from_secs(3);
/// Certificates for one caller alone, each round.
const ALONE: usize = 400;
/// Syncs, each round.
const SYNCS: usize = 400;
/// How long ssh-keygen signs, each round.
const KEYGEN: Duration = Duration::from_secs(1);

/// One round.
#[derive(Debug)]
struct Round {
    append: f64,
    overwrite: f64,
    alone: Vec<f64>,
    rate: f64,
    latencies: Vec<f64>,
    authority_cpu: f64,
    callers_cpu: f64,
    keygen: f64,
}

fn main() {
    if support::asked_for() {
        // As many threads as the machine has cores, like the authority: they share them.
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(bench());
    }
}

async fn bench() {
    let dir = place();
    let state = dir.path().join("state");
    let authority = Authority::start(&state);
    let gateway = authority.gateway();
    let callers = people(&authority, &gateway).await;
    let ca = authority_key(&authority).await;
    let mut sync = Sync::new(dir.path());
    let keygen = Keygen::new(dir.path());

    let mut callers: Vec<Caller> = callers.iter().map(|person| Caller::new(&authority, person, "cert")).collect();
    let mut serials = HashSet::new();
    for caller in &mut callers {
        serials.insert(certificate(caller).1);
    }
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let (append, overwrite) = (sync.append(SYNCS), sync.overwrite(SYNCS));
        let alone = alone(&mut callers[0], &mut serials);
        let round = load(&authority, &mut callers, &ca, &mut serials);
        let round = Round { append, overwrite, alone, keygen: keygen.rate(), ..round };
        progress(&format!(
            "round {number} of {ROUNDS}: {:.0} certificates/s, {:.0} µs alone, {:.0} µs a sync, ssh-keygen {:.0}/s",
            round.rate,
            median(&round.alone),
            round.append,
            round.keygen
        ));
        rounds.push(round);
    }
    authority.stop();
    check_records(&state, &serials).await;
    report(&rounds, serials.len());
}

/// 64 accounts, each in two projects.
async fn people(authority: &Authority, gateway: &GatewayClient) -> Vec<Credential> {
    authority.operator(&["org", "create", "acme"]).await;
    let mut callers = Vec::new();
    for n in 0..CALLERS {
        let (email, user) = (format!("user{n}@acme.example"), format!("user{n}"));
        let key = key(u8::try_from(n).unwrap());
        let (own, shared) = (format!("acme/project-{n}"), "acme/shared");
        let create = ["user", "create", &email, "--org", "acme", "--name", &user, "--key", &key.to_string()];
        authority.operator(&create).await;
        authority.operator(&["project", "create", &own, "--admin", &email]).await;
        match n {
            0 => authority.operator(&["project", "create", shared, "--admin", &email]).await,
            _ => authority.operator(&["member", "add", shared, &email]).await,
        };
        callers.push(authenticate(gateway, &key).await);
    }
    callers
}

fn key(seed: u8) -> PublicKey {
    let public = SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes();
    PublicKey::from_key_data(&KeyData::Ed25519(Ed25519PublicKey(public))).unwrap()
}

async fn authority_key(authority: &Authority) -> Fingerprint {
    let shown = authority.operator(&["ca", "show", "--json"]).await;
    let keys: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let user: PublicKey = keys["user"].as_str().unwrap().parse().unwrap();
    user.key_data().fingerprint(HashAlg::Sha256)
}

/// A certificate as `ssh BASTION cert` prints it, and its serial number.
fn certificate(caller: &mut Caller) -> (String, u64) {
    let output = caller.ask();
    let serial = output.stderr.strip_prefix("serial ").and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap();
    (output.stdout, serial)
}

/// How long each of a number of certificates takes when nobody else asks, in µs.
fn alone(caller: &mut Caller, serials: &mut HashSet<u64>) -> Vec<f64> {
    let mut costs = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let begun = Instant::now();
        let (_, serial) = certificate(caller);
        costs.push(micros(begun.elapsed()));
        assert!(serials.insert(serial), "serial {serial} was given out twice");
    }
    costs
}

/// All callers at once; each asks again as soon as it has its answer.
fn load(authority: &Authority, callers: &mut [Caller], ca: &Fingerprint, serials: &mut HashSet<u64>) -> Round {
    let before = [cpu_seconds(authority.pid()), cpu_seconds(std::process::id())];
    let begun = Instant::now();
    let ask = |caller: &mut Caller| {
        let (mut given, mut latencies, mut last) = (Vec::new(), Vec::new(), String::new());
        while begun.elapsed() < LOAD {
            let asked = Instant::now();
            let (text, serial) = certificate(caller);
            latencies.push(micros(asked.elapsed()));
            given.push(serial);
            last = text;
        }
        (given, latencies, last)
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = callers.iter_mut().map(|caller| scope.spawn(move || ask(caller))).collect();
        asking.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu = [cpu_seconds(authority.pid()) - before[0], cpu_seconds(std::process::id()) - before[1]];
    let (mut count, mut latencies) = (0.0, Vec::new());
    for (given, waited, last) in answers {
        // The last of each caller is looked at closely, and every serial number is a new one.
        let certificate = Certificate::from_openssh(last.trim()).unwrap();
        certificate.validate_at(certificate.valid_after() + 1, [ca]).unwrap();
        assert_eq!(certificate.valid_principals().len(), 2);
        for serial in given {
            assert!(serials.insert(serial), "serial {serial} was given out twice");
            count += 1.0;
        }
        latencies.extend(waited);
    }
    Round {
        rate: count / elapsed,
        latencies,
        authority_cpu: cpu[0] / count * 1e6,
        callers_cpu: cpu[1] / count * 1e6,
        append: 0.0,
        overwrite: 0.0,
        alone: Vec::new(),
        keygen: 0.0,
    }
}

/// OpenSSH's own way to make a certificate: one process for each, and no record of it.
struct Keygen<'a> {
    dir: &'a Path,
}

impl<'a> Keygen<'a> {
    fn new(dir: &'a Path) -> Self {
        for name in ["ca", "user"] {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(name));
            assert!(command.status().unwrap().success());
        }
        Self { dir }
    }

    /// Certificates per second, one after the other on each core.
    fn rate(&self) -> f64 {
        let cores = std::thread::available_parallelism().unwrap().get();
        let begun = Instant::now();
        let sign = |core: usize| {
            // Each beside its own copy of the public key: ssh-keygen names the certificate after it.
            let subject = self.dir.join(format!("user{core}.pub"));
            std::fs::copy(self.dir.join("user.pub"), &subject).unwrap();
            let mut count = 0_u32;
            while begun.elapsed() < KEYGEN {
                let mut command = Command::new("ssh-keygen");
                command.arg("-q").arg("-s").arg(self.dir.join("ca")).args(["-I", "user0", "-V", "-1m:+5m", "-n"]);
                command.arg("user0@acme/project-0,user0@acme/shared").arg(&subject).stderr(Stdio::null());
                assert!(command.status().unwrap().success());
                count += 1;
            }
            f64::from(count)
        };
        let count: f64 = std::thread::scope(|scope| {
            let signing: Vec<_> = (0..cores).map(|core| scope.spawn(move || sign(core))).collect();
            signing.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        count / begun.elapsed().as_secs_f64()
    }
}

/// That what was handed out is on record.
async fn check_records(state: &Path, serials: &HashSet<u64>) {
    let (commits, _committed) = tokio::sync::mpsc::unbounded_channel();
    let store = tokio::task::block_in_place(|| SqliteStore::open(state, commits)).unwrap();
    let records = store.live_certificates(Timestamp::from_secs(0)).await.unwrap();
    let recorded: HashSet<u64> = records.iter().map(|record| record.serial.0).collect();
    assert!(serials.is_subset(&recorded), "a certificate was handed out that is not on record");
    tokio::task::block_in_place(|| drop(store));
}

fn report(rounds: &[Round], handed_out: usize) {
    let over = |value: fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    let keygen = format!(
        "ssh-keygen -s, one process on each core: {}, {} less",
        quantity(over(|r| r.keygen), Unit::PerSecond),
        quantity(over(|r| r.rate / r.keygen), Unit::Times)
    );
    row_beside(
        "certificates, 64 callers at the socket",
        over(|r| r.rate),
        Unit::PerSecond,
        Mark::AtLeast(8000.0),
        &keygen,
    );
    row("  one answer, median", over(|r| median(&r.latencies)) / 1e3, Unit::Millis, Mark::None);
    row("  one answer, 99 of 100", over(|r| quantile(&r.latencies, 0.99)) / 1e3, Unit::Millis, Mark::None);
    row("  CPU of the authority for each", over(|r| r.authority_cpu), Unit::Micros, Mark::None);
    row("  CPU of the 64 callers for each", over(|r| r.callers_cpu), Unit::Micros, Mark::None);
    let sync = format!(
        "one fsync (4 kB appended, fdatasync): {}; in place: {}",
        quantity(over(|r| r.append), Unit::Micros),
        quantity(over(|r| r.overwrite), Unit::Micros)
    );
    row_beside("one caller alone, median", over(|r| median(&r.alone)), Unit::Micros, Mark::None, &sync);
    row("  times one fsync", over(|r| median(&r.alone) / r.append), Unit::Times, Mark::AtMost(1.5));
    note(&format!(
        "Medians of {ROUNDS} rounds; in each, in turn: syncs, one caller, 64 callers, ssh-keygen. The callers are \
         threads of one process that shares the cores with the authority, each with a request made beforehand. {handed_out} certificates were handed out; all serial \
         numbers differ, and each has its record in the database."
    ));
}
