//! The chapters of the runbook, one a disaster.

use super::{Names, Part};
use crate::show::duration;

const LAST_GOOD: (&str, &str, &str) = ("T", "2026-11-22 14:05:00 UTC", "the last good instant, with its zone");

/// The runbook for these names.
pub fn book(names: &Names) -> Vec<Part> {
    let mut parts = first_minute(names);
    parts.extend(rows_destroyed(names));
    parts.extend(all_back(names));
    parts.extend(server_broken(names));
    parts.extend(host_lost(names));
    parts.extend(region_lost(names));
    parts.extend(wal_damaged(names));
    parts.extend(key_lost(names));
    parts.extend(intruder(names));
    parts.extend(bucket_gone(names));
    parts.extend(afterwards(names));
    parts
}

fn chapter(text: &str) -> Part {
    Part::Chapter(text.to_owned())
}

fn text(text: impl Into<String>) -> Part {
    Part::Text(text.into())
}

fn run(commands: &[String]) -> Part {
    Part::Run(commands.to_vec())
}

fn first_minute(names: &Names) -> Vec<Part> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let [stop, start, health] = names.service.clone().map(|command| command.unwrap_or_else(|| "none configured".into()));
    let bowline = names.bowline();
    vec![
        Part::Title(format!("Disaster recovery of {}", names.org)),
        text(
            "Run everything as the user that owns the data directory, usually postgres; that user must be allowed what is written with sudo, and the commands of \
             [service], [postgres] and [wal], by sudoers. Nothing here deletes the only copy of anything: restores in place keep the old data aside, and every restore shows its plan first.",
        ),
        Part::Facts(vec![
            fact("Call", if names.contacts.is_empty() { "nobody is named here: [runbook] contacts".into() } else { names.contacts.join("; ") }),
            fact("Objectives", format!("lose at most {} (RPO), be back within {} (RTO)", duration(names.rpo), duration(names.rto))),
            fact("Measured", if names.measured.is_empty() { "nothing yet: hold a drill (bowline verify)".into() } else { names.measured.join("; ") }),
            fact("Repository", format!("{}, organization {}", names.repository, names.org)),
            fact("Configuration, key", format!("{}, {}", names.config.display(), names.key.display())),
            fact("PostgreSQL", format!("{}, {}, slot {}", names.major, names.data_dir.display(), names.slot)),
            fact("Service", format!("stop: {stop}; start: {start}; health: {health}")),
        ]),
        chapter("The first minute"),
        text("What is protected, up to when, and what is wrong now. Write down the time at which things were last good."),
        run(&[format!("{bowline} status || true"), format!("{bowline} list")]),
        Part::Expect(vec!["repository …", "last backup …", "restorable …", "verdict …"]),
        text(
            "Then: rows or a table were destroyed → chapter 1, or 2 when everything must go back. PostgreSQL does not start, files are damaged or gone → 3. \
             The machine is lost → 4. The region or the repository's first home is lost → 5. A restore says that WAL is damaged or missing → 6. \
             The key is lost → 7. Somebody was inside → 8. The repository is gone and the database lives → 9.",
        ),
    ]
}

/// Restores beside production and leaves the copy running.
fn side_restore(names: &Names) -> Vec<String> {
    let (bowline, side) = (names.bowline(), names.side_dir.display());
    vec![format!("{bowline} restore --to \"$T\" --target {side} --plan"), format!("{bowline} restore --to \"$T\" --target {side} --yes")]
}

fn side_removal(names: &Names) -> Vec<String> {
    let side = names.side_dir.display();
    vec![format!("{}/pg_ctl -D {side} stop -m fast", names.bin_dir.display()), format!("rm -r {side} {side}.bowline")]
}

fn rows_destroyed(names: &Names) -> Vec<Part> {
    let (bin, side, server) = (names.bin_dir.display(), names.side_dir.display(), &names.server);
    let copy = format!("-h {side}.bowline/run -d {}", names.dbname);
    let dump = format!("{bin}/pg_dump {copy} -t \"$TABLE\" --clean --if-exists");
    vec![
        chapter("1. Rows or a table were destroyed"),
        text(
            "DROP TABLE, TRUNCATE, an UPDATE or DELETE without WHERE. Production stays as it is: a copy as of the last good instant is restored beside it, cut off from it, \
             and what is missing is taken from there. The dump below replaces the table in one transaction; for single rows, select them on the copy instead.",
        ),
        Part::Ask(vec![LAST_GOOD, ("TABLE", "public.orders", "the table to bring back")]),
        run(&side_restore(names)),
        Part::Expect(vec!["recovered …", "server       running privately…"]),
        run(&[
            format!("{bin}/psql {copy} -c \"SELECT count(*) FROM $TABLE\""),
            format!("{dump} | {bin}/psql {server} -v ON_ERROR_STOP=1 --single-transaction"),
            format!("{bin}/psql {server} -c \"SELECT count(*) FROM $TABLE\""),
        ]),
        text("When nothing more is wanted of the copy, stop and remove it."),
        run(&side_removal(names)),
    ]
}

