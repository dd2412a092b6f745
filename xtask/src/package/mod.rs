//! `cargo xtask package`: lays out the tree of a Debian package around a built program and has dpkg-deb pack it.

mod control;

use crate::listed;
use clap::Parser;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What goes wrong is read by a person, once, so it is text.
type Outcome<T> = Result<T, String>;

/// The tree of the project.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const DOCS: &str = "usr/share/doc/bowline";

/// What to pack, and where to.
#[derive(Debug, Parser)]
#[command(name = "package", about = "Makes the Debian package of a built program")]
pub struct Options {
    /// The program; otherwise the one that was built beside this one.
    #[arg(long, value_name = "FILE")]
    pub bowline: Option<PathBuf>,
    /// The folder that the package is put into; otherwise `package` beside the program.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// The package's revision, as in 0.1.0-1.
    #[arg(long, default_value_t = 1)]
    pub revision: u32,
    /// Pack without compression: for tests.
    #[arg(long)]
    pub quick: bool,
}

/// Entry of `cargo xtask package`; prints where the package is.
pub fn run(arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let Some(options) = crate::options::<Options>("package", arguments)? else { return Ok(()) };
    println!("{}", make(&options)?.display());
    Ok(())
}

fn make(options: &Options) -> Outcome<PathBuf> {
    let beside = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?.with_file_name("bowline");
    let program = options.bowline.clone().unwrap_or(beside);
    if !program.is_file() {
        return Err(format!("{} is not there: build it first, with cargo build --release -p cli", program.display()));
    }
    let to = options.to.clone().unwrap_or_else(|| program.with_file_name("package"));
    make_dir(&to)?;
    let version = format!("{}-{}", env!("CARGO_PKG_VERSION"), options.revision);
    let arch = said(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let tree = to.join(format!(".tree-{}", std::process::id()));
    let package = to.join(format!("bowline_{version}_{arch}.deb"));
    let packed = lay_out(&tree, &program).and_then(|()| control::write(&tree, &version, &arch)).and_then(|()| pack(&tree, &package, options.quick));
    drop(fs::remove_dir_all(&tree));
    packed.map(|()| package)
}

/// Every file where the installed system has it.
fn lay_out(tree: &Path, program: &Path) -> Outcome<()> {
    let root = Path::new(ROOT);
    let installed = tree.join("usr/bin/bowline");
    place(program, &installed, 0o755)?;
    // Lines of the source are for whoever builds it; they are many times the program.
    said(Command::new("strip").args(["--strip-debug"]).arg(&installed))?;
    for unit in listed(&root.join("deploy/systemd"))? {
        place(&unit, &tree.join("usr/lib/systemd/system").join(name_of(&unit)?), 0o644)?;
    }
    let manual = tree.join("usr/share/man/man1");
    make_dir(&manual)?;
    said(Command::new(&installed).arg("manual").arg(&manual))?;
    listed(&manual)?.iter().try_for_each(|page| squeeze(page))?;
    for (shell, file) in [
        ("bash", "usr/share/bash-completion/completions/bowline"),
        ("zsh", "usr/share/zsh/vendor-completions/_bowline"),
        ("fish", "usr/share/fish/vendor_completions.d/bowline.fish"),
    ] {
        write(&tree.join(file), &said(Command::new(&installed).args(["completions", shell]))?, 0o644)?;
    }
    let docs = tree.join(DOCS);
    place(&root.join("deploy/bowline.example.toml"), &docs.join("bowline.example.toml"), 0o644)?;
    place(&root.join("README.md"), &docs.join("README.md"), 0o644)?;
    place_all(&root.join("docs"), &docs.join("docs"))?;
    place(&root.join("CHANGELOG.md"), &docs.join("changelog"), 0o644)?;
    squeeze(&docs.join("changelog"))?;
    write(&docs.join("copyright"), &control::copyright(), 0o644)
}

fn pack(tree: &Path, package: &Path, quick: bool) -> Outcome<()> {
    let mut dpkg_deb = Command::new("dpkg-deb");
    dpkg_deb.args(if quick { ["-Znone"].as_slice() } else { &["-Zxz"] });
    said(dpkg_deb.args(["--root-owner-group", "--build"]).arg(tree).arg(package)).map(drop)
}

/// As Debian wants documents: gzip, without a name or a time in it.
fn squeeze(file: &Path) -> Outcome<()> {
    said(Command::new("gzip").args(["-9", "-n", "-f"]).arg(file)).map(drop)
}

/// A folder with all that is below it.
fn place_all(from: &Path, to: &Path) -> Outcome<()> {
    listed(from)?.iter().try_for_each(|entry| {
        let to = to.join(name_of(entry)?);
        if entry.is_dir() { place_all(entry, &to) } else { place(entry, &to, 0o644) }
    })
}

fn place(from: &Path, to: &Path, mode: u32) -> Outcome<()> {
    make_dir(to.parent().unwrap_or(Path::new("/")))?;
    fs::copy(from, to).map_err(|error| format!("cannot copy {} to {}: {error}", from.display(), to.display()))?;
    set_mode(to, mode)
}

fn write(file: &Path, text: &str, mode: u32) -> Outcome<()> {
    make_dir(file.parent().unwrap_or(Path::new("/")))?;
    fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    set_mode(file, mode)
}

fn set_mode(file: &Path, mode: u32) -> Outcome<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).map_err(|error| format!("cannot set the mode of {}: {error}", file.display()))
}

/// Each folder on the way is open to read, whatever the umask of whoever packs.
fn make_dir(dir: &Path) -> Outcome<()> {
    if dir.is_dir() {
        return Ok(());
    }
    dir.parent().map_or(Ok(()), make_dir)?;
    fs::create_dir(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    set_mode(dir, 0o755)
}

fn name_of(path: &Path) -> Outcome<&str> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| format!("{} has no plain name", path.display()))
}

/// What a command prints.
fn said(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    match output.status.success() {
        true => String::from_utf8(output.stdout).map_err(|_| format!("{command:?} prints no text")),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
