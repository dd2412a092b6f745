//! `bowline init --bucket`: sets a bucket up for backups, as far as these credentials may; and the policies of credentials that need no more.

use crate::args::{Common, InitArgs, PolicyOf};
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::confirm::confirm;
use crate::wiring::Wiring;
use repo::{Duty, Premises};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use store::{Bucket, BucketWish, Outcome, ReplicationWish, StoreOptions};
use terms::Class;

pub async fn run(common: &Common, asked: &InitArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let bucket = open(&wiring)?;
    let wish = BucketWish {
        kms_key: wiring.config.repository.sse_kms_key_id.clone(),
        object_lock: asked.object_lock,
        noncurrent_days: asked.noncurrent_days,
        replication: replication(&wiring, &bucket)?,
    };
    // Whether it is there may be hidden; then its settings say so, each by itself.
    let state = match bucket.exists().await? {
        Some(false) => None,
        Some(true) | None => Some(bucket.state().await?),
    };
    let (steps, remarks) = wish.steps(state.as_ref(), bucket.prefix());
    for remark in &remarks {
        printer.say(format!("note: {remark}"));
    }
    let replication = wish.replication.as_ref().map(|wish| wish.steps(state.as_ref()).1).unwrap_or_default();
    let unreplicated = |result: serde_json::Value| {
        let hint = "What the note says has to be decided by a person: writing a replication rule replaces all of them.";
        let summary = format!("the replication of {} is not set up", bucket.address());
        Fault::of("bucket-unfinished", Class::Refused, summary, replication.join(" "), hint).with("bucket", result)
    };
    if steps.is_empty() && !replication.is_empty() {
        return Err(unreplicated(json!({ "bucket": bucket.name(), "steps": [], "remarks": remarks, "refused": 0 })));
    }
    if steps.is_empty() {
        printer.say(format!("{} is set up as it should be", bucket.address()));
        printer.result(json!({ "bucket": bucket.name(), "steps": [], "remarks": remarks, "refused": 0 }));
        return Ok(ExitCode::SUCCESS);
    }
    printer.say(format!("{} needs:", bucket.address()));
    for step in &steps {
        printer.say(format!("  {}", step.describe()));
    }
    confirm("the setting up of the bucket", asked.yes, printer)?;
    let mut told = Vec::new();
    let mut refused = 0;
    let mut is_there = true;
    for step in &steps {
        let outcome = match is_there {
            true => bucket.carry_out(step).await?,
            false => Outcome::Failed("the bucket is not there".to_owned()),
        };
        let (word, why) = match &outcome {
            Outcome::Done => ("done", ""),
            Outcome::Denied(why) => ("denied", why.as_str()),
            Outcome::Unsupported(why) => ("unsupported", why.as_str()),
            Outcome::Failed(why) => ("failed", why.as_str()),
        };
        is_there &= step.name() != "create" || outcome == Outcome::Done;
        let command = step.aws_command(&bucket);
        printer.say(format!("{word:<11}  {}", step.describe()));
        if outcome != Outcome::Done {
            refused += 1;
            printer.say(format!("{:13}{why}", ""));
            match outcome {
                // No command helps where the server knows no such thing.
                Outcome::Unsupported(_) => printer.say(format!("{:13}→ this store has no such setting; see docs/stores.md", "")),
                _ => printer.say(format!("{:13}→ somebody who may: {command}", "")),
            }
        }
        let mut entry = json!({ "step": step.name(), "what": step.describe(), "outcome": word });
        if outcome != Outcome::Done {
            entry["why"] = json!(why);
            entry["command"] = json!(command);
        }
        told.push(entry);
    }
    let result = json!({ "bucket": bucket.name(), "steps": told, "remarks": remarks, "refused": refused });
    if refused > 0 {
        return Err(Fault::of(
            "bucket-unfinished",
            Class::Refused,
            format!("{} of {} steps to set up {} were not done", refused, steps.len(), bucket.address()),
            "",
            "Have the printed commands run by somebody who may, or run this again with other credentials: what is done is not done again.",
        )
        .with("bucket", result));
    }
    if !replication.is_empty() {
        return Err(unreplicated(result));
    }
    printer.say("next: bowline init --print-policy writer, then bowline init");
    printer.result(result);
    Ok(ExitCode::SUCCESS)
}

