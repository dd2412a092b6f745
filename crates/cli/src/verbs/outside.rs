//! Configuration from outside the data directory: what a restore would do with it, and what it did.

use crate::show::Printer;
use rescue::{Journal, Stage};
use restore::{ConfigPlaces, Fate, Placed, RestorePlan, Target};
use serde_json::{Value, json};
use std::path::Path;

/// What will become of each file, a line for all of one fate.
pub fn steps(plan: &RestorePlan, target: &Target, journal: &Journal) -> Vec<String> {
    let places = ConfigPlaces::of(&plan.contents, target);
    let decided = journal.config_gives_way;
    let gives_way = decided.unwrap_or_else(|| journal.stage < Stage::SetAside && restore::gives_way(target, plan.backup.system_id));
    let mut found = [
        ("configuration is put back".to_owned(), Vec::new()),
        ("configuration is put back, and what is there and differs moved to NAME.before-TIME".to_owned(), Vec::new()),
        ("configuration that is there stays, and the report says where the backup's differs".to_owned(), Vec::new()),
        (format!("configuration from elsewhere goes only into {}", target.side_dir.join("config").display()), Vec::new()),
    ];
    for original in &plan.contents.config {
        let is_anothers = restore::is_anothers(original, target);
        let fate = match (places.may_hold(original), original.exists(), gives_way) {
            (false, ..) => 3,
            (_, false, _) if is_anothers => 3,
            (_, false, _) => 0,
            (_, _, true) if !is_anothers => 1,
            _ => 2,
        };
        found[fate].1.push(original.display().to_string());
    }
    found.into_iter().filter(|(_, files)| !files.is_empty()).map(|(what, files)| format!("{what}: {}", files.join(", "))).collect()
}

/// What became of them.
pub fn show(printer: &Printer, target: &Target, journal: &Journal) {
    if journal.config_placed.is_none() && !journal.config.is_empty() {
        let (number, kept) = (journal.config.len(), target.side_dir.join("config"));
        printer.say(format!(
            "config       of {number} files was outside the data directory, and lies in {}: nothing of it was put back",
            kept.display()
        ));
    }
    journal.config_placed.iter().flatten().flat_map(lines).for_each(|line| printer.say(line));
}

fn lines(placed: &Placed) -> Vec<String> {
    let (original, kept) = (placed.original.display(), placed.kept.display());
    let mut lines = match &placed.fate {
        Fate::Same => Vec::new(),
        Fate::PutBack => vec![format!("config       {original} is put back")],
        Fate::Replaced(before) => vec![format!("config       {original} is the backup's; what was there is {}", before.display())],
        Fate::Left => vec![format!("config       {original} is NOT THE BACKUP'S, which is {kept}: what was there stays")],
        Fate::Apart(why) => vec![format!("config       {original} is NOT PUT BACK: {why}. It is {kept}")],
    };
    if placed.is_open() {
        lines.push(format!("             to use the backup's: {}, then start PostgreSQL again", placed.remedy()));
    }
    lines
}

/// For programs.
pub fn json(journal: &Journal) -> Value {
    let told = |placed: &Placed| {
        let (fate, before, why): (_, Option<&Path>, Option<&str>) = match &placed.fate {
            Fate::Same => ("same", None, None),
            Fate::PutBack => ("put-back", None, None),
            Fate::Replaced(before) => ("replaced", Some(before.as_path()), None),
            Fate::Left => ("left", None, None),
            Fate::Apart(why) => ("apart", None, Some(why.as_str())),
        };
        let remedy = placed.is_open().then(|| placed.remedy());
        json!({ "original": placed.original, "kept": placed.kept, "fate": fate, "before": before, "why": why, "remedy": remedy })
    };
    journal.config_placed.iter().flatten().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_in_the_backup_is_told_with_both_paths_and_the_command() {
        let placed = |fate| Placed { original: "/etc/pg/a.conf".into(), kept: "/d.bowline/config/etc/pg/a.conf".into(), fate };
        let left = lines(&placed(Fate::Left)).join("\n");
        assert!(left.contains("/etc/pg/a.conf is NOT THE BACKUP'S, which is /d.bowline/config/etc/pg/a.conf"), "{left}");
        assert!(left.contains("cp -p /d.bowline/config/etc/pg/a.conf /etc/pg/a.conf"), "{left}");
        let replaced = lines(&placed(Fate::Replaced("/etc/pg/a.conf.before-T".into()))).join("\n");
        assert!(replaced.contains("what was there is /etc/pg/a.conf.before-T") && !replaced.contains("cp "), "{replaced}");
        assert!(lines(&placed(Fate::Same)).is_empty());
    }
}
