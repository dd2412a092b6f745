//! PostgreSQL's own pg_basebackup, tar format, compressed by the client; restored with tar.

use std::path::Path;

use super::{Outcome, Repo, Script, Stage, Syncs, Tool, first_line, program, zstd_pg_basebackup};

pub struct PgBasebackup {
    name: &'static str,
    /// What follows the level in --compress.
    workers: &'static str,
}

impl PgBasebackup {
    pub fn single() -> Self {
        Self { name: "pg_basebackup", workers: "" }
    }

    pub fn two_workers() -> Self {
        Self { name: "pg_basebackup, 2 workers", workers: ",workers=2" }
    }
}

impl Tool for PgBasebackup {
    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> Outcome<String> {
        program("zstd")?;
        program("tar")?;
        first_line(&zstd_pg_basebackup()?, &["--version"])
    }

    fn settings(&self) -> String {
        format!("-Ft -X stream --checkpoint=fast --compress=client-zstd:level=1{}; no encryption; restored by zstd -d | tar", self.workers)
    }

    fn declines(&self, repo: &Repo) -> Option<&'static str> {
        matches!(repo, Repo::S3 { .. }).then_some("writes to folders only")
    }

    fn restore_syncs(&self) -> Syncs {
        Syncs::No
    }

    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        stage.server.set("archive_command", "/bin/true")
    }

    fn backup(&self, stage: &Stage) -> Script {
        let Repo::Folder(folder) = &stage.repo else { return Script::default() };
        let program = zstd_pg_basebackup().unwrap_or_default();
        Script::new(format!(
            "'{}' -h '{}' -U postgres -D '{}/backup' -Ft -X stream --checkpoint=fast --compress=client-zstd:level=1{}",
            program.display(),
            stage.server.socket_dir.display(),
            folder.display(),
            self.workers,
        ))
    }

    fn wal_follows(&self) -> bool {
        false
    }

    fn restore(&self, stage: &Stage, target: &Path) -> Script {
        let Repo::Folder(folder) = &stage.repo else { return Script::default() };
        Script::new(format!(
            "cd '{}'; zstd -dcq '{f}/backup/base.tar.zst' | tar -xf -; cd pg_wal; \
             for t in '{f}'/backup/pg_wal.tar*; do case \"$t\" in *.zst) zstd -dcq \"$t\" | tar -xf - ;; *) tar -xf \"$t\" ;; esac; done",
            target.display(),
            f = folder.display(),
        ))
    }
}
