//! What one core can do at most with these bytes: page checksum, keyed digest, zstd 1 and AES-256-GCM, in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use super::{Outcome, Place, data};

const CHUNK: usize = 1 << 20;
const TAG: usize = 16;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// How much of the data set to hold in memory, MiB, taken evenly from all of it.
    #[arg(long, default_value_t = 512)]
    sample_mib: usize,
    /// Passes; the median is reported.
    #[arg(long, default_value_t = 5)]
    passes: usize,
}

/// CPU seconds for 10^9 plain bytes on one core, medians of all passes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Limit {
    /// Page checksum + digest + zstd 1 + seal, chunk by chunk.
    pub backup: f64,
    /// Open + decompress + digest, chunk by chunk.
    pub restore: f64,
    pub page_checksum: f64,
    pub digest: f64,
    pub compress: f64,
    pub seal: f64,
    pub open: f64,
    pub decompress: f64,
    /// Plain bytes over sealed bytes.
    pub ratio: f64,
}

pub fn run(options: &Options) -> Outcome<()> {
    super::measure::adopt_orphans()?;
    let server = data::server(&options.place)?;
    let limit = measure(&server.data_dir, options.sample_mib, options.passes)?;
    println!("{}", super::report::limit(&limit));
    data::done(server, &options.place)
}

/// Measures the limit on a sample of the relation files of a data directory.
pub fn measure(pgdata: &Path, sample_mib: usize, passes: usize) -> Outcome<Limit> {
    optimised()?;
    let sample = Sample::read(pgdata, sample_mib)?;
    let mut runs = Vec::new();
    for _ in 0..passes.max(1) {
        runs.push(one_pass(&sample)?);
    }
    let middle = |pick: fn(&Limit) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Limit {
        backup: middle(|run| run.backup),
        restore: middle(|run| run.restore),
        page_checksum: middle(|run| run.page_checksum),
        digest: middle(|run| run.digest),
        compress: middle(|run| run.compress),
        seal: middle(|run| run.seal),
        open: middle(|run| run.open),
        decompress: middle(|run| run.decompress),
        ratio: middle(|run| run.ratio),
    })
}

/// CPU seconds for 10^9 bytes of WAL on one core: digest, zstd 1 and seal of each MiB. The sample is taken evenly from the
/// segments; the median of three passes.
pub fn wal(segments: &[PathBuf], sample_mib: usize) -> Outcome<f64> {
    optimised()?;
    let mut places = Vec::new();
    for segment in segments {
        places.extend((0..segment.metadata()?.len() / CHUNK as u64).map(|n| (segment, n)));
    }
    if places.is_empty() {
        return Err("there is no WAL to take a sample of".into());
    }
    let step = (places.len() / sample_mib.max(1)).max(1);
    let mut chunks = Vec::new();
    for (segment, n) in places.into_iter().step_by(step).take(sample_mib) {
        let mut bytes = vec![0; CHUNK];
        File::open(segment)?.read_exact_at(&mut bytes, n * CHUNK as u64)?;
        chunks.push(bytes);
    }
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32])?);
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let mut frame = vec![0; zstd::zstd_safe::compress_bound(CHUNK) + TAG];
    let mut passes = Vec::new();
    for _ in 0..3 {
        let started = cpu()?;
        for (n, bytes) in chunks.iter().enumerate() {
            let digest = blake3::keyed_hash(&[9; 32], bytes);
            let length = compressor.compress_to_buffer(bytes, &mut frame[..])?;
            let tag = key.seal_in_place_separate_tag(nonce(n), Aad::empty(), &mut frame[..length])?;
            let _ = std::hint::black_box((digest, tag));
        }
        passes.push((cpu()? - started) / (chunks.len() * CHUNK) as f64 * 1e9);
    }
    Ok(super::report::median(&passes))
}

fn optimised() -> Outcome<()> {
    match cfg!(debug_assertions) {
        true => Err("the limit is measured with optimised code only: cargo run --release -p xtask -- bench …".into()),
        false => Ok(()),
    }
}

/// 1 MiB pieces of relation files, each with the number of its first block.
struct Sample {
    chunks: Vec<(u32, Vec<u8>)>,
    bytes: usize,
}

impl Sample {
    fn read(pgdata: &Path, sample_mib: usize) -> Outcome<Self> {
        let mut places: Vec<(PathBuf, u64)> = Vec::new();
        for file in data::files(&pgdata.join("base"))? {
            let is_main_fork = file
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.split('.').all(|part| part.bytes().all(|byte| byte.is_ascii_digit())));
            if is_main_fork {
                let length = file.metadata()?.len();
                places.extend((0..length / CHUNK as u64).map(|n| (file.clone(), n)));
            }
        }
        if places.is_empty() {
            return Err("the data set has no relation file of 1 MiB".into());
        }
        let step = (places.len() / sample_mib.max(1)).max(1);
        let mut chunks = Vec::new();
        for (file, n) in places.into_iter().step_by(step).take(sample_mib) {
            let mut bytes = vec![0; CHUNK];
            File::open(&file)?.read_exact_at(&mut bytes, n * CHUNK as u64)?;
            chunks.push((first_block(&file, n), bytes));
        }
        let bytes = chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        Ok(Self { chunks, bytes })
    }
}

