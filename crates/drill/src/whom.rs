//! As whom a drill's PostgreSQL runs: a user of its own where one is configured, whom production's files are not open to.

use crate::{DrillError, DrillOptions};
use nix::unistd::{Uid, User, geteuid};
use pg::{Owner, owner_of};
use restore::Target;
use std::path::Path;

/// The user that is configured, or as any restore would choose: the owner of the folder around it, else postgres.
pub(crate) fn owner(options: &DrillOptions) -> Result<Owner, DrillError> {
    let Some(name) = &options.user else { return Ok(Target::inspect(&options.parent.join("data"))?.owner) };
    let refused = |why: String| DrillError::User { name: name.clone(), why };
    let user = User::from_name(name).map_err(|e| refused(format!("{e}.")))?.ok_or_else(|| refused("There is no such user on this host.".into()))?;
    if user.uid.is_root() {
        return Err(refused("PostgreSQL does not run as root.".into()));
    }
    if !geteuid().is_root() && geteuid() != user.uid {
        return Err(refused("Only root can become another user.".into()));
    }
    Ok(Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// The user's name, and whether production's files are that user's too; `None` when they are not on this host.
pub(crate) fn told(owner: Owner, production: Option<&Path>) -> (Option<String>, Option<bool>) {
    let name = User::from_uid(Uid::from_raw(owner.uid)).ok().flatten().map_or_else(|| format!("user {}", owner.uid), |user| user.name);
    let is_same = production.and_then(|data_dir| owner_of(data_dir).ok()).map(|production| production.uid == owner.uid);
    (Some(name), is_same)
}