fn all_back(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    vec![
        chapter("2. Everything must go back to an instant"),
        text(
            "A migration or a program ruined the database as a whole. Everything after the instant is given up, though nothing is deleted: the old data are kept aside, \
             and the log of what came after stays in the repository on its own timeline.",
        ),
        Part::Ask(vec![LAST_GOOD]),
        run(&[format!("{bowline} restore --to \"$T\" --plan"), format!("{bowline} restore --to \"$T\" --yes")]),
        Part::Expect(vec!["recovered …", "lost …", "old data …", "protected    again at …"]),
    ]
}

fn server_broken(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    vec![
        chapter("3. PostgreSQL does not start, or its files are damaged or gone"),
        text(
            "Also for a damaged page that production reads. The newest state is restored; what only the old pg_wal holds is saved first. A restore that breaks off \
             goes on when the same command is given again.",
        ),
        run(&[format!("{bowline} restore --plan"), format!("{bowline} restore --yes")]),
        Part::Expect(vec!["recovered …", "lost …", "protected    again at …"]),
    ]
}

fn host_lost(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    let data_dir = names.data_dir.display();
    vec![
        chapter("4. The machine is lost"),
        text(format!(
            "On a new machine: install PostgreSQL {0} (Debian: apt-get install postgresql-{0}, then stop the cluster that it makes: systemctl stop \
             postgresql@{0}-main), the bowline program, and {1}. The configuration is in the repository. The store's credentials come from the environment \
             (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or from what the machine is.",
            names.major,
            match names.has_key_file() {
                true => format!("the key at {}, from where its copy is kept", names.key.display()),
                false => format!("what lets it use {}; or fetch the recovery key and name its file with --key instead", names.key.display()),
            }
        )),
        run(&[
            format!("bowline --repository {} --org {} --key {} restore --plan", names.address, names.org, names.key.display()),
            format!("bowline --repository {} --org {} --key {} restore --yes", names.address, names.org, names.key.display()),
            names.install_config(&format!("{data_dir}.bowline/bowline.toml")),
            format!("{bowline} list"),
        ]),
        Part::Expect(vec!["this machine has no configuration: …", "recovered …", "lost …", "protected    again at …"]),
        text(format!(
            "Put the receiver under its supervisor again; the plan names what else the machine lacks. A server that no supervisor started runs by pg_ctl, and would not be there \
             after the next boot: hand it over ({bin}/pg_ctl -D {data_dir} stop -m fast, then systemctl enable --now with the unit of this cluster).",
            bin = names.bin_dir.display()
        )),
    ]
}

