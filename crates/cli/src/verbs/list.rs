//! `bowline list`.

use crate::args::Common;
use crate::fault::{Fault, beside};
use crate::show::{Printer, bytes};
use crate::wiring::Wiring;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use terms::Explain;

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let reader = Wiring::new(common)?.reader().await?;
    let (backups, unread) = reader.backups_and_damage().await?;
    if backups.is_empty() && unread.is_empty() {
        printer.say(format!("no backups in {}", reader.address()));
    } else if !backups.is_empty() {
        // Of one epoch it would say the same in each line.
        let is_mixed = backups.windows(2).any(|pair| pair[0].system_id != pair[1].system_id);
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut header = vec!["BACKUP", "TYPE", "FROM", "CONSISTENT AT", "LSN", "TL", "FILES", "SIZE", "STORED", "PG"];
        header.extend(is_mixed.then_some("CLUSTER"));
        table.set_header(header);
        for b in &backups {
            let mut row = vec![
                b.id.to_string(),
                b.kind.to_string(),
                b.source.clone(),
                b.stop.time.to_string(),
                b.stop.lsn.to_string(),
                b.timeline.to_string(),
                b.files.to_string(),
                bytes(b.bytes),
                bytes(b.bytes_stored),
                b.major.to_string(),
            ];
            row.extend(is_mixed.then(|| b.system_id.to_string()));
            table.add_row(row);
        }
        for column in 5..10 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.to_string().lines() {
            printer.say(line.trim_end());
        }
    }
    for e in &unread {
        printer.say(format!("unreadable   {}", e.in_a_line()));
    }
    let unreadable: Vec<String> = unread.iter().map(Explain::in_a_line).collect();
    printer.result(json!({ "repository": reader.address(), "backups": backups, "unreadable": unreadable }));
    beside(unread)?;
    Ok(ExitCode::SUCCESS)
}
