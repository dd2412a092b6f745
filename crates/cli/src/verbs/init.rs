//! `bowline init`: a new repository and its key; or the SQL that PostgreSQL needs.

use crate::args::{Common, InitArgs};
use crate::config::EncryptionMode;
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use keys::{KeyError, KeyFile, Spec};
use repo::{Encryption, Writer};
use seal::Recipient;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use terms::{Class, Clock, SystemClock};

pub async fn run(common: &Common, asked: &InitArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    if asked.print_sql {
        return print_sql(common, &asked.role, printer);
    }
    if asked.bucket {
        return super::bucket::run(common, asked, printer).await;
    }
    if let Some(whose) = asked.print_policy {
        return super::bucket::print_policy(common, whose, printer);
    }
    if asked.new_epoch {
        return super::epoch::run(common, asked, printer).await;
    }
    let wiring = Wiring::new(common)?;
    let config = &wiring.config;
    let encryption = match config.encryption.mode {
        EncryptionMode::On => Encryption::Aes256Gcm,
        EncryptionMode::Off => Encryption::Off,
    };
    // A key that was given stands for all recipients, and is made if it is not there.
    let wanted = match (encryption, wiring.key()) {
        (Encryption::Off, _) => Vec::new(),
        (Encryption::Aes256Gcm, Some(key)) => match keys::named(key) {
            Some(spec) => vec![spec?],
            None => {
                let key = std::path::absolute(key).unwrap_or_else(|_| key.to_owned());
                vec![format!("file:{}", key.display()).parse::<Spec>()?]
            }
        },
        (Encryption::Aes256Gcm, None) => wiring.specs()?,
    };
    if encryption == Encryption::Aes256Gcm && wanted.is_empty() {
        return Err(repo::RepoError::NobodyToWrapFor.into());
    }
    store::create_root(&config.repository.url).await?;
    store::create_root(&wiring.address()).await?;
    let store = wiring.store()?;
    if store.info(&store::ObjectPath::new("repository.json").map_err(|e| Fault::of("bug", Class::Bug, e.to_string(), "", ""))?).await?.is_some() {
        return Err(repo::RepoError::Exists { address: store.address() }.into());
    }
    store.ready().await?;
    printer.remark(format!("probing {}", store.address()));
    let remover = store::open_remover(&wiring.address(), &wiring.store_options()?)?;
    let probed = store::probe(&*store, Some(&*remover), "").await?;
    if !probed.conditional_put || !probed.conditional_replace {
        return Err(Fault::of(
            "store-unsafe",
            Class::Refused,
            format!("{} cannot keep what Bowline relies on", store.address()),
            probed.reasons.join(" "),
            "Use a store with conditional writes (If-None-Match, If-Match): AWS S3, MinIO, SeaweedFS, Ceph 19 or newer, or a folder.",
        ));
    }
    for reason in &probed.reasons {
        printer.remark(format!("warning: {reason}"));
    }
    let mut recipients: Vec<Arc<dyn Recipient>> = Vec::new();
    let mut made = Vec::new();
    for spec in &wanted {
        let Some(place) = spec.file() else {
            recipients.push(spec.open()?);
            continue;
        };
        let key = match KeyFile::create(place) {
            Ok(key) => {
                made.push(place.to_owned());
                key
            }
            // One key may open several repositories.
            Err(KeyError::Exists { .. }) => KeyFile::load(place)?,
            Err(e) => return Err(e.into()),
        };
        recipients.push(Arc::new(key));
    }
    let probed_json = json!(probed);
    let created = Writer::create(store.clone(), recipients, &config.org, encryption, probed_json.clone(), SystemClock.now()).await?;
    let document = created.reader().document();
    printer.say(format!("repository {} made in {}", document.id, store.address()));
    printer.say(match encryption {
        Encryption::Aes256Gcm => "encryption: AES-256-GCM",
        Encryption::Off => "encryption: OFF, as the configuration says: everybody who can read the repository can read the database",
    });
    for place in &made {
        printer.say(format!("key: {} was made. COPY IT NOW to a place away from this host and from the backups:", place.display()));
        printer.say(match wanted.len() {
            1 => "     without it nobody can ever read these backups, and whoever holds it can.",
            _ => "     whoever holds it can read these backups.",
        });
    }
    for spec in wanted.iter().filter(|spec| spec.is_recovery()) {
        printer.say(format!("recovery: {spec} can open all of it; that its private half does was not proven here"));
    }
    printer.say("next: bowline check, then start the daemon (systemctl enable --now bowline): it receives WAL and makes the first backup");
    printer.result(json!({ "repository": document.id, "address": store.address(), "keys_made": made, "store": probed_json }));
    Ok(ExitCode::SUCCESS)
}

/// What PostgreSQL needs, for a role that is no superuser (manual chapters 9.28.3, 21.1, 26.3).
fn print_sql(common: &Common, role: &str, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let plain =
        !role.is_empty() && role.len() < 64 && role.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !role.as_bytes()[0].is_ascii_digit();
    if !plain {
        return Err(Fault::misuse("role-name", format!("{role:?} is not a plain role name"), "", "Use letters, digits and underscores."));
    }
    // All that the configuration would add.
    let (slot, synchronous) = Wiring::new(common).map_or_else(|_| ("bowline".to_owned(), false), |w| (w.config.wal.slot, w.config.wal.synchronous));
    let sql = format!(
        "-- Run once as a superuser, in the database \"postgres\" (the one that conninfo names).\n\
         CREATE ROLE {role} LOGIN REPLICATION;            -- set a password with \\password {role}, or use peer\n\
         GRANT pg_monitor TO {role};\n\
         GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO {role};\n\
         GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO {role};\n\
         GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {role};\n\
         GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {role};"
    );
    let hba = [
        format!("local   all          {role}                  scram-sha-256"),
        format!("local   replication  {role}                  scram-sha-256"),
        format!("host    all          {role}  127.0.0.1/32    scram-sha-256"),
        format!("host    replication  {role}  127.0.0.1/32    scram-sha-256"),
    ];
    let mut settings = vec![
        "wal_level = replica               # the default",
        "max_wal_senders = 10              # the default; Bowline needs two",
        "max_replication_slots = 10        # the default; Bowline needs two",
        "archive_timeout = 60s             # a quiet database still completes a segment each minute",
        "max_slot_wal_keep_size = 20GB     # as much as pg_wal's disk can hold (bowline check proposes a figure); -1 may fill it",
        "idle_replication_slot_timeout = 0 # PostgreSQL 18 and newer, the default: a slot must outlive a receiver that is down",
    ];
    if synchronous {
        settings.push("synchronous_standby_names = 'bowline' # each commit waits for the repository; set it once bowline wal receive runs");
    }
    printer.say(&sql);
    printer.say("\n-- At the top of pg_hba.conf (then SELECT pg_reload_conf()). \"all\", because drills hold the rows of every database against production's.");
    hba.iter().for_each(|line| printer.say(format!("-- {line}")));
    printer.say("\n-- postgresql.conf");
    settings.iter().for_each(|line| printer.say(format!("-- {line}")));
    printer.say(format!(
        "\n-- The slot {slot} need not be made: bowline wal receive makes it when it first connects, holding WAL from that moment on\n\
         -- (RESERVE_WAL). Start it, as a service, before the first backup."
    ));
    printer.say("\n-- To read the data directory itself, Bowline runs as its owner (usually postgres) or in its group (initdb -g).");
    printer.result(json!({ "sql": sql, "pg_hba": hba, "settings": settings }));
    Ok(ExitCode::SUCCESS)
}
