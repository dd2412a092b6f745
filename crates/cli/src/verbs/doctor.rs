//! `bowline doctor`: explains whatever is red, and how it is mended.

use crate::args::Common;
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::status::OF_THE_DAEMON;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use terms::Urgency;
use watch::RULES;

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let (facts, judgement) = super::status::look(common, printer).await?;
    let mut alarms = judgement.alarms;
    // What is gravest first, and within that what other things follow from: rules are listed in that order.
    let place = |rule: &str| RULES.iter().position(|(name, _)| *name == rule).unwrap_or(RULES.len());
    alarms.sort_by_key(|alarm| (std::cmp::Reverse(alarm.urgency), place(&alarm.rule)));
    for (number, alarm) in alarms.iter().enumerate() {
        let subject = if alarm.subject.is_empty() { String::new() } else { format!(" {}", alarm.subject) };
        printer.say(format!("{}. {} [{}{subject}] {}", number + 1, alarm.urgency.name().to_uppercase(), alarm.rule, alarm.summary));
        if let Some((_, wanted)) = RULES.iter().find(|(rule, _)| *rule == alarm.rule) {
            printer.say(format!("   should be: {wanted}"));
        }
        if !alarm.detail.is_empty() {
            printer.say(format!("   because:   {}", alarm.detail));
        }
        printer.say(format!(
            "   do:        {}",
            if alarm.hint.is_empty() { "nothing is known to do by itself; see the lines above" } else { &alarm.hint }
        ));
    }
    for rule in &judgement.unknown {
        printer.say(format!("not judged:  {rule}: what it looks at could not be looked at"));
    }
    let red = alarms.iter().filter(|alarm| alarm.urgency == Urgency::Critical).count();
    printer.say(match (alarms.len(), red, judgement.unknown.len()) {
        (0, 0, 0) if facts.acting.is_some() => format!("nothing is wrong: all {} rules hold", RULES.len()),
        (0, 0, 0) => format!(
            "nothing is wrong: {} rules hold; {} only a daemon can judge, and none acts",
            RULES.len() - OF_THE_DAEMON.len(),
            OF_THE_DAEMON.join(" and ")
        ),
        (0, 0, unknown) => format!("nothing is known to be wrong; {unknown} rules could not be judged"),
        (all, red, _) => format!("{red} critical, {} to look at", all - red),
    });
    printer.result(json!({ "alarms": alarms, "unknown": judgement.unknown, "critical": red }));
    Ok(if red == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
