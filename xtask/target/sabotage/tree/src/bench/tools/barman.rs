//! Barman on a folder: backup_method = postgres, compressed by pg_basebackup; WAL handed over by a plain copy.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::measure;
use super::{Outcome, Repo, Script, Stage, Syncs, Tool, first_line, program, zstd_pg_basebackup};

pub struct Barman;

impl Barman {
    fn config(stage: &Stage) -> PathBuf {
        stage.room.join("barman.conf")
    }

    fn line(stage: &Stage, arguments: &str) -> String {
        format!("{} -c {} {arguments}", program("barman").unwrap_or_default().display(), Self::config(stage).display())
    }
}

impl Tool for Barman {
    fn name(&self) -> &str {
        "Barman"
    }

    fn version(&self) -> Outcome<String> {
        zstd_pg_basebackup()?;
        first_line(&program("barman")?, &["--version"])
    }

    fn settings(&self) -> String {
        "backup_method postgres, zstd level 1 with 2 workers by the client, tar; WAL by a copy into its incoming directory, zstd level 1; \
         immediate checkpoint, backup --wait; no encryption"
            .to_owned()
    }

    fn declines(&self, repo: &Repo) -> Option<&'static str> {
        matches!(repo, Repo::S3 { .. }).then_some("writes to folders only; barman-cloud is raced on S3")
    }

    fn restore_syncs(&self) -> Syncs {
        Syncs::No
    }

    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        let Repo::Folder(folder) = &stage.repo else { return Err("folders only".into()) };
        let (room, folder) = (stage.room.display(), folder.display());
        let clients = zstd_pg_basebackup()?;
        let text = format!(
            "[barman]\nbarman_user = postgres\nbarman_home = {folder}\nbarman_lock_directory = {room}\nlog_file = {room}/barman.log\n\
             log_level = INFO\nconfiguration_files_directory = {room}/conf.d\n\
             [bench]\ndescription = bench\nconninfo = host={sock} user=postgres dbname=postgres\nstreaming_conninfo = host={sock} user=postgres\n\
             backup_method = postgres\nstreaming_archiver = off\narchiver = on\nimmediate_checkpoint = true\n\
             backup_compression = zstd\nbackup_compression_level = 1\nbackup_compression_workers = 2\nbackup_compression_location = client\n\
             backup_compression_format = tar\ncompression = zstd\ncompression_level = 1\npath_prefix = {bin}\nstaging_path = {room}/staging\nstaging_location = local\n",
            sock = stage.server.socket_dir.display(),
            bin = clients.parent().unwrap_or(Path::new("/")).display(),
        );
        fs::write(Self::config(stage), text)?;
        measure::give_to_postgres(&Self::config(stage))?;
        stage.server.set("archive_command", "/bin/true")?;
        let log = stage.room.join("log");
        measure::run(&Script::new(Self::line(stage, "check bench || true")), &log)?;
        let incoming = format!("{folder}/bench/incoming");
        measure::run(&Script::new(format!("mkdir -p '{incoming}' '{room}/conf.d' '{room}/staging'")), &log)?;
        stage.server.set("archive_command", &format!("cp %p {incoming}/%f.tmp && mv {incoming}/%f.tmp {incoming}/%f"))?;
        // Barman refuses a backup before it has seen a segment arrive.
        stage.server.sql("postgres", "SELECT pg_create_restore_point('bench')")?;
        stage.server.sql("postgres", "SELECT pg_switch_wal()")?;
        stage.server.wait_archived()?;
        measure::run(&Script::new(Self::line(stage, "archive-wal bench")), &log)?;
        measure::run(&Script::new(Self::line(stage, "check bench")), &log)
    }

    fn backup(&self, stage: &Stage) -> Script {
        Script::new(Self::line(stage, "backup --wait bench"))
    }

    fn wal_follows(&self) -> bool {
        false
    }

    fn restore(&self, stage: &Stage, target: &Path) -> Script {
        Script::new(Self::line(stage, &format!("recover bench latest '{}'", target.display())))
    }
}