/// Writes another address into the configuration, in [repository] alone: channels and packages have urls, too. To sed a `&` is what was found.
fn repository_is(variable: &str, names: &Names) -> String {
    let (sudo, config) = (names.sudo(), names.config.display());
    format!(r#"{sudo}sed -i "/^\[repository\]/,/^\[/ s|^url *=.*|url = \"${{{variable}//&/\\&}}\"|" {config}"#)
}

fn region_lost(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    vec![
        chapter("5. The region of the repository is lost, and the database with it"),
        text(
            "Any whole copy of the repository will do: a replicated bucket, or a folder. A copy may be behind: the audit says up to where it is whole. From then on the copy is \
             the repository. On a new machine do what chapter 4 says, with this address. Where it has another region, endpoint or KMS key than [repository] says, write the first two \
             into the address (s3://BUCKET?region=…&endpoint=…: they win), and change all three in the configuration before anything is written.",
        ),
        Part::Ask(vec![("REPLICA", "s3://acme-backups-replica", "where the copy of the repository is, without the organization")]),
        run(&[
            format!("{bowline} --repository \"$REPLICA\" list"),
            format!("{bowline} --repository \"$REPLICA\" wal audit || true"),
            format!("{bowline} --repository \"$REPLICA\" restore --yes"),
            repository_is("REPLICA", names),
            format!("{bowline} list"),
        ]),
        Part::Expect(vec!["recovered …", "lost …", "protected    again at …"]),
    ]
}

fn wal_damaged(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    vec![
        chapter("6. WAL is damaged or missing"),
        text(
            "A restore then stops before it touches anything and lists the ways around the damage, with what each loses. Look for the segment first: on the server, a standby, or \
             in another version of the object. Then choose; the example ends just before the damage.",
        ),
        run(&[
            format!("{bowline} wal audit || true"),
            format!("{bowline} restore --plan || true"),
            format!("{bowline} restore --on-damage stop-before --yes"),
        ]),
        Part::Expect(vec!["recovered …", "protected    again at …"]),
    ]
}

fn key_lost(names: &Names) -> Vec<Part> {
    let (bowline, key) = (names.bowline(), names.key.display());
    if !names.has_key_file() {
        return vec![
            chapter("7. The key is lost"),
            text(format!(
                "{key} is kept by somebody else. Away for a while: what runs goes on, with the data keys it has. Pending deletion: cancel that at once. Gone for good: \
                 whatever else bowline keys list names opens the backups; a recovery key is given as a file. Without any of them nobody can read these backups, and no one can help."
            )),
            Part::Ask(vec![("RECOVERY", "/media/safe/recovery", "the private half of a recovery key")]),
            run(&[format!("{bowline} keys list"), format!("{bowline} --key \"$RECOVERY\" list")]),
            text(
                "Then name recipients that are there in [encryption], and bowline --key \"$RECOVERY\" keys rewrap. If none is left and the database lives: chapter 9, with a new key.",
            ),
        ];
    }
    vec![
        chapter("7. The key is lost"),
        text(
            "Without any copy of the key nobody can read these backups, and no one can help. With one, put it back and prove that it opens the repository.",
        ),
        Part::Ask(vec![("SPARE", "/media/safe/key", "the copy of the key")]),
        run(&[format!("{bowline} --key \"$SPARE\" list"), format!("install -m 600 \"$SPARE\" {key}"), format!("{bowline} list")]),
        text("If no copy is left and the database lives: chapter 9, with a new key."),
    ]
}

fn intruder(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    let mut commands = vec![format!("{bowline} verify --to \"$T\"")];
    commands.extend(side_restore(names));
    vec![
        chapter("8. Somebody was inside"),
        text(
            "Take the machines off the network; change every credential, the store's first. Work on a clean machine, with a copy of the repository that the intruder could not write to: \
             the bucket as it was before the intrusion, where it keeps versions (add --repository-as-of TIME to each command), or a replica. Prove it by a drill to an instant before the intrusion, then restore beside the old one and look before anything is served from it.",
        ),
        Part::Ask(vec![LAST_GOOD]),
        run(&commands),
        Part::Expect(vec!["verdict      passed", "server       running privately…"]),
        run(&side_removal(names)),
    ]
}

fn bucket_gone(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    // A unit is root's to stop and to start.
    let unit = names.receiver.as_deref().and_then(|command| command.strip_prefix("systemctl start "));
    let started = match unit {
        Some(unit) => format!("sudo systemctl start {unit}"),
        None => names.receiver.clone().unwrap_or_else(|| format!("nohup {bowline} wal receive > /var/tmp/bowline-receive.log 2>&1 &")),
    };
    let stopped = unit.map(|unit| format!("sudo systemctl stop {unit}"));
    let anew = [repository_is("NEW", names), format!("{bowline} init"), started, format!("{bowline} backup"), format!("{bowline} list")];
    vec![
        chapter("9. The repository is gone, and the database lives"),
        text(
            "Until a new full backup is listed nothing is protected. Stop what writes to the lost place, the daemon or the receiver; then make a repository elsewhere.",
        ),
        Part::Ask(vec![("NEW", "s3://acme-backups-2", "where the new repository will be, without the organization")]),
        run(&stopped.into_iter().chain(anew).collect::<Vec<_>>()),
        Part::Expect(vec!["repository … made in …", "backup …"]),
    ]
}

fn afterwards(names: &Names) -> Vec<Part> {
    let bowline = names.bowline();
    vec![
        chapter("Afterwards"),
        text(
            "Prove that what is there now can be restored, and say what happened. The old data that a restore set aside are removed by hand, once nothing of them is missed.",
        ),
        run(&[format!("{bowline} verify"), format!("{bowline} status")]),
        Part::Expect(vec!["verdict      passed", "verdict      protected"]),
    ]
}
