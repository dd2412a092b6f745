//! pgBackRest with two processes, zstd 1, with and without its encryption.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{bucket, measure};
use super::{Outcome, Repo, Script, Stage, Syncs, Tool, first_line, program};

pub struct PgBackRest {
    name: &'static str,
    cipher: bool,
}

impl PgBackRest {
    pub fn plain() -> Self {
        Self { name: "pgBackRest", cipher: false }
    }

    pub fn encrypted() -> Self {
        Self { name: "pgBackRest encrypted", cipher: true }
    }

    pub fn config(stage: &Stage) -> PathBuf {
        stage.room.join("pgbackrest.conf")
    }

    /// A shell line that runs `pgbackrest` with that configuration.
    pub fn line(stage: &Stage, arguments: &str) -> String {
        let program = program("pgbackrest").unwrap_or_default();
        format!("{} --config={} --stanza=bench {arguments}", program.display(), Self::config(stage).display())
    }
}

impl Tool for PgBackRest {
    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> Outcome<String> {
        first_line(&program("pgbackrest")?, &["version"])
    }

    fn settings(&self) -> String {
        format!(
            "process-max 2, compress-type zst level 1, start-fast, {}; archive-push as archive command, not asynchronous",
            if self.cipher { "cipher aes-256-cbc" } else { "no encryption" }
        )
    }

    fn declines(&self, _repo: &Repo) -> Option<&'static str> {
        None
    }

    fn restore_syncs(&self) -> Syncs {
        Syncs::Yes
    }

    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        let room = stage.room.display();
        let mut text = format!(
            "[global]\nprocess-max=2\ncompress-type=zst\ncompress-level=1\nstart-fast=y\nlog-level-file=off\nlog-level-console=warn\n\
             lock-path={room}\nspool-path={room}\nlog-path={room}\nrepo1-retention-full=100\n"
        );
        match &stage.repo {
            Repo::Folder(folder) => text.push_str(&format!("repo1-path={}\n", folder.display())),
            Repo::S3 { server, bucket } => text.push_str(&format!(
                "repo1-type=s3\nrepo1-path=/pgbackrest\nrepo1-s3-bucket={bucket}\nrepo1-s3-endpoint=localhost\nrepo1-s3-uri-style=path\n\
                 repo1-s3-region={}\nrepo1-s3-key={}\nrepo1-s3-key-secret={}\nrepo1-storage-port={}\nrepo1-storage-ca-file={}\n",
                bucket::REGION,
                bucket::ACCESS_KEY,
                bucket::SECRET_KEY,
                server.https_port,
                server.authority_file.display(),
            )),
        }
        if self.cipher {
            text.push_str("repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=a-passphrase-of-the-bench\n");
        }
        text.push_str(&format!(
            "[bench]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
            stage.server.data_dir.display(),
            stage.server.socket_dir.display(),
        ));
        fs::write(Self::config(stage), text)?;
        measure::give_to_postgres(&Self::config(stage))?;
        stage.server.set("archive_command", "/bin/true")?;
        measure::run(&Script::new(Self::line(stage, "stanza-create")), &stage.room.join("log"))?;
        stage.server.set("archive_command", &Self::line(stage, "archive-push %p"))
    }

    fn backup(&self, stage: &Stage) -> Script {
        Script::new(Self::line(stage, "--type=full backup"))
    }

    fn wal_follows(&self) -> bool {
        false
    }

    fn restore(&self, stage: &Stage, target: &Path) -> Script {
        Script::new(Self::line(stage, &format!("--pg1-path={} restore", target.display())))
    }
}
