//! A peer named on the command line: `name=…;backup=command;restore=command[;archive=command][;syncs=yes|no][;version=command]`.

use std::path::Path;

use super::super::bucket;
use super::{Outcome, Repo, Script, Stage, Syncs, Tool};

/// Commands may hold {pgdata} {socket} {repo} {target} {room} {endpoint} {bucket} {bin}; `archive` is PostgreSQL's
/// archive_command with %p and %f, and makes the clock run until the WAL is archived.
#[derive(Default)]
pub struct Template {
    name: String,
    backup: String,
    restore: String,
    archive: Option<String>,
    version: String,
    syncs: Option<bool>,
}

impl Template {
    pub fn parse(text: &str) -> Outcome<Self> {
        let mut template = Self::default();
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("--peer: no '=' in {part}"))?;
            let value = value.trim().to_owned();
            match key.trim() {
                "name" => template.name = value,
                "backup" => template.backup = value,
                "restore" => template.restore = value,
                "archive" => template.archive = Some(value),
                "version" => template.version = value,
                "syncs" => template.syncs = Some(value == "yes"),
                other => return Err(format!("--peer knows no {other}").into()),
            }
        }
        if template.name.is_empty() || template.backup.is_empty() || template.restore.is_empty() {
            return Err("--peer needs name, backup and restore".into());
        }
        Ok(template)
    }

    fn fill(&self, text: &str, stage: &Stage, target: &Path) -> String {
        let (repo, endpoint, bucket) = match &stage.repo {
            Repo::Folder(folder) => (folder.display().to_string(), String::new(), String::new()),
            Repo::S3 { server, bucket } => (format!("s3://{bucket}/peer"), server.endpoint(), bucket.clone()),
        };
        text.replace("{pgdata}", &stage.server.data_dir.display().to_string())
            .replace("{socket}", &stage.server.socket_dir.display().to_string())
            .replace("{room}", &stage.room.display().to_string())
            .replace("{bin}", &stage.bin_dir.display().to_string())
            .replace("{target}", &target.display().to_string())
            .replace("{repo}", &repo)
            .replace("{endpoint}", &endpoint)
            .replace("{bucket}", &bucket)
    }

    fn script(&self, text: &str, stage: &Stage, target: &Path) -> Script {
        Script::new(self.fill(text, stage, target))
            .env("AWS_ACCESS_KEY_ID", bucket::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", bucket::SECRET_KEY)
            .env("AWS_REGION", bucket::REGION)
            .env("PGHOST", stage.server.socket_dir.display().to_string())
            .env("PGUSER", "postgres")
    }
}

impl Tool for Template {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> Outcome<String> {
        Ok(if self.version.is_empty() { "as named".to_owned() } else { self.version.clone() })
    }

    fn settings(&self) -> String {
        format!("`{}`, restored by `{}`", self.backup, self.restore)
    }

    fn declines(&self, repo: &Repo) -> Option<&'static str> {
        let speaks_s3 = self.backup.contains("{bucket}") || self.backup.contains("{endpoint}");
        (matches!(repo, Repo::S3 { .. }) && !speaks_s3).then_some("its template names no {endpoint} or {bucket}")
    }

    fn restore_syncs(&self) -> Syncs {
        match self.syncs {
            Some(true) => Syncs::Yes,
            Some(false) => Syncs::No,
            None => Syncs::Unknown,
        }
    }

    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        let archive = self.archive.as_deref().unwrap_or("/bin/true");
        stage.server.set("archive_command", &self.fill(archive, stage, Path::new("")))
    }

    fn backup(&self, stage: &Stage) -> Script {
        self.script(&self.backup, stage, Path::new(""))
    }

    fn wal_follows(&self) -> bool {
        self.archive.is_some()
    }

    fn restore(&self, stage: &Stage, target: &Path) -> Script {
        self.script(&self.restore, stage, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_needs_its_three_parts_and_refuses_unknown_ones() {
        assert!(Template::parse("name=a;backup=b {repo};restore=c").is_ok());
        assert!(Template::parse("name=a;backup=b").is_err());
        assert!(Template::parse("name=a;backup=b;restore=c;speed=9").is_err());
    }
}
