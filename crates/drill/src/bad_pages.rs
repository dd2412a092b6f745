//! Tells of bad pages by the names of the relations that they are of, as far as the restored server knows them.

use crate::Report;
use crate::pages::Pages;
use checks::{Fault, Outcome};
use pg::{BadPage, ConnInfo, Sql};
use std::collections::{BTreeMap, BTreeSet};

/// Bad pages are faults, by the relation's name where the server knows it.
pub(crate) async fn tell(info: &ConnInfo, found: &Pages, report: &mut Report) {
    let files: BTreeSet<String> = found.bad.iter().map(|bad| first_file(&bad.file)).collect();
    let files: Vec<String> = files.into_iter().collect();
    if files.is_empty() {
        return;
    }
    let databases: Vec<String> = report.proof.databases.iter().map(|database| database.name.clone()).collect();
    let mut names = Names::new();
    for database in databases {
        let Ok(session) = Sql::connect(&info.clone().with_dbname(&database)).await else { continue };
        for (file, name) in session.relations_in(&files).await.unwrap_or_default() {
            names.entry(file).or_insert((database.clone(), name));
        }
    }
    tell_with(found, &names, report);
}

/// The same where no server can name relations.
pub(crate) fn tell_files(found: &Pages, report: &mut Report) {
    tell_with(found, &BTreeMap::new(), report);
}

/// A relation's database and name, by its first file.
type Names = BTreeMap<String, (String, String)>;

fn tell_with(found: &Pages, names: &Names, report: &mut Report) {
    for bad in &found.bad {
        let (database, name) = names.get(&first_file(&bad.file)).cloned().unwrap_or_default();
        let object = if name.is_empty() { bad.file.clone() } else { format!("{name} (file {})", bad.file) };
        report.proof.faults.push(bad_page(database, object, &bad.page));
    }
    let told = found.bad.len() as u64;
    if told < found.proof.bad {
        let what = format!("{} pages have a wrong checksum; the first {told} are named", found.proof.bad);
        report.proof.faults.push(Fault { outcome: Outcome::Failed, database: String::new(), object: "pages".into(), what });
    }
}

/// The file that a relation is known by: without the number of a gigabyte and the name of a fork.
fn first_file(file: &str) -> String {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    format!("{folder}/{}", name.split(['.', '_']).next().unwrap_or(name))
}

fn bad_page(database: String, object: String, page: &BadPage) -> Fault {
    let BadPage { block, lsn, stored, computed } = page;
    let what = format!("block {block}: the page's checksum is {stored:04X} and its bytes make {computed:04X}; last changed at {lsn}");
    Fault { outcome: Outcome::Failed, database, object, what }
}
