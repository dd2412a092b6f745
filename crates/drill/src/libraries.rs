//! The libraries that production's server loads at its start or into each session, which a drill's server is started without.

use crate::Report;
use crate::report::LeftOut;
use pg::{ConnInfo, Sql};
use repo::{ManifestReader, Reader};
use restore::{RestorePlan, Target};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use terms::Explain;

const SETTINGS: [&str; 3] = ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"];

/// Names them in the report, each with whether this host has it: with one that is missing a server restored here would not start, or would
/// let nobody in.
pub(crate) async fn look(info: &ConnInfo, reader: &Reader, plan: &RestorePlan, target: &Target, report: &mut Report) {
    let mut names = in_files(&target.data_dir, &target.side_dir.join("config"));
    // What the server had in force, wherever it came from: its command line or its environment, say.
    match ManifestReader::open_for(reader, &plan.backup).await {
        Ok(manifest) => names.extend(manifest.header().host["shared_preload_libraries"].as_str().into_iter().flat_map(listed)),
        Err(error) => report.notice("", "preload libraries", format!("what the backup says of them could not be read again: {}", error.in_a_line())),
    }
    let session = match Sql::connect(info).await {
        Ok(session) => session,
        Err(error) => {
            report.notice("", "preload libraries", format!("whether this host has them could not be asked: {}", error.in_a_line()));
            report.left_out = names.into_iter().map(|library| LeftOut { library, is_here: None }).collect();
            return;
        }
    };
    match session.preloads_of_roles().await {
        Ok(lists) => names.extend(lists.iter().flat_map(|list| listed(list))),
        Err(error) => report.notice("", "preload libraries", format!("those set for single roles could not be read: {}", error.in_a_line())),
    }
    for library in names {
        let is_here = session.has_library(&library).await.ok();
        if is_here == Some(false) {
            let what =
                "is loaded by production's server and not on this host: a restore here needs the package that brings it, or the setting changed";
            report.notice("", &format!("preload library {library}"), what.into());
        }
        report.left_out.push(LeftOut { library, is_here });
    }
}

/// Those that the restored configuration names, inside the data directory and outside it. Every file counts, whichever wins: a library that
/// is named too many is only looked for.
fn in_files(data_dir: &Path, outside: &Path) -> BTreeSet<String> {
    let mut files = vec![data_dir.join("postgresql.conf"), data_dir.join("postgresql.auto.conf")];
    let mut folders: Vec<PathBuf> = vec![outside.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) if entry.path().extension().is_some_and(|ending| ending == "conf") => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.iter().filter_map(|file| fs::read(file).ok()).flat_map(|bytes| in_text(&String::from_utf8_lossy(&bytes))).collect()
}

/// Lines such as `shared_preload_libraries = 'a, b' # why` (manual chapter 20.1.2).
fn in_text(text: &str) -> Vec<String> {
    let value = |line: &str| {
        let line = line.trim_start();
        let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
        let is_one = SETTINGS.iter().any(|name| name.eq_ignore_ascii_case(&line[..end]));
        let rest = line[end..].trim_start().trim_start_matches('=').trim_start();
        let value = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next()?,
            None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?,
        };
        is_one.then(|| value.to_owned())
    };
    text.lines().filter_map(value).flat_map(|value| listed(&value).collect::<Vec<_>>()).collect()
}

/// The names of a list, which may be quoted.
fn listed(list: &str) -> impl Iterator<Item = String> + '_ {
    list.split(',').map(|name| name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_configuration_file_name_libraries() {
        let text = "# shared_preload_libraries = 'not_me'\nshared_preload_libraries = 'a, \"b-c\"' # why\n\
            Local_Preload_Libraries plain#no\nwork_mem = '4MB'\nsession_preload_libraries = ''\n";
        assert_eq!(in_text(text), ["a", "b-c", "plain"]);
    }
}
