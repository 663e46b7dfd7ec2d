//! The permission table of PRODUCT.md, at the level of commands: each command of the grammar, for each kind of caller, at
//! each kind of place, with the answer written down by hand. Nothing here is computed by the code that decides.
//!
//! A new command has no row, which fails a test: add its line to [`TABLE`], with the answers that it should have, and a
//! name to [`Site::names`] if it needs one. A new kind of caller is a variant of [`Who`] and a group of letters in each
//! row.

mod site;

use certgate::{
    audit::{Entry, Event, Outcome},
    command,
};
use site::Site;
use std::collections::BTreeSet;

/// What a command does when it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// Looks, and leaves no trace.
    Look,
    /// Looks, at what a change would do: refused, it is recorded as that is.
    Try(&'static str),
    /// Changes the directory; done or refused, the audit log has it under this name.
    Change(&'static str),
    /// The same, but what it changes is not in the directory.
    Act(&'static str),
    /// Changes the directory; done, the log has it under the first name and what came of it under the others, refused
    /// under the first alone.
    Changes(&'static [&'static str]),
}
use Does::{Act, Change, Changes, Look, Try};

/// What goes with something is on record each by itself; several of a kind stand for one here.
const PROJECT_GONE: [&str; 5] = ["project.delete", "node.remove", "cluster.delete", "volume.delete", "service.delete"];
const CLUSTER_GONE: [&str; 2] = ["cluster.delete", "node.remove"];

/// Who asks. Those who have a project have `acme/ml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// On the bastion.
    Operator,
    /// An admin of the project.
    Admin,
    /// A member of it.
    Member,
    /// An account of the same organization that is in no project.
    Outsider,
    /// An admin of the project whose account is suspended.
    Suspended,
    /// An admin of the project who has lost all keys since the connection began.
    Keyless,
    /// An admin of the project who came with a certificate.
    Certificate,
    /// A service account of the project.
    Service,
}

const CALLERS: [Who; 8] = [
    Who::Operator,
    Who::Admin,
    Who::Member,
    Who::Outsider,
    Who::Suspended,
    Who::Keyless,
    Who::Certificate,
    Who::Service,
];

/// Where, in the order of the letters: the caller's own project, another one of the organization, one of another
/// organization.
const PLACES: [&str; 3] = ["own", "other", "elsewhere"];