/// How the bucket is to be copied to the configured second copy, where that is another bucket of S3.
fn replication(wiring: &Wiring, bucket: &Bucket) -> Result<Option<ReplicationWish>, Fault> {
    let repository = &wiring.config.repository;
    let Some(copy) = repository.replica.as_deref() else { return Ok(None) };
    let options = StoreOptions { region: None, endpoint: None, lock: None, ..wiring.store_options()? };
    let Some(copy) = Bucket::open(&wiring.root_of(copy), &options)? else { return Ok(None) };
    if copy.prefix() != bucket.prefix() {
        let hint = "Replication keeps keys as they are: let url and replica have the same prefix, or copy by other means.";
        return Err(Fault::misuse("config-wrong", "[repository] replica has another prefix than url", "", hint));
    }
    if repository.replication_role.is_none() && bucket.is_aws() {
        let hint = "Set [repository] replication_role to the ARN of a role that may read this bucket and write the other.";
        return Err(Fault::misuse("config-wrong", "AWS copies a bucket as a role, and none is named", "", hint));
    }
    let target = repository.replication_target.clone();
    Ok(Some(ReplicationWish {
        role: repository.replication_role.clone(),
        existing_objects: target.as_deref().is_some_and(|target| target.starts_with("arn:minio:")),
        destination: target.unwrap_or_else(|| format!("arn:aws:s3:::{}", copy.name())),
        prefix: if bucket.prefix().is_empty() { String::new() } else { format!("{}/", bucket.prefix()) },
        kms_key: repository.replica_kms_key_id.clone(),
    }))
}

/// The least-privilege policy with this configuration's real names.
pub fn print_policy(common: &Common, whose: PolicyOf, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let bucket = open(&wiring)?;
    let config = &wiring.config;
    let recipients = config.encryption.recipients.iter().filter_map(|recipient| recipient.strip_prefix("aws-kms:"));
    let mut kms_keys: Vec<String> =
        recipients.chain(config.repository.sse_kms_key_id.as_deref()).map(|key| arn(key, bucket.region())).collect::<Result<_, _>>()?;
    kms_keys.sort();
    kms_keys.dedup();
    let duty = match whose {
        PolicyOf::Writer => Duty::Writer,
        PolicyOf::Restorer => Duty::Restorer,
        PolicyOf::Expirer => Duty::Expirer,
    };
    let policy = repo::policy(duty, &Premises { bucket: bucket.name().to_owned(), root: bucket.prefix().to_owned(), kms_keys });
    printer.say(serde_json::to_string_pretty(&policy).unwrap_or_default());
    printer.result(policy);
    Ok(ExitCode::SUCCESS)
}

/// A key that is given by its id alone stands for one of any account in this region: a policy wants an ARN. That of an alias permits nothing
/// on the key behind it (AWS KMS developer guide, "Aliases in policies").
fn arn(key: &str, region: &str) -> Result<String, Fault> {
    match key {
        alias if alias.starts_with("alias/") || alias.contains(":alias/") => Err(Fault::misuse(
            "config-wrong",
            format!("a policy cannot name the KMS key {alias}"),
            "IAM lets an alias permit nothing on the key behind it.",
            format!(
                "Name the key's own ARN in the configuration: aws kms describe-key --key-id {} --query KeyMetadata.Arn",
                alias.rsplit_once(':').map_or(alias, |(_, name)| name)
            ),
        )),
        arn if arn.starts_with("arn:") => Ok(arn.to_owned()),
        id => Ok(format!("arn:aws:kms:{region}:*:key/{id}")),
    }
}

fn open(wiring: &Wiring) -> Result<Bucket, Fault> {
    let bucket = Bucket::open(&wiring.address(), &wiring.store_options()?)?;
    bucket.ok_or_else(|| {
        Fault::misuse(
            "not-s3",
            "this is for buckets of S3",
            format!("The repository is {}.", wiring.config.repository.url.split('?').next().unwrap_or_default()),
            "Set a container of Azure or a bucket of Google up with their own tools: docs/stores.md says how. A folder needs nothing.",
        )
    })
}
