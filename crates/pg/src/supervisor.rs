//! Who runs a server: systemd restarts what ends behind its back, so its units are stopped and started through it.

use std::fs;
use std::path::Path;

/// The systemd unit that this server's process belongs to; `None` where systemd does not run, or runs the server on behalf of whoever
/// asks: a session, or the very unit that this program is of.
pub fn systemd_unit_of(pid: u32) -> Option<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let unit = unit_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)?;
    let own = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| unit_in(&text));
    (own.as_ref() != Some(&unit)).then_some(unit)
}

/// The service in a process's list of control groups (cgroups(7)): the unified hierarchy's line, or systemd's own.
fn unit_in(cgroups: &str) -> Option<String> {
    let line = cgroups.lines().find_map(|line| line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path)))?;
    // A user's own manager is a service of the system with services below it, which only that user controls.
    let unit = line.split('/').find(|part| part.ends_with(".service"))?;
    (!unit.starts_with("user@")).then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_service_in_the_path() {
        for (text, unit) in [
            ("0::/system.slice/system-postgresql.slice/postgresql@16-main.service\n", Some("postgresql@16-main.service")),
            ("12:pids:/x.service\n1:name=systemd:/system.slice/postgresql-16.service\n", Some("postgresql-16.service")),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/pg.service\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_in(text).as_deref(), unit, "{text:?}");
        }
    }
}