/// A line; what it does; and for each caller in the order of [`CALLERS`] the answers at each of [`PLACES`], or the one
/// answer that it gets everywhere:
///
/// | letter | answer |
/// |---|---|
/// | `y` | done |
/// | `n` | `no such …` |
/// | `a` | `only an admin of …` |
/// | `o` | `… for operators …` |
/// | `O` | the same, to somebody who knows the place |
/// | `s` | `your account is suspended …` |
/// | `k` | `this key was removed …` |
/// | `c` | `you are connected with a certificate …` |
/// | `r` | `you are a service account …` |
/// | `f` | `… is not a key of …`, asked for a certificate |
/// | `m` | the same, asked to remove it |
/// | `h` | `… no head …`: none was signed yet |
/// | `l` | `… made by the certgate program itself …` |
/// | `w` | `name the …`: operators have to say whose |
/// | `p` | `… through the gateway …`: it is for accounts |
/// | `x` | `you are in no project …` |
/// | `e` | an explanation that ends in no |
#[rustfmt::skip]
const TABLE: &[(&str, Does, &str)] = &[
    //                                                                         operator admin member outsider suspended keyless certificate service
    ("", Look,                                                                 "y   y   y   y   s   k   y   y"),
    ("whoami", Look,                                                           "y   y   y   y   s   k   y   y"),
    ("cert", Act("certificate.issue"),                                         "p   y   y   x   s   k   y   y"),
    ("cert --project {project}", Act("certificate.issue"),                     "ppp ynn ynn nnn sss kkk ynn ynn"),
    ("cert --cluster {cluster}", Act("certificate.issue"),                     "ppp ynn ynn nnn sss kkk ynn ynn"),
    ("cert --key {key}", Act("certificate.issue"),                             "ppp fff fff fff sss kkk fff fff"),
    ("config", Look,                                                           "p   y   y   y   s   k   y   y"),
    ("config known-hosts", Look,                                               "y   y   y   y   s   k   y   y"),
    ("key list", Look,                                                         "w   y   y   y   s   k   y   y"),
    ("key list --account {member}", Look,                                      "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("key list --account {self}", Look,                                        "y   y   y   y   s   k   y   y"),
    ("key add < {new-key}", Change("key.add"),                                 "w   y   y   y   s   k   c   r"),
    ("key add --account {member} < {new-key}", Change("key.add"),              "yyy ooo ooo ooo sss kkk ccc rrr"),
    ("key remove {own-key} --yes", Change("key.remove"),                       "w   y   y   y   s   k   c   r"),
    ("key remove {key} --yes", Change("key.remove"),                           "www mmm mmm mmm sss kkk ccc rrr"),
    ("key remove {key} --account {member} --yes", Change("key.remove"),        "yyy ooo ooo ooo sss kkk ccc rrr"),
    ("project list", Look,                                                     "y   y   y   y   s   k   y   y"),
    ("project show {project}", Look,                                           "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("project create {org}/new", Change("project.create"),                     "www yyn yyn yyn sss kkk ccc rrr"),
    ("project create {org}/new --admin {newcomer}", Change("project.create"),  "yyy ooo ooo ooo sss kkk ccc rrr"),
    ("project update {project} --max-ttl 2m --forbid pty", Change("project.update"), "yyy ynn ann nnn sss kkk ccc rrr"),
    ("project delete {project} --yes", Changes(&PROJECT_GONE),                 "yyy ynn ann nnn sss kkk ccc rrr"),
    ("member list {project}", Look,                                            "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("member add {project} {newcomer}", Change("member.add"),                  "yyy ynn ann nnn sss kkk ccc rrr"),
    ("member add {project} {newcomer} --role admin", Change("member.add"),     "yyy ynn ann nnn sss kkk ccc rrr"),
    ("member remove {project} {member} --yes", Change("member.remove"),        "yyy ynn ann nnn sss kkk ccc rrr"),
    ("member remove {project} {member} --yes --force", Change("member.remove"), "yyy Onn ann nnn sss kkk ccc rrr"),
    ("member role {project} {member} admin --force", Change("member.role"),    "yyy Onn ann nnn sss kkk ccc rrr"),
    ("member role {project} {member} admin", Change("member.role"),            "yyy ynn ann nnn sss kkk ccc rrr"),
    ("service list {project}", Look,                                           "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("service show {service}", Look,                                           "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("service key list {service}", Look,                                       "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("service create {project} new --source-address {peer} < {new-key}", Change("service.create"), "yyy ynn ann nnn sss kkk ccc rrr"),
    ("service update {service} --max-ttl 2m", Change("service.update"),        "yyy ynn ann nnn sss kkk ccc rrr"),
    ("service key add {service} < {new-key}", Change("service.key.add"),       "yyy ynn ann nnn sss kkk ccc rrr"),
    ("service key remove {service} {service-key} --yes", Change("service.key.remove"), "yyy ynn ann nnn sss kkk ccc rrr"),
    ("service delete {service} --yes", Change("service.delete"),               "yyy ynn ann nnn sss kkk ccc rrr"),
    ("cluster list", Look,                                                     "y   y   y   y   s   k   y   y"),
    ("cluster show {cluster}", Look,                                           "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("cluster show {cluster} --config", Look,                                  "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("cluster create {project} new", Change("cluster.create"),                 "yyy ynn ann nnn sss kkk ccc rrr"),
    ("cluster update {cluster} - --yes < {document}", Change("cluster.update"), "yyy ynn ann nnn sss kkk ccc rrr"),
    ("cluster scale {cluster} --compute 2 --yes", Change("cluster.scale"),     "yyy ynn ann nnn sss kkk ccc rrr"),
    ("cluster retry {cluster}", Change("cluster.retry"),                       "yyy ynn ann nnn sss kkk ccc rrr"),
    ("cluster delete {cluster} --yes", Changes(&CLUSTER_GONE),                 "yyy ynn ann nnn sss kkk ccc rrr"),
    ("volume list", Look,                                                      "y   y   y   y   s   k   y   y"),
    ("volume show {project} data", Look,                                       "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("volume create {project} new --size 1T", Change("volume.create"),         "yyy ynn ann nnn sss kkk ccc rrr"),
    ("volume update {project} data --size 2T", Change("volume.update"),        "yyy ynn ann nnn sss kkk ccc rrr"),
    ("volume retry {project} data", Change("volume.retry"),                    "yyy ynn ann nnn sss kkk ccc rrr"),
    ("volume delete {project} data --yes", Change("volume.delete"),            "yyy ynn ann nnn sss kkk ccc rrr"),
    ("node list {cluster}", Look,                                              "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("node token new.{cluster}", Change("node.token"),                         "yyy ynn ann nnn sss kkk ccc rrr"),
    ("node show {node}", Look,                                                 "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("node tokens {cluster}", Look,                                            "yyy ynn ann nnn sss kkk ynn ann"),
    ("node token token.{cluster} --revoke", Change("node.token.revoke"),       "yyy ynn ann nnn sss kkk ccc rrr"),
    ("node remove {node} --yes", Change("node.remove"),                        "yyy ynn ann nnn sss kkk ccc rrr"),
    ("certificate list", Look,                                                 "y   y   y   y   s   k   y   y"),
    ("certificate show {own-serial}", Look,                                    "y   y   y   n   s   k   y   y"),
    ("certificate show {serial}", Look,                                        "yyy nnn nnn nnn sss kkk nnn nnn"),
    ("certificate revoke {own-serial}", Change("certificate.revoke"),          "y   y   y   n   s   k   c   r"),
    ("certificate revoke {serial}", Change("certificate.revoke"),              "yyy nnn nnn nnn sss kkk ccc rrr"),
    ("session list", Look,                                                     "y   y   y   y   s   k   y   y"),
    ("session end {own-session}", Act("session.end"),                          "y   y   y   n   s   k   c   r"),
    ("session end {session}", Act("session.end"),                              "yyy nnn nnn nnn sss kkk ccc rrr"),
    ("explain {member} {node}", Look,                                          "yyy ynn ann nnn sss kkk ynn ann"),
    ("explain {self} {node}", Look,                                            "yyy yee yee eee sss kkk yee yee"),
    ("reach {node}", Look,                                                     "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("reach {cluster}", Look,                                                  "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("krl", Look,                                                              "y   y   y   y   s   k   y   y"),
    ("krl {cluster}", Look,                                                    "yyy ynn ynn nnn sss kkk ynn ynn"),
    ("org list", Look,                                                         "y   o   o   o   s   k   o   o"),
    ("org create new", Change("org.create"),                                   "y   o   o   o   s   k   o   o"),
    ("user list", Look,                                                        "y   o   o   o   s   k   o   o"),
    ("user show {member}", Look,                                               "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("user create new@acme.example --org {org} --name new", Change("user.create"), "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("user suspend {member}", Change("user.suspend"),                          "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("user resume {suspended}", Change("user.resume"),                         "y   o   o   o   s   k   o   o"),
    ("apply - --yes < {description}", Changes(&["apply", "volume.create"]),    "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("apply - --dry-run < {description}", Try("apply"),                        "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("dump", Look,                                                             "y   o   o   o   s   k   o   o"),
    ("dump --org {org}", Look,                                                 "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("dump --project {project}", Look,                                         "yyy ooo ooo ooo sss kkk ooo ooo"),
    ("audit list", Look,                                                       "y   o   o   o   s   k   o   o"),
    ("audit export", Look,                                                     "y   o   o   o   s   k   o   o"),
    ("audit head", Look,                                                       "h   o   o   o   s   k   o   o"),
    ("audit verify", Look,                                                     "y   o   o   o   s   k   o   o"),
    ("ca show", Look,                                                          "y   o   o   o   s   k   o   o"),
    ("status", Look,                                                           "v   o   o   o   s   k   o   o"),
    // Made by the operator's program itself; these are answered before anybody is asked who they are.
    ("setup --yes", Look,                                                      "l   l   l   l   l   l   l   l"),
    ("backup --to age1 /somewhere", Look,                                      "l   l   l   l   l   l   l   l"),
    ("restore /x --identity /y", Look,                                         "l   l   l   l   l   l   l   l"),
    ("completions bash", Look,                                                 "l   l   l   l   l   l   l   l"),
    ("man /somewhere", Look,                                                   "l   l   l   l   l   l   l   l"),
];

/// What a letter means: the exit status, what is said, and the reason in the audit log.
fn meaning(letter: char) -> (u8, &'static str, &'static str) {
    match letter {
        'y' => (0, "", ""),
        'n' => (1, "no such ", "not-found"),
        'a' => (1, "only an admin of ", "not-admin"),
        'o' | 'O' => (1, "for operators", "operators-only"),
        's' => (1, "your account is suspended", "suspended"),
        'k' => (1, "this key was removed", "unknown-key"),
        'c' => (1, "you are connected with a certificate", "out-of-scope"),
        'r' => (1, "you are a service account", "service-account"),
        'f' => (1, " is not a key of ", "foreign-key"),
        'm' => (1, " is not a key of ", "not-found"),
        'h' => (1, "no head", ""),
        'l' => (1, "by the certgate program itself", ""),
        'w' => (1, "name the ", "invalid"),
        'p' => (1, "through the gateway", "invalid"),
        'x' => (1, "you are in no project", "not-found"),
        'e' => (1, "no such node", ""),
        // It says what it was asked, and that something needs attention: there is no provisioner here.
        'v' => (1, "", ""),
        other => panic!("no letter {other}"),
    }
}

/// What is wrong with the answer, if anything; and whether it was done.
async fn check(site: &Site, who: Who, place: usize, line: &str, does: Does, letter: char) -> (Vec<String>, bool) {
    let names = site.names(who, place);
    let (version, logged) = (site.world.app.directory().version(), site.world.log().await.len());
    let answer = site.run(who, &names.fill(line)).await;
    let (exit, word, reason) = meaning(letter);
    let mut problems = Vec::new();
    let said = if letter == 'e' { &answer.stdout } else { &answer.stderr };
    if answer.exit != exit || !said.contains(word) {
        problems.push(format!("{letter} was expected; exit {}: {}{}", answer.exit, answer.stdout, answer.stderr));
    }
    if !['y', 'e', 'v'].contains(&letter) && (answer.stderr.lines().count() != 1 || !answer.stdout.is_empty()) {
        problems.push(format!("a refusal is one line: {}{}", answer.stdout, answer.stderr));
    }
    let changed = site.world.app.directory().version() != version;
    if changed != (letter == 'y' && matches!(does, Change(_) | Changes(_))) {
        problems.push(format!("the directory's version changed: {changed}"));
    }
    let log = site.world.log().await;
    problems.extend(record(&log[logged..], site, who, does, letter, reason));
    // A member knows their project. Whoever may not know of a place is told of it what they are told of one that is not
    // there.
    if !['y', 'a', 'O'].contains(&letter) && who != Who::Operator {
        let nowhere = Site::nowhere(&names);
        let same = site.run(who, &nowhere.fill(line)).await;
        let expected = |text: &str| nowhere.instead_of(&names, text);
        if (same.exit, &same.stdout, &same.stderr)
            != (answer.exit, &expected(&answer.stdout), &expected(&answer.stderr))
        {
            problems.push(format!("it can be told from what does not exist: {answer:?}, {same:?}"));
        }
    }
    (problems, answer.exit == 0 && !matches!(does, Look | Try(_)))
}

/// A change is recorded once, done or refused, with who asked and why not.
fn record(new: &[Entry], site: &Site, who: Who, does: Does, letter: char, reason: &str) -> Vec<String> {
    let done = letter == 'y';
    let actions: &[&str] = match &does {
        Look => &[],
        Try(_) if done => &[],
        Try(action) => &[*action],
        Change(action) | Act(action) => &[*action],
        Changes(actions) => {
            if done {
                actions
            } else {
                &actions[..1]
            }
        }
    };
    let outcome = if done { "done" } else { "refused" };
    let actor = site.emails.get(&who).map_or("an operator", String::as_str);
    let expected: Vec<String> =
        actions.iter().map(|action| format!("{action} {outcome} {reason} by {actor}")).collect();
    // What nobody waits for comes when it comes: that a session was opened, or ended with what it rested on.
    let noted = |event: &Event| event.action.starts_with("session.") && !event.object.starts_with("session ");
    let recorded = new.iter().map(|entry| &entry.event).filter(|event| !noted(event)).map(|event| {
        let outcome = if event.outcome == Outcome::Done { "done" } else { "refused" };
        format!("{} {outcome} {} by {}", event.action, event.reason.as_deref().unwrap_or_default(), event.actor)
    });
    let mut recorded: Vec<String> = recorded.collect();
    if matches!(does, Changes(_)) {
        recorded.dedup();
    }
    if recorded == expected { vec![] } else { vec![format!("the audit log has {recorded:?} instead of {expected:?}")] }
}

#[tokio::test]
async fn every_command_answers_everybody_everywhere_as_the_table_says() {
    let (first, mut failed) = (Site::new().await, Vec::new());
    let mut site = first.again().await;
    for (line, does, row) in TABLE {
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells.len(), CALLERS.len(), "{line}: an answer for each caller");
        for (who, cell) in CALLERS.into_iter().zip(cells) {
            let letters: Vec<char> =
                if cell.len() == 1 { cell.repeat(PLACES.len()) } else { cell.into() }.chars().collect();
            assert_eq!(letters.len(), PLACES.len(), "{line} for {who:?}: one answer, or one for each place");
            let mut typed = BTreeSet::new();
            for (place, letter) in letters.into_iter().enumerate() {
                // Where it is about no place it is the same everywhere.
                if !typed.insert(site.names(who, place).fill(line)) {
                    continue;
                }
                let (problems, done) = check(&site, who, place, line, *does, letter).await;
                let at = PLACES[place];
                failed.extend(problems.into_iter().map(|problem| format!("{line}\n  {who:?}, {at}: {problem}")));
                if done {
                    site = first.again().await;
                }
            }
        }
    }
    assert!(failed.is_empty(), "\n{}\n{} answers are wrong", failed.join("\n"), failed.len());
}

#[test]
fn every_command_of_the_grammar_has_a_row() {
    let leaves = leaves();
    let has_row = |leaf: &String| TABLE.iter().any(|(line, ..)| format!("{line} ").starts_with(&format!("{leaf} ")));
    let missing: Vec<_> = leaves.iter().filter(|leaf| !has_row(leaf)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    let is_leaf =
        |line: &str| line.is_empty() || leaves.iter().any(|leaf| format!("{line} ").starts_with(&format!("{leaf} ")));
    let unknown: Vec<_> = TABLE.iter().filter(|(line, ..)| !is_leaf(line)).collect();
    assert!(unknown.is_empty(), "rows for what is no command: {unknown:?}");
}

/// The words of every command that has no further words of its own.
pub(crate) fn leaves() -> BTreeSet<String> {
    let mut leaves = BTreeSet::new();
    collect(&command::grammar(), String::new(), &mut leaves);
    leaves
}

fn collect(command: &clap::Command, words: String, leaves: &mut BTreeSet<String>) {
    for sub in command.get_subcommands() {
        let words = format!("{words} {}", sub.get_name()).trim_start().to_owned();
        if sub.has_subcommands() {
            collect(sub, words, leaves);
        } else {
            leaves.insert(words);
        }
    }
}
