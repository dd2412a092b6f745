//! What PostgreSQL's programs on this host bring along: its libraries and extensions, and the locales of the host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An installation of one major version. What could not be found out is `None`: it is neither there nor missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installation {
    /// Where `$libdir` is.
    lib_dir: Option<PathBuf>,
    /// Where `extension/*.control` are.
    share_dir: Option<PathBuf>,
    /// As `locale -a` names them, made comparable by [`plain_locale`].
    locales: Option<BTreeSet<String>>,
    /// The version of this host's C library, as PostgreSQL names it for a collation (`get_collation_actual_version`, pg_locale.c).
    pub libc_version: Option<String>,
    /// Whether PostgreSQL was built with ICU.
    pub has_icu: Option<bool>,
}

impl Installation {
    /// Looks at what belongs to the programs in this directory. `pg_config` is asked where it is there; else the places beside the
    /// programs are tried where packages put things.
    pub fn of(bin_dir: &Path) -> Self {
        // They may be links into the place where the packages put them.
        let real = std::fs::canonicalize(bin_dir.join("postgres")).ok().and_then(|program| Some(program.parent()?.to_owned()));
        let bin_dir = real.as_deref().unwrap_or(bin_dir);
        let asked = |what| said(Command::new(bin_dir.join("pg_config")).arg(what)).map(|text| PathBuf::from(text.trim()));
        let prefix = bin_dir.parent();
        let beside = |names: &[&str]| names.iter().filter_map(|name| Some(prefix?.join(name))).collect::<Vec<_>>();
        // Debian keeps libraries in /usr/lib/postgresql/18/lib and the rest in /usr/share/postgresql/18.
        let shared = prefix.and_then(Path::file_name).map(|major| Path::new("/usr/share/postgresql").join(major));
        let lib = asked("--pkglibdir").into_iter().chain(beside(&["lib", "lib/postgresql", "lib64", "lib64/postgresql"]));
        let share = asked("--sharedir").into_iter().chain(shared).chain(beside(&["share", "share/postgresql"]));
        let locales = said(Command::new("locale").arg("-a")).map(|text| text.lines().map(plain_locale).collect());
        // "glibc 2.36".
        let libc = said(Command::new("getconf").arg("GNU_LIBC_VERSION")).and_then(|text| Some(text.trim().strip_prefix("glibc ")?.to_owned()));
        let configured = said(Command::new(bin_dir.join("pg_config")).arg("--configure"));
        Self {
            // Every server has these two, so a directory without them is another one.
            lib_dir: lib.into_iter().find(|dir| dir.join("plpgsql.so").exists()),
            share_dir: share.into_iter().find(|dir| dir.join("extension/plpgsql.control").exists()),
            locales,
            libc_version: libc,
            has_icu: configured.map(|text| !text.contains("--without-icu")),
        }
    }

    /// Whether a library that is loaded by this name is there: `$libdir/x`, `x` or a whole path, with or without its ending.
    pub fn has_library(&self, name: &str) -> Option<bool> {
        let name = name.strip_prefix("$libdir/").unwrap_or(name);
        let path = if Path::new(name).is_absolute() { PathBuf::from(name) } else { self.lib_dir.as_ref()?.join(name) };
        let mut with_ending = path.clone().into_os_string();
        with_ending.push(".so");
        Some(path.is_file() || Path::new(&with_ending).is_file())
    }

    /// Whether an extension of this name can be created.
    pub fn has_extension(&self, name: &str) -> Option<bool> {
        Some(self.share_dir.as_ref()?.join("extension").join(format!("{name}.control")).is_file())
    }

    /// Whether this host knows a locale of libc. The C library itself brings some.
    pub fn has_locale(&self, name: &str) -> Option<bool> {
        if name.is_empty() || ["C", "POSIX"].contains(&name) {
            return Some(true);
        }
        Some(self.locales.as_ref()?.contains(&plain_locale(name)))
    }
}

/// `en_US.UTF-8` and `en_US.utf8` are one locale: the encoding's name is compared by letters and digits, without their case.
fn plain_locale(name: &str) -> String {
    let name = name.trim();
    let (place, rest) = name.split_once('.').unwrap_or((name, ""));
    let (encoding, modifier) = rest.split_once('@').map_or((rest, None), |(encoding, modifier)| (encoding, Some(modifier)));
    let encoding: String = encoding.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let dot = if encoding.is_empty() { "" } else { "." };
    format!("{place}{dot}{encoding}{}", modifier.map_or_else(String::new, |m| format!("@{m}")))
}

/// What a program prints, when it runs and ends well.
fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_are_compared_as_the_c_library_compares_them() {
        for (one, other) in
            [("en_US.UTF-8", "en_US.utf8"), ("de_DE.ISO8859-15@euro", "de_DE.iso885915@euro"), ("C.UTF-8", "C.utf8"), ("de_DE", "de_DE")]
        {
            assert_eq!(plain_locale(one), plain_locale(other));
        }
        assert_ne!(plain_locale("en_US.UTF-8"), plain_locale("en_GB.UTF-8"));
        assert_ne!(plain_locale("de_DE@euro"), plain_locale("de_DE"));
    }

    #[test]
    fn what_lies_beside_the_programs_is_there_and_all_else_is_missing_or_unknown() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        for dir in ["bin", "lib", "share/extension"] {
            std::fs::create_dir_all(home.path().join(dir)).unwrap();
        }
        assert_eq!(Installation::of(&bin).has_library("vector"), None, "no library is known to be there, so none is known to be missing");
        for file in ["lib/plpgsql.so", "lib/vector.so", "share/extension/plpgsql.control", "share/extension/vector.control"] {
            std::fs::write(home.path().join(file), "").unwrap();
        }
        let found = Installation::of(&bin);
        for name in ["vector", "$libdir/vector", "vector.so", home.path().join("lib/vector").to_str().unwrap()] {
            assert_eq!(found.has_library(name), Some(true), "{name}");
        }
        assert_eq!(
            (found.has_library("$libdir/postgis-3"), found.has_extension("vector"), found.has_extension("postgis")),
            (Some(false), Some(true), Some(false))
        );
        assert_eq!((found.has_locale("C"), found.has_locale("")), (Some(true), Some(true)));
    }
}
