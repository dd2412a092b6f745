//! Bowline itself, encrypted to a key file, as a user would run it.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{bucket, measure};
use super::{Outcome, Repo, Script, Stage, Syncs, Tool, first_line, program};

pub struct Bowline {
    binary: Option<PathBuf>,
    /// `backup.compression`.
    pub compression: String,
    /// Further lines of the section `[wal]`.
    pub wal: &'static str,
}

impl Bowline {
    pub fn new(binary: Option<PathBuf>) -> Self {
        Self { binary, compression: "zstd:1".to_owned(), wal: "" }
    }

    fn binary(&self) -> Outcome<PathBuf> {
        match &self.binary {
            Some(binary) => Ok(fs::canonicalize(binary)?),
            None => program("bowline"),
        }
    }

    /// A shell line that runs `bowline`; also fit for PostgreSQL's archive and restore commands.
    pub fn line(&self, stage: &Stage, arguments: &str) -> String {
        let binary = self.binary().unwrap_or_default();
        let config = stage.room.join("bowline.toml");
        format!("{} --config {} {arguments}", binary.display(), config.display(),)
    }

    fn config(&self, stage: &Stage) -> String {
        let repository = match &stage.repo {
            Repo::Folder(folder) => format!("url = \"file://{}\"\n", folder.display()),
            Repo::S3 { server, bucket } => {
                // From files: the restored server's restore_command has no environment of ours.
                let file = |name: &str| stage.room.join(name).display().to_string();
                format!(
                    "url = \"s3://{bucket}/bowline\"\nendpoint = \"{}\"\nregion = \"{}\"\npath_style = true\n\
                     access_key_id = \"file:{}\"\nsecret_access_key = \"file:{}\"\n",
                    server.endpoint(),
                    bucket::REGION,
                    file("access-key"),
                    file("secret-key"),
                )
            }
        };
        format!(
            "org = \"bench\"\n\
             [postgres]\nconninfo = \"host={} user=postgres dbname=postgres\"\ndata_dir = \"{}\"\nbin_dir = \"{}\"\n\
             [repository]\n{repository}\
             [encryption]\nrecipients = [\"file:{}\"]\n\
             [backup]\ncompression = \"{}\"\n\
             [wal]\nslot = \"bowline\"\n{}",
            stage.server.socket_dir.display(),
            stage.server.data_dir.display(),
            stage.bin_dir.display(),
            stage.room.join("key").display(),
            self.compression,
            self.wal,
        )
    }
}

impl Tool for Bowline {
    fn name(&self) -> &str {
        "Bowline"
    }

    fn version(&self) -> Outcome<String> {
        first_line(&self.binary()?, &["--version"])
    }

    fn settings(&self) -> String {
        format!("compression {}, encrypted (AES-256-GCM, key file), page checksums verified, WAL streamed by the backup itself", self.compression)
    }

    fn declines(&self, _repo: &Repo) -> Option<&'static str> {
        None
    }

    fn restore_syncs(&self) -> Syncs {
        Syncs::Yes
    }

    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        let key = stage.room.join("key");
        // `init` makes the key; one left over from another repository would do as well.
        if key.exists() {
            fs::remove_file(&key)?;
        }
        fs::write(stage.room.join("bowline.toml"), self.config(stage))?;
        for (name, secret) in [("access-key", bucket::ACCESS_KEY), ("secret-key", bucket::SECRET_KEY)] {
            fs::write(stage.room.join(name), secret)?;
            measure::give_to_postgres(&stage.room.join(name))?;
        }
        measure::give_to_postgres(&stage.room.join("bowline.toml"))?;
        // A backup brings its own WAL while no receiver runs: the server has nothing to archive.
        stage.server.set("archive_command", "/bin/true")?;
        measure::run(&Script::new(self.line(stage, "init")), &stage.room.join("log"))
    }

    fn backup(&self, stage: &Stage) -> Script {
        Script::new(self.line(stage, "backup"))
    }

    fn wal_follows(&self) -> bool {
        false
    }

    fn restore(&self, stage: &Stage, target: &Path) -> Script {
        Script::new(self.line(stage, &format!("restore --to latest --target '{}' --files-only --yes", target.display())))
    }
}
