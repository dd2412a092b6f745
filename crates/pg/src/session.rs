//! Whether a session that has just begun is with a server we want.

use crate::PgError;
use crate::conninfo::{Address, ConnInfo};

/// The oldest major version we work with.
const OLDEST_MAJOR: u32 = 15;

/// Checks the server's version and its role against `target_session_attrs`, from the parameters every session reports
/// (manual chapter 54.2.7, "Asynchronous Operations"). Gives the version in full.
pub(crate) fn admit<'a>(info: &ConnInfo, address: &Address, parameter: impl Fn(&str) -> Option<&'a str>) -> Result<String, PgError> {
    let version = parameter("server_version").unwrap_or("unknown");
    if major_of(version) < OLDEST_MAJOR {
        return Err(PgError::ServerTooOld { address: address.describe(), found: version.to_owned() });
    }
    let is_on = |name: &str| parameter(name) == Some("on");
    if info.target.accepts(is_on("in_hot_standby"), is_on("default_transaction_read_only")) {
        Ok(version.to_owned())
    } else {
        Err(PgError::WrongSessionKind { address: address.describe(), wanted: info.target.name() })
    }
}

/// `15.19 (Debian …)`, `18beta2`, `19devel` → the number at the front; 0 when there is none.
pub(crate) fn major_of(version: &str) -> u32 {
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version[..digits].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_too_old_or_of_another_kind_is_not_admitted() {
        let info = ConnInfo::parse("user=u host=a target_session_attrs=primary", &|_| None).unwrap();
        let ask = |version: &'static str, standby: &'static str| {
            admit(&info, &info.addresses[0], |name| match name {
                "server_version" => Some(version),
                "in_hot_standby" => Some(standby),
                _ => None,
            })
        };
        assert_eq!(ask("18beta2", "off").unwrap(), "18beta2");
        assert!(matches!(ask("14.23 (Debian 14.23-1)", "off"), Err(PgError::ServerTooOld { found, .. }) if found.starts_with("14.23")));
        assert!(matches!(ask("16.15", "on"), Err(PgError::WrongSessionKind { wanted: "primary", .. })));
        assert_eq!(major_of("nonsense"), 0);
    }
}
