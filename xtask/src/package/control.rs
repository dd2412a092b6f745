//! What dpkg is told of the package: its control file, its scripts and its copyright.

use super::{Outcome, ROOT, place};
use std::fs;
use std::path::Path;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes the folder DEBIAN of a tree that has its files.
pub fn write(tree: &Path, version: &str, arch: &str) -> Outcome<()> {
    for script in SCRIPTS {
        place(&Path::new(ROOT).join("deploy/debian").join(script), &tree.join("DEBIAN").join(script), 0o755)?;
    }
    let program = tree.join("usr/bin/bowline");
    let bytes = fs::read(&program).map_err(|error| format!("cannot read {}: {error}", program.display()))?;
    let libc = libc_needed(&bytes).ok_or_else(|| format!("{} names no version of glibc", program.display()))?;
    let text = format!(
        "Package: bowline\nVersion: {version}\nArchitecture: {arch}\nMaintainer: Bowline maintainers <bowline@localhost>\n\
         Section: database\nPriority: optional\nInstalled-Size: {size}\nDepends: libc6 (>= {libc}), libgcc-s1, passwd\n\
         Recommends: ca-certificates, systemd\nSuggests: postgresql, postgresql-contrib\nHomepage: {homepage}\n\
         Description: backup and disaster recovery of PostgreSQL\n \
         Backs up a PostgreSQL cluster to a bucket or a folder, encrypted, streams its\n \
         write-ahead log there, and brings it back to any instant with one command.\n",
        size = kib_of(tree)?,
        homepage = env!("CARGO_PKG_REPOSITORY"),
    );
    super::write(&tree.join("DEBIAN/control"), &text, 0o644)
}

/// In Debian's machine-readable form; the licence is one that every Debian has at hand.
pub fn copyright() -> String {
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: bowline\nSource: {}\n\n\
         Files: *\nCopyright: the Bowline maintainers\nLicense: Apache-2.0\n On Debian the text is in /usr/share/common-licenses/Apache-2.0.\n",
        env!("CARGO_PKG_REPOSITORY")
    )
}

/// The newest version of glibc that a program asks for, by the names of versions in it.
fn libc_needed(program: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"GLIBC_2.";
    let minor = |at: usize| {
        let digits = program[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte));
        digits.collect::<String>().parse::<u32>().ok()
    };
    let found = (0..program.len().saturating_sub(NAME.len())).filter(|at| program[*at..].starts_with(NAME));
    found.filter_map(minor).max().map(|minor| format!("2.{minor}"))
}

/// What the files take, as dpkg counts it.
fn kib_of(dir: &Path) -> Outcome<u64> {
    let mut kib = 1;
    for path in crate::listed(dir)? {
        let known = fs::symlink_metadata(&path).map_err(|error| format!("cannot look at {}: {error}", path.display()))?;
        kib += if known.is_dir() { kib_of(&path)? } else { known.len().div_ceil(1024) };
    }
    Ok(kib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_that_is_asked_for_counts_by_number() {
        assert_eq!(libc_needed(b"..GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE").as_deref(), Some("2.34"));
        assert_eq!(libc_needed(b"static"), None);
    }
}
