//! The cluster that is backed up: realistic rows, made once for each major and size and kept on demand.

use std::fs;
use std::path::{Path, PathBuf};

use super::server::{self, Server};
use super::{Outcome, Place};

const DATABASE: &str = "bench";

/// Makes the data set of `place`, or finds the one that was kept, and starts a server on it.
pub fn server(place: &Place) -> Outcome<Server> {
    let (dir, bin_dir) = (place.dir(), place.bin_dir()?);
    let major = major_of(&bin_dir)?;
    let home = dir.join(format!("data-{major}-{}", place.size_gb));
    let (pgdata, made) = (home.join("pgdata"), home.join("made"));
    let log = dir.join("log/server");
    open_to_postgres(&home)?;
    if !made.exists() {
        eprintln!("making a data set of {} GB …", place.size_gb);
        server::init(&bin_dir, &pgdata, &log)?;
        let fast = ["fsync=off", "full_page_writes=off", "wal_level=minimal", "archive_mode=off", "max_wal_senders=0", "synchronous_commit=off"];
        let loading = Server::start(&bin_dir, &pgdata, &dir.join("sock"), &fast, &log)?;
        load(&loading, place.size_gb)?;
        loading.stop()?;
        super::measure::sync_all();
        fs::write(&made, "")?;
    }
    Server::start(&bin_dir, &pgdata, &dir.join("sock"), &[], &log)
}

/// Removes the data set unless it is to be kept.
pub fn done(server: Server, place: &Place) -> Outcome<()> {
    let home = server.data_dir.parent().map(Path::to_owned);
    server.stop()?;
    match home {
        Some(home) if !place.keep => Ok(fs::remove_dir_all(home)?),
        _ => Ok(()),
    }
}

/// Reads every file of the data directory once, so that all tools find it in the page cache; returns the bytes a base
/// backup has to carry (everything but WAL).
pub fn warm(pgdata: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for file in files(pgdata)? {
        if !file.starts_with(pgdata.join("pg_wal")) {
            bytes += std::io::copy(&mut fs::File::open(file)?, &mut std::io::sink())?;
        }
    }
    Ok(bytes)
}

/// Every file under a directory.
pub fn files(root: &Path) -> Outcome<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a directory that the postgres user can work in; its parents must already let it through.
pub fn open_to_postgres(dir: &Path) -> Outcome<()> {
    fs::create_dir_all(dir)?;
    super::measure::give_to_postgres(dir)
}

pub fn major_of(bin_dir: &Path) -> Outcome<String> {
    let line = super::tools::first_line(&bin_dir.join("postgres"), &["--version"])?;
    let version = line.split_whitespace().nth(2).ok_or("postgres does not say its version")?;
    Ok(version.split('.').next().unwrap_or(version).to_owned())
}

/// Shares of the size: orders 0.55, documents 0.2, vectors 0.15, and pgbench's padded rows 0.1, which are in every
/// other benchmark and flatter every compressor.
fn load(server: &Server, size_gb: f64) -> Outcome<()> {
    server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    server.sql(DATABASE, TABLES)?;
    for (table, share, batch) in [("orders", 0.55, ORDERS), ("documents", 0.2, DOCUMENTS), ("vectors", 0.15, VECTORS), ("accounts", 0.1, ACCOUNTS)] {
        let wanted = (size_gb * share * 1e9) as u64;
        while server.sql(DATABASE, &format!("SELECT pg_total_relation_size('{table}')"))?.parse::<u64>()? < wanted {
            server.sql(DATABASE, batch)?;
        }
    }
    server.sql(DATABASE, "VACUUM (FREEZE, ANALYZE)")?;
    server.sql(DATABASE, "CHECKPOINT")?;
    Ok(())
}

const TABLES: &str = "
CREATE TABLE orders (id uuid PRIMARY KEY, customer uuid NOT NULL, created timestamptz NOT NULL, amount numeric(12,2) NOT NULL,
    email text NOT NULL, note text, detail jsonb NOT NULL);
CREATE INDEX ON orders (created);
CREATE INDEX ON orders (customer);
CREATE TABLE documents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL, body text NOT NULL, changed timestamptz NOT NULL);
CREATE TABLE vectors (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, document bigint NOT NULL, embedding real[] NOT NULL);
CREATE TABLE accounts (aid serial PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE words AS SELECT row_number() OVER () AS n, description FROM pg_description WHERE length(description) > 12;
CREATE UNIQUE INDEX ON words (n);
SELECT setseed(0.42);
";

const ORDERS: &str = "
INSERT INTO orders SELECT gen_random_uuid(), gen_random_uuid(), timestamptz '2024-01-01' + random() * interval '700 days',
    round((random() * 900)::numeric, 2), 'user' || (random() * 1e6)::int || '@' || (ARRAY['example.org','mail.example.com','shop.example.net'])[1 + n % 3],
    texts[1 + (random() * 2000)::int],
    jsonb_build_object('sku', md5(n::text), 'quantity', (random() * 9)::int, 'colour', (ARRAY['red','green','blue','black'])[1 + n % 4],
        'ship_to', jsonb_build_object('street', (random() * 300)::int || ' Harbour Road', 'zip', (random() * 99999)::int, 'country', (ARRAY['DE','US','FR','IT'])[1 + n % 4]),
        'paid', random() < 0.9, 'weight', round(random()::numeric, 3))
FROM generate_series(1, 100000) s(n), (SELECT array_agg(description ORDER BY n) AS texts FROM words) w";

const DOCUMENTS: &str = "
INSERT INTO documents (title, body, changed)
SELECT min(w.description), string_agg(w.description, '. ' ORDER BY random()), timestamptz '2024-01-01' + random() * interval '700 days'
FROM (SELECT n, (random() * 2000)::int AS a FROM generate_series(1, 4000) n) d JOIN words w ON w.n BETWEEN d.a AND d.a + 60
GROUP BY d.n";

const VECTORS: &str = "
INSERT INTO vectors (document, embedding) SELECT n, (SELECT array_agg((random() + random() + random() - 1.5)::real) FROM generate_series(1, 384) WHERE n > 0)
FROM generate_series(1, 10000) n";

const ACCOUNTS: &str = "
INSERT INTO accounts (bid, abalance, filler) SELECT n % 40, 0, '' FROM generate_series(1, 100000) n";
