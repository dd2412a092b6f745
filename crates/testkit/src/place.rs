//! Where a cluster lives: its directory, socket and port, and the lines of postgresql.conf that say so.

use crate::launch;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// A new directory under /tmp for one cluster.
pub(crate) fn new_home() -> PathBuf {
    launch::server_user();
    let dir = tempfile::Builder::new().prefix("bl").rand_bytes(6).tempdir_in("/tmp").expect("make a directory in /tmp").keep();
    let dir = dir.canonicalize().expect("the directory just made");
    launch::make_dir(&dir, 0o711);
    launch::make_dir(&dir.join("s"), 0o700);
    dir
}

/// Where the server is reached.
pub(crate) fn placement(home: &Path, port: u16, tcp: bool) -> Vec<(String, String)> {
    let socket = home.join("s").display().to_string();
    let listen = if tcp { "127.0.0.1" } else { "" };
    let pairs = [("unix_socket_directories", socket), ("port", port.to_string()), ("listen_addresses", listen.to_owned())];
    pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// Adds lines to postgresql.conf; the last one for a name counts.
pub(crate) fn append_settings(data: &Path, settings: &[(String, String)]) {
    let mut file = fs::File::options().append(true).open(data.join("postgresql.conf")).expect("open postgresql.conf");
    for (name, value) in settings {
        writeln!(file, "{name} = '{}'", value.replace('\'', "''")).expect("write postgresql.conf");
    }
}

/// A file that PostgreSQL accepts as a private key: its own user's, 0600.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    if let Some((uid, gid)) = launch::server_user() {
        chown(path, Some(uid), Some(gid)).expect("chown");
    }
}

/// A port of 127.0.0.1 that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind to 127.0.0.1");
    socket.local_addr().expect("the address just bound").port()
}