/// Blocks count on across the 1 GiB segment files of a relation (`16384.2` holds the third).
fn first_block(file: &Path, chunk: u64) -> u32 {
    let segment: u32 = file.extension().and_then(|number| number.to_str()?.parse().ok()).unwrap_or(0);
    segment * (1 << 30 >> 13) + (chunk * (CHUNK as u64 >> 13)) as u32
}

fn one_pass(sample: &Sample) -> Outcome<Limit> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32])?);
    let digest_key = [9; 32];
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let room = zstd::zstd_safe::compress_bound(CHUNK) + TAG;
    let mut frame = vec![0; room];
    let mut plain = vec![0; CHUNK];
    let mut limit = Limit::default();
    let mut sealed_bytes = 0;

    // As one pipeline, each chunk through all stages while it is in the cache.
    let started = cpu()?;
    let mut sealed_frames = Vec::with_capacity(sample.chunks.len());
    for (n, (block, bytes)) in sample.chunks.iter().enumerate() {
        let bad = pg::verify_pages(bytes, *block).count();
        let digest = blake3::keyed_hash(&digest_key, bytes);
        let length = compressor.compress_to_buffer(bytes, &mut frame[..])?;
        let tag = key.seal_in_place_separate_tag(nonce(n), Aad::empty(), &mut frame[..length])?;
        sealed_bytes += length + TAG;
        std::hint::black_box((bad, digest));
        sealed_frames.push((frame[..length].to_vec(), tag.as_ref().to_vec()));
    }
    limit.backup = cpu()? - started;

    let started = cpu()?;
    for (n, (sealed, tag)) in sealed_frames.iter().enumerate() {
        frame[..sealed.len()].copy_from_slice(sealed);
        frame[sealed.len()..sealed.len() + TAG].copy_from_slice(tag);
        let opened = key.open_in_place(nonce(n), Aad::empty(), &mut frame[..sealed.len() + TAG])?;
        let length = decompressor.decompress_to_buffer(opened, &mut plain[..])?;
        std::hint::black_box(blake3::keyed_hash(&digest_key, &plain[..length]));
    }
    limit.restore = cpu()? - started;

    // Each stage by itself.
    limit.page_checksum = each(sample, |block, bytes| Ok(pg::verify_pages(bytes, block).count()))?;
    limit.digest = each(sample, |_, bytes| Ok(blake3::keyed_hash(&digest_key, bytes)))?;
    limit.compress = each(sample, |_, bytes| Ok(compressor.compress_to_buffer(bytes, &mut frame[..])?))?;
    limit.seal = each_frame(&mut sealed_frames, |n, sealed| {
        drop(std::hint::black_box(key.seal_in_place_separate_tag(nonce(n), Aad::empty(), sealed)?));
        Ok(())
    })?;
    limit.open = each_frame(&mut sealed_frames, |n, sealed| {
        // The tag is that of an earlier sealing, so this ends in an error, after having done all the work.
        let _ = std::hint::black_box(key.open_in_place(nonce(n), Aad::empty(), sealed));
        Ok(())
    })?;
    let frames: Vec<Vec<u8>> = sample.chunks.iter().map(|(_, bytes)| compressor.compress(bytes)).collect::<Result<_, _>>()?;
    let started = cpu()?;
    for frame in &frames {
        std::hint::black_box(decompressor.decompress_to_buffer(frame, &mut plain[..])?);
    }
    limit.decompress = cpu()? - started;

    let gigabytes = sample.bytes as f64 / 1e9;
    for value in [
        &mut limit.backup,
        &mut limit.restore,
        &mut limit.page_checksum,
        &mut limit.digest,
        &mut limit.compress,
        &mut limit.seal,
        &mut limit.open,
        &mut limit.decompress,
    ] {
        *value /= gigabytes;
    }
    limit.ratio = sample.bytes as f64 / sealed_bytes as f64;
    Ok(limit)
}

fn each<R>(sample: &Sample, mut stage: impl FnMut(u32, &[u8]) -> Outcome<R>) -> Outcome<f64> {
    let started = cpu()?;
    for (block, bytes) in &sample.chunks {
        std::hint::black_box(stage(*block, bytes)?);
    }
    Ok(cpu()? - started)
}

fn each_frame(frames: &mut [(Vec<u8>, Vec<u8>)], mut stage: impl FnMut(usize, &mut [u8]) -> Outcome<()>) -> Outcome<f64> {
    let started = cpu()?;
    for (n, (sealed, _)) in frames.iter_mut().enumerate() {
        stage(n, sealed)?;
    }
    Ok(cpu()? - started)
}

fn nonce(n: usize) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// CPU seconds of this thread so far.
fn cpu() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
