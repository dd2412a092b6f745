//! `bowline packages enable`: versions on both buckets and the rule that copies one to the other.

use crate::args::PackagesSureArgs;
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::confirm::confirm;
use crate::wiring::Wiring;
use packages::{Enabling, Task};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Arc;
use store::Outcome;
use terms::Class;

pub async fn run(wiring: &Wiring, asked: &PackagesSureArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let enabling = Enabling::plan(&super::settings(wiring)?).await?;
    let line = |task: &Task| format!("{}: {}", enabling.bucket(task.side).address(), task.step.describe());
    let planned: Vec<Value> = enabling
        .tasks
        .iter()
        .map(|task| json!({ "bucket": enabling.bucket(task.side).name(), "step": task.step.name(), "what": line(task) }))
        .collect();
    for obstacle in &enabling.obstacles {
        printer.say(format!("obstacle: {obstacle}"));
    }
    if enabling.tasks.is_empty() && enabling.obstacles.is_empty() {
        printer.say("both buckets keep versions, and the replication is set up as it should be");
        printer.result(json!({ "steps": [], "obstacles": [] }));
        return Ok(ExitCode::SUCCESS);
    }
    for task in &enabling.tasks {
        printer.say(format!("  {}", line(task)));
    }
    if enabling.leaves_existing_objects() {
        printer.say("note: objects that are there already are not copied by this; on AWS run S3 Batch Replication once");
    }
    if asked.plan {
        printer.result(json!({ "steps": planned, "obstacles": enabling.obstacles }));
        return Ok(ExitCode::SUCCESS);
    }
    // Versions alone would look like a replication that is set up.
    if let Some(obstacle) = enabling.obstacles.first() {
        return Err(Fault::of(
            "packages-obstacle",
            Class::Refused,
            "the replication of the packages cannot be set up as it should be",
            obstacle.clone(),
            "Nothing was changed. Remove the obstacle and run this again.",
        ));
    }
    confirm("the setting up of the replication", asked.yes, printer)?;
    let (mut told, mut refused) = (Vec::new(), 0);
    for task in &enabling.tasks {
        let outcome = enabling.carry_out(task).await?;
        let (word, why) = match &outcome {
            Outcome::Done => ("done", ""),
            Outcome::Denied(why) => ("denied", why.as_str()),
            Outcome::Unsupported(why) => ("unsupported", why.as_str()),
            Outcome::Failed(why) => ("failed", why.as_str()),
        };
        printer.say(format!("{word:<11}  {}", line(task)));
        let mut entry = json!({ "bucket": enabling.bucket(task.side).name(), "step": task.step.name(), "outcome": word });
        if outcome != Outcome::Done {
            refused += 1;
            let command = task.step.aws_command(enabling.bucket(task.side));
            printer.say(format!("{:13}{why}\n{:13}→ somebody who may: {command}", "", ""));
            (entry["why"], entry["command"]) = (json!(why), json!(command));
        }
        told.push(entry);
        // A rule without versions on both sides is refused anyway.
        if outcome != Outcome::Done {
            break;
        }
    }
    let result = json!({ "steps": told, "obstacles": enabling.obstacles, "refused": refused });
    if refused > 0 {
        let hint = "Have the printed command run by somebody who may, and run this again; a store without replication wants [packages] snapshots.";
        return Err(
            Fault::of("packages-unfinished", Class::Refused, "the replication of the packages is not set up", "", hint).with("packages", result)
        );
    }
    printer.say("next: bowline packages status");
    printer.result(result);
    Ok(ExitCode::SUCCESS)
}
