//! What this host lacks to run a restored cluster, and the command that installs it. Pure: a record and an installation in, lacks out.

use crate::Contents;
use crate::packages::{install, is_brought_along, plain};
use pg::{DatabaseNeeds, HostNeeds, Installation, InstanceError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use terms::Explain;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// The restored server does not start.
    Blocks,
    /// It starts, and a part of it does not work or gives wrong answers.
    Breaks,
    /// It could not be found out: neither there nor missing.
    Unknown,
}

/// Something that the cluster had where it was backed up, and that this host does not have as far as can be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// The gravest come first.
    pub weight: Weight,
    /// For people, such as `extension postgis`.
    pub what: String,
    /// Who needs it, and what follows.
    pub why: String,
    /// What to do.
    pub hint: String,
    /// The package of Debian and Ubuntu that brings it, when that is known.
    pub package: Option<String>,
}

/// What is there to compare with.
pub struct Host<'h> {
    /// PostgreSQL of the backup's major, or why there is none.
    pub installation: Result<&'h Installation, &'h InstanceError>,
    /// Whether this host knows a user of this name.
    pub has_user: &'h dyn Fn(&str) -> bool,
}

/// Compares what a backup's cluster needs with what is here, the gravest first.
pub fn lacks(contents: &Contents, major: u32, host: &Host<'_>) -> Vec<Lack> {
    let needs = &contents.host;
    let mut found = Vec::new();
    if let Err(missing) = host.installation {
        let package = Some(format!("postgresql-{major}"));
        found.push(Lack { weight: Weight::Blocks, what: format!("PostgreSQL {major}"), why: missing.detail(), hint: missing.hint(), package });
    }
    match contents.is_host_known {
        true => found.extend(Comparison { needs, major, installation: host.installation.ok() }.all()),
        false => found.push(unknown(
            "what the cluster needs of its host",
            "The backup's record of it is missing or cannot be read.".into(),
            "Compare extensions, preload libraries and locales with the old host's by hand.".into(),
        )),
    }
    if let Some(owner) = needs.owner.as_ref().filter(|owner| !(host.has_user)(owner)) {
        found.push(Lack {
            weight: Weight::Breaks,
            what: format!("user {owner}"),
            why: "The server ran as this user; service files and pg_ident.conf may name it.".into(),
            hint: format!("useradd --system --user-group {owner}"),
            package: None,
        });
    }
    found.sort_by_key(|lack| lack.weight);
    found
}

/// One command for all packages that are known by name.
pub fn install_command(lacks: &[Lack]) -> Option<String> {
    let packages: BTreeSet<&str> = lacks.iter().filter_map(|lack| lack.package.as_deref()).collect();
    (!packages.is_empty()).then(|| format!("apt-get install {}", packages.into_iter().collect::<Vec<_>>().join(" ")))
}

fn unknown(what: impl Into<String>, why: String, hint: String) -> Lack {
    Lack { weight: Weight::Unknown, what: what.into(), why, hint, package: None }
}

struct Comparison<'c> {
    needs: &'c HostNeeds,
    major: u32,
    installation: Option<&'c Installation>,
}

