//! Where the commands of the table are given: three projects in two organizations with all that a line can name, and a
//! caller of each kind.

use super::{
    super::authority_support::{PEER, World, key},
    Who,
};
use certgate::{
    app::{
        Asker,
        protocol::{AuthenticateAnswer, AuthenticateRequest, CommandAnswer, Output, Presented},
    },
    domain::SessionId,
};
use std::collections::BTreeMap;

/// Names at a place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Names(BTreeMap<&'static str, String>);

impl Names {
    pub(super) fn fill(&self, line: &str) -> String {
        self.0.iter().fold(line.to_owned(), |line, (name, value)| line.replace(&format!("{{{name}}}"), value))
    }

    /// A text with these names, whole words, where it has those of `here`.
    pub(super) fn instead_of(&self, here: &Self, text: &str) -> String {
        let word = |word: &str| {
            let name = here.0.iter().find(|(_, value)| *value == word.trim_end()).map(|(name, _)| &self.0[name]);
            name.map_or(word.to_owned(), |name| word.replace(word.trim_end(), name))
        };
        text.split_inclusive(char::is_whitespace).map(word).collect()
    }
}

/// Three projects in two organizations, each with a cluster, a node, a volume and a member who has a certificate and an
/// open session; and somebody of each kind.
pub(super) struct Site {
    pub(super) world: World,
    _stream: certgate::app::Stream,
    askers: BTreeMap<Who, Asker>,
    pub(super) emails: BTreeMap<Who, String>,
    keys: BTreeMap<Who, u8>,
    serials: BTreeMap<String, String>,
    sessions: BTreeMap<String, SessionId>,
}

const PROJECTS: [(&str, &str, &str); 3] =
    [("acme", "ml", "h100"), ("acme", "research", "b200"), ("other", "lab", "a100")];

impl Site {
    pub(super) async fn new() -> Self {
        let world = World::with_machinery().await;
        let stream = world.gateway(vec![]);
        for org in ["acme", "other"] {
            world.operator(&format!("org create {org}")).await;
        }
        let people = [
            ("admin1", 1, "acme"),
            ("user1", 2, "acme"),
            ("outsider", 3, "acme"),
            ("admin2", 4, "acme"),
            ("admin3", 5, "other"),
            ("suspended", 6, "acme"),
            ("keyless", 7, "acme"),
            ("certified", 8, "acme"),
            ("member1", 11, "acme"),
            ("member2", 12, "acme"),
            ("member3", 13, "other"),
            ("newcomer", 14, "acme"),
        ];
        for (name, number, org) in people {
            let line = format!("user create {name}@{org}.example --org {org} --name {name} --key '{}'", key(number));
            world.operator(&line).await;
        }
        for (n, (org, project, cluster)) in PROJECTS.into_iter().enumerate() {
            let admin = ["admin1@acme.example", "admin2@acme.example", "admin3@other.example"][n];
            world.operator(&format!("project create {org}/{project} --admin {admin}")).await;
            world.operator(&format!("cluster create {org}/{project} {cluster}")).await;
            world.operator(&format!("volume create {org}/{project} data --size 1T")).await;
            world.operator(&format!("member add {org}/{project} member{}@{org}.example", n + 1)).await;
            let number = u8::try_from(n).unwrap();
            let line =
                format!("service create {org}/{project} ci --source-address {PEER} --key '{}'", key(31 + number));
            world.operator(&line).await;
            world.node(&format!("login-0.{cluster}.{org}"), 50 + number).await;
            world.token(&format!("token.{cluster}.{org}")).await;
        }
        let robot = format!("service create acme/ml robot --source-address {PEER} --key '{}'", key(9));
        world.operator(&robot).await;
        world.operator("member add acme/ml user1@acme.example").await;
        for admin in ["suspended", "keyless", "certified"] {
            world.operator(&format!("member add acme/ml {admin}@acme.example --role admin")).await;
        }
        let mut site = Self {
            world,
            _stream: stream,
            askers: [(Who::Operator, Asker::Operator { uid: 0 })].into(),
            emails: BTreeMap::new(),
            keys: BTreeMap::new(),
            serials: BTreeMap::new(),
            sessions: BTreeMap::new(),
        };
        site.connect().await;
        site.lose().await;
        site
    }

    /// The same again, with sessions of its own.
    pub(super) async fn again(&self) -> Self {
        let world = self.world.fork().await;
        let mut site = Self {
            _stream: world.gateway(vec![]),
            world,
            askers: self.askers.clone(),
            emails: self.emails.clone(),
            keys: self.keys.clone(),
            serials: self.serials.clone(),
            sessions: BTreeMap::new(),
        };
        for (email, session) in &self.sessions {
            let number = u8::try_from(u128::from_str_radix(&session.to_string(), 16).unwrap()).unwrap();
            if ![Who::Suspended, Who::Keyless].iter().any(|who| self.keys[who] == number) {
                site.open(email.clone(), number).await;
            }
        }
        site
    }

