//! What is wrong with a file is told at once, with its lines, and nothing is changed.

use super::{
    apply,
    authority_support::{World, key},
};

/// Applies a file in which each line that is wrong says so itself: `# <- what is told`; several with ` | ` between them.
async fn mistakes(world: &World, file: &str) {
    let mut expected: Vec<String> = Vec::new();
    for (n, line) in file.lines().enumerate() {
        let told = line.split_once("# <- ").map(|(_, told)| told.split(" | ")).into_iter().flatten();
        expected.extend(told.map(|told| format!("line {}: {told}", n + 1)));
    }
    let version = world.app.directory().version();
    let output = apply(world, file, &["--yes"]).await;
    let told: Vec<&str> = output.stderr.lines().collect();
    let (summary, told) = told.split_last().unwrap();
    assert_eq!(told, expected, "{file}");
    let mistakes = if expected.len() == 1 { "mistake" } else { "mistakes" };
    assert_eq!(*summary, format!("{} {mistakes}; nothing was changed", expected.len()));
    assert_eq!((output.exit, output.stdout.as_str()), (1, ""));
    assert_eq!(world.app.directory().version(), version);
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_with_their_lines() {
    let world = World::story().await;
    world.operator("org create other").await;
    world.operator("project create acme/research --admin user2@acme.example").await;
    world.operator("project create acme/gone --admin user2@acme.example").await;
    world.operator("project delete acme/gone --yes").await;
    world.operator("volume create acme/ml datasets --size 1T --mount /data").await;
    let (key1, new) = (key(1), key(77));
    let (one, seven) = (key1.fingerprint(), new.fingerprint());
    let file = format!(
        r#"
format = 2 # <- this certgate reads format 1
colour = "red" # <- the file has no field `colour`

[[organizations]]
name = "Acme" # <- organization name must be lower-case letters, digits and '-', beginning with a letter and not ending in '-'

[[organizations]]
name = "acme"

[[organizations]]
name = "acme" # <- the organization acme is there twice, first in line 9

[[accounts]] # <- an account needs `email`
org = "acme"

[[accounts]]
email = "user1acme.example" # <- email address is written NAME@DOMAIN, in letters, digits and . _ + - only
org = "acme"

[[accounts]]
email = "user1@acme.example"
org = "other" # <- user1@acme.example belongs to acme, which cannot be changed
user = "user9" # <- the user name of user1@acme.example is user1, which cannot be changed
uid = 200009 # <- the user number of user1@acme.example is 200001, which cannot be changed
state = "asleep" # <- a state is one of: active, suspended
rol = "admin" # <- an account has no field `rol`

[[accounts]] # <- new1@acme.example is new: its account needs `org` and `user`
email = "new1@acme.example"

[[accounts]]
email = "NEW2@acme.example"
org = "none" # <- no such organization: none; create it first: org create none
user = "new2"

[[accounts]]
email = "new2@acme.example" # <- the account new2@acme.example is there twice, first in line 33
org = "acme"
user = "new2" # <- the user name new2 is there twice, first in line 35

[[accounts]]
email = "new3@acme.example"
org = "acme"
user = "user2" # <- the user name user2 is or was somebody's; names are never given out twice

[[accounts]]
email = "new4@acme.example"
org = "acme"
user = "root" # <- the user name is reserved by operating systems; choose another

[[accounts]]
email = "new5@acme.example"
org = "acme"
user = "new5"
uid = 200001 # <- the user number 200001 is somebody's

[[accounts]]
email = "new6@acme.example"
org = "acme"
user = "new6"
uid = 1000 # <- the user number 1000 is not between 200000 and 524287

[[accounts]]
email = "new7@acme.example"
org = "acme"
user = "new7"
uid = -1 # <- `uid` is a number from 0 to 4294967295
keys = "none" # <- `keys` is a list of texts: ["…", "…"]

[[accounts]]
email = "new8@acme.example"
org = "acme"
user = "new8"
keys = [
    "{key1}", # <- {one} is registered for another account; a key belongs to one account only
    "ssh-ed25519 AAAA", # <- that is not an OpenSSH public key; it should be one line like 'ssh-ed25519 AAAA… comment'
    "{new}",
    "{new} again", # <- {seven} is there twice, first in line 78
    17, # <- `keys` is a text in quotes, not of type integer
]

[[accounts]]
email = "new9@acme.example"
org = "acme"
user = "new9"
keys = ["{new}"] # <- {seven} is another account's, in line 78; a key belongs to one account only

[[accounts]]
email = "keyless@acme.example"
org = "acme"
user = "keyless"

[[projects]]
name = "acme" # <- a project is written ORG/PROJECT

[[projects]]
name = "nowhere/ml" # <- there is no organization nowhere
members = {{ "user2@acme.example" = "admin" }}

[[projects]]
name = "acme/gone" # <- acme/gone is or was a project; names are never given out twice
members = {{ "user2@acme.example" = "admin" }}

[[projects]] # <- acme/empty is new: it needs `members`, and an admin among them
name = "acme/empty"

[[projects]]
name = "acme/headless"
members = {{ "user2@acme.example" = "member" }} # <- acme/headless would have no admin

[[projects]]
name = "acme/research"
gid = 7 # <- the group number of acme/research is 200002, which cannot be changed

[[projects]]
name = "acme/ml"

[projects.members]
"user1@acme.example" = "owner" # <- a role is one of: member, admin
"user2@acme.example" = "admin"
"User2@acme.example" = "member" # <- user2@acme.example in acme/ml is there twice, first in line 121
"nobody@acme.example" = "member" # <- no account has the email nobody@acme.example; an operator can create it: user create
"keyless@acme.example" = "member" # <- keyless@acme.example has an account but no SSH key; an operator can add one: key add --account keyless@acme.example < KEY.pub
"new8@acme.example" = "member"

[[projects.clusters]]
name = "h100"
kind = "kubernetes" # <- the kind of h100.acme is slurm, which cannot be changed

[[projects.clusters]]
name = "h100" # <- the cluster h100.acme is there twice, first in line 128
nodes = {{ login = 100001 }} # <- `login` is at most 100000

[[projects.clusters]] # <- the cluster b200 is new: it needs a `kind`
name = "b200"

[[projects.clusters]]
name = "b300"
kind = "slurm"
nodes = {{ gpu = 2 }} # <- the numbers of nodes has no field `gpu`

[[projects.clusters]]
name = "b400"
kind = "slurm"
configuration = "[kubernetes]" # <- the configuration does not fit: [kubernetes] in the configuration of a slurm cluster

[[projects.volumes]]
name = "datasets"
size = "2T"
mount = "/data"

[[projects.volumes]]
name = "scratch"
size = "-1T" # <- a size is written like 500G or 10T (M, G, T, P, E: powers of 1024), at least 1M, at most 1E
mount = "/data" # <- a volume of this project at /data is there twice, first in line 151

[[projects.volumes]] # <- the volume more is new: it needs a `size`
name = "more"
mount = "/etc/more" # <- a volume is not mounted in a directory of the system; use /data, /home, /mnt, /opt, /scratch or /srv

[[projects]]
name = "acme/research" # <- the project acme/research is there twice, first in line 113

[[projects.clusters]]
name = "h100" # <- h100.acme belongs to acme/ml; a cluster cannot be moved to another project | the cluster h100.acme is there twice, first in line 128
"#
    );
    mistakes(&world, &file).await;
    let refused = world.operator("audit list --what apply --json").await.stdout;
    assert!(refused.contains("\"refused\"") && refused.contains("line 2: this certgate reads format 1"), "{refused}");
}

#[tokio::test]
async fn mistakes_about_service_accounts_are_told_too() {
    let world = World::story().await;
    world.operator(&format!("service create acme/ml ci --source-address 192.0.2.0/24 --key '{}'", key(60))).await;
    world.operator(&format!("service create acme/ml old --source-address 192.0.2.0/24 --key '{}'", key(61))).await;
    world.operator("service delete old@ml.acme.service --yes").await;
    let sync = format!("service create acme/ml sync --source-address 192.0.2.0/24 --key '{}'", key(63));
    world.operator(&sync).await;
    let (taken, new) = (key(60), key(62));
    let [one, two] = [key(60), key(62)].map(|key| key.fingerprint());
    let file = format!(
        r#"
[[accounts]]
email = "sync@ml.acme.service" # <- sync@ml.acme.service is a service account, which is described in its project

[[accounts]] # <- emails that end in .service are those of service accounts, which a project's admins make: service create
email = "ci@other.acme.service"
org = "acme"
user = "ci2"

[[projects]]
name = "acme/ml"

[projects.members]
"admin1@acme.example" = "admin"
"ci@ml.acme.service" = "member" # <- ci@ml.acme.service is a service account, which is in its project without being listed

[[projects.services]]
name = "ci"
user = "svc-other" # <- the user name of ci@ml.acme.service is svc-ci, which cannot be changed
uid = 7 # <- the user number of ci@ml.acme.service is 200003, which cannot be changed
source_address = ["0.0.0.0/0"] # <- 0.0.0.0/0 is as good as everywhere; name the networks that it is used from, none larger than a /8
max_ttl = "2 hours" # <- a length of time is written like 90s, 5m, 12h or 2d, and is at most 365d
force_command = "a\nb" # <- a forced command is one line of printable ASCII

[[projects.services]]
name = "ci" # <- the service account ci is there twice, first in line 18
max_ttl = "2h" # <- a length

[[projects.services]]
name = "Old" # <- service account name must be lower-case letters, digits and '-', beginning with a letter and not ending in '-'

[[projects.services]] # <- the service account old is new: it needs `keys` | the service account old is new: it needs `source_address`
name = "old"

[[projects.services]]
name = "new1"
source_address = [] # <- at least one network is needed, such as 192.0.2.0/24
keys = []

[[projects.services]]
name = "new2"
source_address = ["192.0.2.1"]
keys = [] # <- the service account new2 is new: it needs a key

[[projects.services]]
name = "new3" # <- {one} is registered for another account; a key belongs to one account only
source_address = ["192.0.2.1"]
keys = ["{taken}"]

[[projects.services]]
name = "new4" # <- the user name of a service account begins with svc-; robot does not
user = "robot"
source_address = ["192.0.2.1"]
keys = ["{new}"]

[[projects.services]]
name = "new5"
source_address = ["192.0.2.1"]
keys = ["{new}"] # <- {two} is another account's, in line 54; a key belongs to one account only
"#
    );
    let file = file.replace("max_ttl = \"2h\" # <- a length\n", "\n");
    mistakes(&world, &file).await;
}