impl Comparison<'_> {
    fn all(&self) -> Vec<Lack> {
        let mut found = self.preloads();
        found.extend(self.extensions());
        found.extend(self.libraries(&found));
        found.extend(self.locales());
        found.extend(self.collations());
        let unseen: Vec<&str> =
            self.needs.databases.iter().filter(|d| d.extensions.is_none() && d.name != "template0").map(|d| d.name.as_str()).collect();
        if !unseen.is_empty() {
            found.push(unknown(
                format!("extensions and libraries of {}", unseen.join(", ")),
                "The backup could not look into it, or was made by an older Bowline.".into(),
                "Let its role into every database (pg_hba.conf, CONNECT); until then compare by hand.".into(),
            ));
        }
        found
    }

    /// Whether a library is missing; without an installation all that PostgreSQL does not bring along itself is. `None`: unknown.
    fn is_missing(&self, name: &str, there: impl Fn(&Installation) -> Option<bool>) -> Option<bool> {
        match self.installation {
            Some(installation) => there(installation).map(|there| !there),
            None => Some(!is_brought_along(name)),
        }
    }

    /// A missing or uncertain thing that packages bring.
    fn lack(&self, weight: Weight, what: String, name: &str, why: String, is_missing: Option<bool>) -> Option<Lack> {
        let (hint, package) = install(name, self.major);
        match is_missing {
            Some(false) => None,
            Some(true) => Some(Lack { weight, what, why, hint, package }),
            None => Some(Lack {
                weight: Weight::Unknown,
                what,
                why: format!("{why} Where PostgreSQL keeps such files here could not be found out."),
                hint,
                package: None,
            }),
        }
    }

    fn preloads(&self) -> Vec<Lack> {
        let needs = self.needs;
        let settings = [
            ("shared_preload_libraries", &needs.shared_preload_libraries, "", Weight::Blocks, "without it the server does not start"),
            ("session_preload_libraries", &needs.session_preload_libraries, "", Weight::Breaks, "without it no session can be opened"),
            ("local_preload_libraries", &needs.local_preload_libraries, "plugins/", Weight::Breaks, "without it no session can be opened"),
            ("archive_library", &needs.archive_library, "", Weight::Breaks, "without it nothing is archived"),
        ];
        let mut found = Vec::new();
        for (setting, value, below, weight, consequence) in settings {
            for name in value.iter().flat_map(|value| names_in(value)) {
                // What is loaded by its bare name only may be required to lie in a folder of its own.
                let path = if name.contains('/') { name.clone() } else { format!("{below}{name}") };
                let is_missing = self.is_missing(&name, |installation| installation.has_library(&path));
                found.extend(self.lack(weight, format!("library {name}"), &name, format!("{setting} names it: {consequence}."), is_missing));
            }
        }
        found
    }

    fn extensions(&self) -> Vec<Lack> {
        let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        // What an older Bowline recorded is of the one database that it was connected to.
        for (name, _) in &self.needs.extensions {
            used.entry(name).or_default();
        }
        for database in &self.needs.databases {
            for (name, _) in database.extensions.iter().flatten() {
                used.entry(name).or_default().insert(&database.name);
            }
        }
        let lack = |(name, databases): (&str, BTreeSet<&str>)| {
            let databases: Vec<_> = databases.into_iter().collect();
            let whose = if databases.is_empty() { "A database uses it".to_owned() } else { format!("Used in {}", databases.join(", ")) };
            let is_missing = self.is_missing(name, |installation| installation.has_extension(name));
            self.lack(Weight::Breaks, format!("extension {name}"), name, format!("{whose}: its functions, types and indexes fail."), is_missing)
        };
        used.into_iter().filter_map(lack).collect()
    }

    /// Libraries of functions, but for those that come with what is missing already.
    fn libraries(&self, known: &[Lack]) -> Vec<Lack> {
        let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for database in &self.needs.databases {
            for name in database.libraries.iter().flatten() {
                used.entry(name).or_default().insert(&database.name);
            }
        }
        let mut found = Vec::new();
        for (path, databases) in used {
            let name = path.rsplit('/').next().unwrap_or(path);
            let comes_along = |lack: &Lack| lack.hint == install(name, self.major).0 || lack.what.ends_with(&format!(" {}", plain(name)));
            if known.iter().any(comes_along) {
                continue;
            }
            let databases: Vec<_> = databases.into_iter().collect();
            let is_missing = self.is_missing(name, |installation| installation.has_library(path));
            let why = format!("Functions in {} are in it.", databases.join(", "));
            found.extend(self.lack(Weight::Breaks, format!("library {path}"), name, why, is_missing));
        }
        found
    }

    fn locales(&self) -> Vec<Lack> {
        let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for database in self.needs.databases.iter().filter(|database| database.name != "template0") {
            let names = [Some(&database.locale), database.ctype.as_ref()];
            for name in names.into_iter().flatten().chain(&database.collations) {
                used.entry(name).or_default().insert(&database.name);
            }
        }
        // Any installation tells of this host's locales; so does none at all.
        let alone = Installation::default();
        let installation = self.installation.unwrap_or(&alone);
        let mut found = Vec::new();
        for (name, databases) in used {
            let databases = databases.into_iter().collect::<Vec<_>>().join(", ");
            let why = format!("Used in {databases}: without it nobody can connect there, or its texts cannot be compared.");
            let (place, encoding) = name.split_once('.').unwrap_or((name, "UTF-8"));
            let hint = format!(
                "localedef -i {place} -f {encoding} {name} (Debian, Ubuntu: after apt-get install locales; RHEL: dnf install glibc-langpack-…)"
            );
            match installation.has_locale(name) {
                Some(true) => {}
                Some(false) => found.push(Lack { weight: Weight::Breaks, what: format!("locale {name}"), why, hint, package: None }),
                None => found.push(unknown(format!("locale {name}"), format!("{why} This host's locales could not be listed (locale -a)."), hint)),
            }
        }
        found
    }

    /// Indexes over texts are in the order of the collation that they were built with.
    fn collations(&self) -> Vec<Lack> {
        let reindex = |database: &DatabaseNeeds| {
            let name = database.name.replace('"', "\"\"");
            format!("After the restore, in {}: REINDEX DATABASE \"{name}\"; ALTER DATABASE \"{name}\" REFRESH COLLATION VERSION", database.name)
        };
        let mut found = Vec::new();
        for database in self.needs.databases.iter().filter(|database| database.name != "template0") {
            let what = |version: &str| format!("collation version {version} of database {}", database.name);
            let here = self.installation.and_then(|installation| installation.libc_version.as_deref());
            match (database.provider.as_deref(), database.collation_version.as_deref(), here) {
                (Some("libc"), Some(then), Some(here)) if then != here => found.push(Lack {
                    weight: Weight::Breaks,
                    what: what(then),
                    why: format!("This host's C library has {here}: if it orders texts otherwise, indexes over texts miss rows."),
                    hint: reindex(database),
                    package: None,
                }),
                (Some("libc"), Some(then), None) => {
                    found.push(unknown(what(then), "This host's version could not be found out.".into(), reindex(database)));
                }
                (Some("icu"), ..) if self.installation.is_some_and(|installation| installation.has_icu == Some(false)) => found.push(Lack {
                    weight: Weight::Breaks,
                    what: format!("ICU for database {}", database.name),
                    why: "PostgreSQL here was built without it: nobody can connect there.".into(),
                    hint: format!("Install a PostgreSQL {} that was built with ICU, such as that of apt.postgresql.org.", self.major),
                    package: None,
                }),
                (Some("icu"), Some(then), _) => {
                    let why = "Only the restored server can tell which version of ICU it has; it warns at each connection when that is another.";
                    found.push(unknown(what(then), why.into(), format!("When it warns: {}", reindex(database))));
                }
                _ => {}
            }
        }
        found
    }
}

