//! Barman's cloud commands on S3. They know no zstd, so they run with lz4, and the report says so.

use std::path::Path;

use super::super::bucket;
use super::{Outcome, Repo, Script, Stage, Syncs, Tool, first_line, program};

pub struct BarmanCloud;

impl BarmanCloud {
    fn parts(stage: &Stage) -> (String, String) {
        match &stage.repo {
            Repo::S3 { server, bucket } => (format!("--endpoint-url {} --addressing-style path", server.endpoint()), format!("s3://{bucket}/barman")),
            Repo::Folder(_) => Default::default(),
        }
    }

    fn script(text: String) -> Script {
        settings().into_iter().fold(Script::new(text), |script, (name, value)| script.env(name, value))
    }

    fn line(command: &str) -> String {
        let settings: Vec<String> = settings().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("env {} {}", settings.join(" "), program(command).unwrap_or_default().display())
    }
}

/// The botocore settings keep it from adding checksums the test server would have to answer.
fn settings() -> [(&'static str, &'static str); 4] {
    [
        ("AWS_ACCESS_KEY_ID", bucket::ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", bucket::SECRET_KEY),
        ("AWS_DEFAULT_REGION", bucket::REGION),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
    ]
}

impl Tool for BarmanCloud {
    fn name(&self) -> &str {
        "barman-cloud"
    }

    fn version(&self) -> Outcome<String> {
        first_line(&program("barman-cloud-backup")?, &["--version"])
    }

    fn settings(&self) -> String {
        "barman-cloud-backup with 2 jobs, lz4 (it has no zstd), immediate checkpoint; barman-cloud-wal-archive (lz4) as archive command; \
         no encryption"
            .to_owned()
    }

    fn declines(&self, repo: &Repo) -> Option<&'static str> {
        matches!(repo, Repo::Folder(_)).then_some("writes to buckets only")
    }

    fn restore_syncs(&self) -> Syncs {
        Syncs::No
    }

    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        let (options, url) = Self::parts(stage);
        stage.server.set("archive_command", &format!("{} {options} --lz4 {url} bench %p", Self::line("barman-cloud-wal-archive")))
    }

    fn backup(&self, stage: &Stage) -> Script {
        let (options, url) = Self::parts(stage);
        let program = program("barman-cloud-backup").unwrap_or_default();
        Self::script(format!(
            "'{}' {options} --lz4 -J 2 --immediate-checkpoint -h '{}' -U postgres {url} bench",
            program.display(),
            stage.server.socket_dir.display(),
        ))
    }

    fn wal_follows(&self) -> bool {
        true
    }

    fn restore(&self, stage: &Stage, target: &Path) -> Script {
        let (options, url) = Self::parts(stage);
        let fetch = format!("{} {options} {url} bench %f %p", Self::line("barman-cloud-wal-restore"));
        let list = program("barman-cloud-backup-list").unwrap_or_default();
        let restore = program("barman-cloud-restore").unwrap_or_default();
        let target = target.display();
        Self::script(format!(
            "id=$('{}' {options} --format json {url} bench | sed -n 's/.*\"backup_id\": *\"\\([^\"]*\\)\".*/\\1/p' | head -1); \
             '{}' {options} {url} bench \"$id\" '{target}'; touch '{target}/recovery.signal'; \
             echo \"restore_command = '{fetch}'\" >> '{target}/postgresql.auto.conf'",
            list.display(),
            restore.display(),
        ))
    }
}
