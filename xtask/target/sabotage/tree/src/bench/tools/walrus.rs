//! wal-rus, the Rust port of WAL-G: reads the data directory itself, archives with wal-push.

use std::path::Path;

use super::super::bucket;
use super::{Outcome, Repo, Script, Stage, Syncs, Tool, first_line, program};

pub struct Walrus {
    name: &'static str,
    /// What is added to backup-push. Each part is packed by one thread, so parts of 1 GiB, its default, leave a core
    /// idle whenever the last of them is packed.
    more: &'static str,
}

impl Walrus {
    pub fn as_shipped() -> Self {
        Self { name: "wal-rus", more: "" }
    }

    pub fn small_parts() -> Self {
        Self { name: "wal-rus, 64 MiB parts", more: " --tar-size-threshold 67108864" }
    }

    fn script(stage: &Stage, text: String) -> Script {
        let script = Script::new(text)
            .env("PGHOST", stage.server.socket_dir.display().to_string())
            .env("PGUSER", "postgres")
            .env("PGDATA", stage.server.data_dir.display().to_string());
        settings_of(stage).into_iter().fold(script, |script, (name, value)| script.env(name, value))
    }

    /// One line of shell that runs walrus with its settings, for PostgreSQL's archive and restore commands.
    fn line(stage: &Stage, arguments: &str) -> Outcome<String> {
        let settings: Vec<String> = settings_of(stage).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(format!("env {} {} {arguments}", settings.join(" "), program("walrus")?.display()))
    }
}

/// Level 1 is its default and is set all the same. Its default concurrency (4) is kept.
fn settings_of(stage: &Stage) -> Vec<(&'static str, String)> {
    let mut settings = vec![("WALG_COMPRESSION_METHOD", "zstd".to_owned()), ("WALG_COMPRESSION_LEVEL", "1".to_owned())];
    match &stage.repo {
        Repo::Folder(folder) => settings.push(("WALG_FILE_PREFIX", folder.display().to_string())),
        Repo::S3 { server, bucket } => settings.extend([
            ("WALG_S3_PREFIX", format!("s3://{bucket}/walrus")),
            ("AWS_ENDPOINT", server.endpoint()),
            ("AWS_S3_FORCE_PATH_STYLE", "true".to_owned()),
            ("AWS_REGION", bucket::REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", bucket::ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", bucket::SECRET_KEY.to_owned()),
        ]),
    }
    settings
}

impl Tool for Walrus {
    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> Outcome<String> {
        first_line(&program("walrus")?, &["--version"])
    }

    fn settings(&self) -> String {
        format!(
            "backup-push PGDATA{} (local files, page checksums not verified, as it ships), zstd level 1, its default concurrency of 4, no encryption; \
             wal-push as archive command",
            self.more
        )
    }

    fn declines(&self, _repo: &Repo) -> Option<&'static str> {
        None
    }

    fn restore_syncs(&self) -> Syncs {
        Syncs::No
    }

    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        stage.server.set("archive_command", &Self::line(stage, "wal-push %p")?)
    }

    fn backup(&self, stage: &Stage) -> Script {
        let program = program("walrus").unwrap_or_default();
        Self::script(stage, format!("'{}' backup-push{} '{}'", program.display(), self.more, stage.server.data_dir.display()))
    }

    fn wal_follows(&self) -> bool {
        true
    }

    fn restore(&self, stage: &Stage, target: &Path) -> Script {
        let program = program("walrus").unwrap_or_default();
        let fetch = Self::line(stage, "wal-fetch %f %p").unwrap_or_default();
        let target = target.display();
        Self::script(
            stage,
            format!(
                "'{}' backup-fetch '{target}' LATEST; touch '{target}/recovery.signal'; \
                 echo \"restore_command = '{fetch}'\" >> '{target}/postgresql.auto.conf'",
                program.display(),
            ),
        )
    }
}
