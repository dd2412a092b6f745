//! The tables of the data set: their columns and indexes, their share of the whole and what a row costs.

use super::rows::{self, Writer};

/// A table: how it is made, what one row costs on disk, and how its rows are written.
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its share of the whole, in percent of the bytes.
    pub share_percent: u64,
    /// Bytes of heap, TOAST and indexes for one row, as measured.
    pub bytes_per_row: u64,
    /// Its columns.
    pub columns: &'static str,
    /// Made after loading: filling an index that is there already takes three times as long.
    pub indexes: &'static str,
    /// Whether the rows come in COPY's binary form.
    pub binary: bool,
    /// Appends row `number` (from 1).
    pub row: fn(&mut Writer, u64),
}

/// The largest first, so that two loaders end at about the same time.
pub const TABLES: [Table; 6] = [
    Table {
        name: "orders",
        share_percent: 38,
        bytes_per_row: 590,
        columns: "id uuid NOT NULL, payment uuid NOT NULL, organization_id int NOT NULL, user_id bigint NOT NULL, placed timestamptz NOT NULL, amount numeric(12,2) NOT NULL, \
                  currency char(3) NOT NULL, email text NOT NULL, status text NOT NULL, note text, detail jsonb NOT NULL",
        indexes: "ALTER TABLE orders ADD PRIMARY KEY (id); CREATE INDEX ON orders (placed); CREATE INDEX ON orders (user_id)",
        binary: false,
        row: rows::order,
    },
    Table {
        name: "documents",
        share_percent: 24,
        bytes_per_row: 1906,
        columns: "id bigint NOT NULL, organization_id int NOT NULL, author_id bigint NOT NULL, title text NOT NULL, body text NOT NULL, \
                  tags text[] NOT NULL, status text NOT NULL, created timestamptz NOT NULL, updated timestamptz NOT NULL",
        indexes: "ALTER TABLE documents ADD PRIMARY KEY (id); CREATE INDEX ON documents (organization_id, updated)",
        binary: false,
        row: rows::document,
    },
    Table {
        name: "embeddings",
        share_percent: 16,
        bytes_per_row: 1685,
        columns: "document_id bigint NOT NULL, part int NOT NULL, model text NOT NULL, embedding real[] NOT NULL",
        indexes: "ALTER TABLE embeddings ADD PRIMARY KEY (document_id, part)",
        binary: true,
        row: rows::embedding,
    },
    Table {
        name: "revisions",
        share_percent: 10,
        bytes_per_row: 499,
        columns: "id bigint NOT NULL, document_id bigint NOT NULL, editor_id bigint NOT NULL, number int NOT NULL, digest bytea NOT NULL, \
                  summary text NOT NULL, change text NOT NULL, at timestamptz NOT NULL",
        indexes: "ALTER TABLE revisions ADD PRIMARY KEY (id); CREATE INDEX ON revisions (document_id)",
        binary: false,
        row: rows::revision,
    },
    Table {
        name: "users",
        share_percent: 2,
        bytes_per_row: 297,
        columns: "id bigint NOT NULL, organization_id int NOT NULL, email text NOT NULL, name text NOT NULL, role text NOT NULL, \
                  password_hash text NOT NULL, created timestamptz NOT NULL, last_seen timestamptz",
        indexes: "ALTER TABLE users ADD PRIMARY KEY (id); CREATE UNIQUE INDEX ON users (email)",
        binary: false,
        row: rows::user,
    },
    Table {
        name: "organizations",
        share_percent: 0,
        bytes_per_row: 260,
        columns: "id int NOT NULL, name text NOT NULL, slug text NOT NULL, plan text NOT NULL, country char(2) NOT NULL, \
                  created timestamptz NOT NULL, settings jsonb NOT NULL",
        indexes: "ALTER TABLE organizations ADD PRIMARY KEY (id); CREATE UNIQUE INDEX ON organizations (slug)",
        binary: false,
        row: rows::organization,
    },
];