    /// Everybody connects, gets a certificate and opens a session, as far as they can.
    async fn connect(&mut self) {
        let callers = [
            (Who::Admin, "admin1@acme.example", 1),
            (Who::Member, "user1@acme.example", 2),
            (Who::Outsider, "outsider@acme.example", 3),
            (Who::Suspended, "suspended@acme.example", 6),
            (Who::Keyless, "keyless@acme.example", 7),
            (Who::Certificate, "certified@acme.example", 8),
            (Who::Service, "robot@ml.acme.service", 9),
        ];
        for (who, email, number) in callers {
            let asker = self.world.asker(number).await;
            self.emails.insert(who, email.to_owned());
            self.keys.insert(who, number);
            self.askers.insert(who, asker);
        }
        let members = PROJECTS
            .map(|(org, ..)| org)
            .into_iter()
            .zip(1..)
            .map(|(org, n)| (format!("member{n}@{org}.example"), 10 + n));
        let callers = self.emails.iter().map(|(who, email)| (email.clone(), self.keys[who]));
        let everybody: Vec<(String, u8)> = callers.chain(members).collect();
        for (email, number) in everybody {
            let issued = self.world.user(number, "cert --json").await;
            if issued.exit != 0 {
                continue;
            }
            let issued: serde_json::Value = serde_json::from_str(&issued.stdout).unwrap();
            self.serials.insert(email.clone(), issued["serial"].to_string());
            self.open(email, number).await;
            if number == self.keys[&Who::Certificate] {
                let blob = issued["certificate"].as_str().unwrap().split(' ').nth(1).unwrap().to_owned();
                self.askers.insert(Who::Certificate, self.with_certificate(blob).await);
            }
        }
    }

    async fn open(&mut self, email: String, number: u8) {
        let cluster = match number {
            12 => "b200.acme",
            13 => "a100.other",
            _ => "h100.acme",
        };
        let session = self.world.open(number, number.into(), cluster).await.unwrap();
        self.sessions.insert(email, session);
    }

    async fn lose(&self) {
        self.world.operator("user suspend suspended@acme.example").await;
        let fingerprint = key(self.keys[&Who::Keyless]).fingerprint();
        self.world.operator(&format!("key remove {fingerprint} --account keyless@acme.example --yes")).await;
    }

    async fn with_certificate(&self, blob: String) -> Asker {
        let peer = PEER.parse().unwrap();
        let presented = Presented::Certificate(blob);
        let request = AuthenticateRequest { connection: "c1".into(), peer, presented, joining: false };
        match self.world.app.authenticate(request).await {
            AuthenticateAnswer::Account { credential, .. } => {
                Asker::Account { credential, peer, connection: "c1".into() }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The names that a line may have, for a caller at a place.
    pub(super) fn names(&self, who: Who, place: usize) -> Names {
        let (org, project, cluster) = PROJECTS[place];
        let number = u8::try_from(place).unwrap() + 1;
        let member = format!("member{number}@{org}.example");
        // What is an operator's own is the member's.
        let own = self.emails.get(&who).unwrap_or(&member);
        let own_key = self.keys.get(&who).copied().unwrap_or(10 + number);
        let nothing = || "18446744073709551615".to_owned();
        Names(BTreeMap::from([
            ("org", org.to_owned()),
            ("project", format!("{org}/{project}")),
            ("cluster", format!("{cluster}.{org}")),
            ("node", format!("login-0.{cluster}.{org}")),
            ("key", key(10 + number).fingerprint().to_string()),
            ("serial", self.serials[&member].clone()),
            ("session", self.sessions[&member].to_string()),
            ("service", format!("ci@{project}.{org}.service")),
            ("service-key", key(30 + number).fingerprint().to_string()),
            ("peer", PEER.to_owned()),
            ("own-key", key(own_key).fingerprint().to_string()),
            ("own-serial", self.serials.get(own).cloned().unwrap_or_else(nothing)),
            ("own-session", self.sessions.get(own).map_or("0".repeat(32), ToString::to_string)),
            ("self", own.clone()),
            ("new-key", key(20).to_string()),
            ("document", "# nothing yet\n".into()),
            (
                "description",
                format!(
                    "[[projects]]\nname = \"{org}/{project}\"\n[[projects.volumes]]\nname = \"more\"\nsize = \"1T\"\n"
                ),
            ),
            ("newcomer", "newcomer@acme.example".into()),
            ("suspended", "suspended@acme.example".into()),
            ("member", member),
        ]))
    }

    /// Names like those, of things that do not exist; emails, which an admin has to know, stay.
    pub(super) fn nowhere(names: &Names) -> Names {
        let mut nowhere = names.clone();
        let (org, key) = ("nowhere", key(99).fingerprint().to_string());
        nowhere.0.extend([
            ("org", org.to_owned()),
            ("project", format!("{org}/none")),
            ("cluster", format!("none.{org}")),
            ("node", format!("login-0.none.{org}")),
            ("service", format!("ci@none.{org}.service")),
            ("key", key),
            ("serial", "18446744073709551614".into()),
            ("session", "f".repeat(32)),
        ]);
        nowhere
    }

    pub(super) async fn run(&self, who: Who, line: &str) -> Output {
        let (line, input) = line.split_once(" < ").map_or((line, None), |(line, input)| (line, Some(input)));
        let answer = async |input| self.world.answer(&self.askers[&who], line, None, input).await;
        match answer(None).await {
            CommandAnswer::Output(output) => output,
            CommandAnswer::Input { .. } => match answer(input).await {
                CommandAnswer::Output(output) => output,
                CommandAnswer::Input { prompt, .. } => panic!("{line:?} asks again: {prompt}"),
            },
        }
    }
}