/// The names in a setting that is a list.
fn names_in(value: &str) -> Vec<String> {
    value.split(',').map(|name| name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(needs: HostNeeds) -> Contents {
        Contents { host: needs, is_host_known: true, ..Contents::default() }
    }

    fn database(name: &str) -> DatabaseNeeds {
        DatabaseNeeds { name: name.into(), locale: "C".into(), extensions: Some(Vec::new()), ..DatabaseNeeds::default() }
    }

    /// An installation in which PL/pgSQL and nothing else is.
    fn bare() -> (tempfile::TempDir, Installation) {
        let home = tempfile::tempdir().unwrap();
        for dir in ["bin", "lib", "share/extension"] {
            std::fs::create_dir_all(home.path().join(dir)).unwrap();
        }
        for file in ["lib/plpgsql.so", "share/extension/plpgsql.control"] {
            std::fs::write(home.path().join(file), "").unwrap();
        }
        let found = Installation::of(&home.path().join("bin"));
        (home, found)
    }

    fn found(needs: HostNeeds, installation: &Installation) -> Vec<(Weight, String, Option<String>)> {
        let host = Host { installation: Ok(installation), has_user: &|name| name == "postgres" };
        lacks(&contents(needs), 18, &host).into_iter().map(|lack| (lack.weight, lack.what, lack.package)).collect()
    }

    #[test]
    fn an_extension_and_the_library_that_comes_with_it_are_one_lack() {
        let (_home, here) = bare();
        let shop = DatabaseNeeds {
            extensions: Some(vec![("plpgsql".into(), "1.0".into()), ("postgis".into(), "3.5".into()), ("strange".into(), "1".into())]),
            libraries: Some(vec!["$libdir/postgis-3".into(), "$libdir/strange".into(), "$libdir/own".into()]),
            ..database("shop")
        };
        let lacks = found(HostNeeds { databases: vec![shop], ..HostNeeds::default() }, &here);
        let expected =
            [("extension postgis", Some("postgresql-18-postgis-3".to_owned())), ("extension strange", None), ("library $libdir/own", None)];
        assert_eq!(lacks, expected.map(|(what, package)| (Weight::Breaks, what.to_owned(), package)));
    }

    #[test]
    fn a_preload_library_that_is_missing_blocks_and_comes_first() {
        let (_home, here) = bare();
        let preload = Some("\"pg_stat_statements\", pg_cron,plpgsql".to_owned());
        let needs = HostNeeds { shared_preload_libraries: preload, owner: Some("pgsrv".into()), ..HostNeeds::default() };
        let lacks = found(needs, &here);
        let what: Vec<_> = lacks.iter().map(|(weight, what, _)| (*weight, what.as_str())).collect();
        assert_eq!(what, [(Weight::Blocks, "library pg_stat_statements"), (Weight::Blocks, "library pg_cron"), (Weight::Breaks, "user pgsrv")]);
        assert_eq!(lacks[1].2.as_deref(), Some("postgresql-18-cron"));
    }

    #[test]
    fn on_a_bare_host_one_command_installs_all_that_is_known() {
        let missing = InstanceError::ProgramsMissing { major: 18, looked: vec!["/usr/lib/postgresql/18/bin".into()] };
        let extensions = Some(vec![("plpgsql".into(), "1.0".into()), ("vector".into(), "0.8".into()), ("pg_trgm".into(), "1.6".into())]);
        let needs = HostNeeds { databases: vec![DatabaseNeeds { extensions, ..database("kb") }], ..HostNeeds::default() };
        let host = Host { installation: Err(&missing), has_user: &|_| true };
        let lacks = lacks(&contents(needs), 18, &host);
        assert_eq!((lacks.len(), lacks[0].weight, lacks[0].what.as_str()), (2, Weight::Blocks, "PostgreSQL 18"));
        assert_eq!(install_command(&lacks).as_deref(), Some("apt-get install postgresql-18 postgresql-18-pgvector"));
    }

    #[test]
    fn what_was_not_recorded_or_cannot_be_looked_for_is_unknown_and_never_there() {
        let nowhere = Installation::default();
        let needs = HostNeeds {
            shared_preload_libraries: Some("pg_cron".into()),
            databases: vec![database("a"), DatabaseNeeds { extensions: None, ..database("b") }],
            ..HostNeeds::default()
        };
        let lacks = found(needs, &nowhere);
        assert_eq!(lacks.len(), 2, "{lacks:?}");
        assert!(lacks.iter().all(|(weight, ..)| *weight == Weight::Unknown));
        let host = Host { installation: Ok(&nowhere), has_user: &|_| true };
        assert_eq!(super::lacks(&Contents::default(), 18, &host)[0].weight, Weight::Unknown);
    }

    #[test]
    fn another_c_library_means_that_indexes_over_texts_are_in_doubt() {
        let (_home, mut here) = bare();
        here.libc_version = Some("2.36".into());
        let then = DatabaseNeeds { provider: Some("libc".into()), collation_version: Some("2.1".into()), ..database("a\"b") };
        let host = Host { installation: Ok(&here), has_user: &|_| true };
        let lacks = lacks(&contents(HostNeeds { databases: vec![then], ..HostNeeds::default() }), 18, &host);
        assert!(lacks.len() == 1 && lacks[0].hint.contains("REINDEX DATABASE \"a\"\"b\""), "{lacks:?}");
    }
}
