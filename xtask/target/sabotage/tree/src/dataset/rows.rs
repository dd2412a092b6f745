//! The rows of each table, in COPY's own form, written as fast as the server takes them.

use super::prose::{Prose, Rng, hex, number, padded};

/// What the rows are written with.
pub struct Writer<'a> {
    pub prose: &'a Prose,
    pub rng: Rng,
    pub out: Vec<u8>,
    /// Rows of the tables that others refer to.
    pub organizations: u64,
    pub users: u64,
    pub documents: u64,
}

/// Dimensions of an embedding.
const DIMENSIONS: usize = 384;
const COUNTRIES: [&str; 12] = ["DE", "FR", "US", "GB", "NL", "SE", "PL", "ES", "IT", "JP", "BR", "IN"];
const CURRENCIES: [&str; 6] = ["EUR", "EUR", "USD", "USD", "GBP", "JPY"];
const STATUSES: [&str; 8] = ["delivered", "delivered", "delivered", "delivered", "paid", "shipped", "pending", "refunded"];
/// 2023-01-01 UTC in seconds since the Unix epoch; the data spans three and a half years from there.
const FIRST_SECOND: u64 = 1_672_531_200;
const SPAN_SECONDS: u64 = 110_000_000;

impl Writer<'_> {
    fn tab(&mut self) {
        self.out.push(b'\t');
    }
    fn end(&mut self) {
        self.out.push(b'\n');
    }
    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
    fn number(&mut self, value: u64) {
        number(&mut self.out, value);
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.rng.below(limit)
    }
    fn hex(&mut self, digits: usize) {
        hex(&mut self.rng, &mut self.out, digits);
    }
    fn name(&mut self) {
        let name = self.prose.name(&mut self.rng);
        self.out.extend_from_slice(name.as_bytes());
    }
    fn pick(&mut self, from: &[&'static str]) {
        let text = self.rng.pick(from);
        self.out.extend_from_slice(text.as_bytes());
    }
    /// An instant near `part` thousandths of the span, to the microsecond.
    fn instant(&mut self, thousandth: u64) {
        let second = FIRST_SECOND + SPAN_SECONDS / 1000 * thousandth + self.below(SPAN_SECONDS / 1000);
        let (days, rest) = (second / 86_400, second % 86_400);
        // From days to a civil date (Howard Hinnant, "chrono-compatible low-level date algorithms").
        let z = days + 719_468;
        let (era, doe) = (z / 146_097, z % 146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let micros = self.below(1_000_000);
        let fields = [
            (yoe + era * 400 + u64::from(month <= 2), 4, '-'),
            (month, 2, '-'),
            (doy - (153 * mp + 2) / 5 + 1, 2, ' '),
            (rest / 3600, 2, ':'),
            (rest / 60 % 60, 2, ':'),
            (rest % 60, 2, '.'),
            (micros, 6, '+'),
            (0, 2, ' '),
        ];
        for (value, width, after) in fields {
            padded(&mut self.out, value, width);
            self.out.push(after as u8);
        }
        self.out.pop();
    }
    fn uuid(&mut self) {
        for (n, digits) in [8, 4, 4, 4, 12].into_iter().enumerate() {
            if n > 0 {
                self.out.push(b'-');
            }
            self.hex(digits);
        }
    }
    fn email(&mut self, unique: u64) {
        let begin = self.out.len();
        self.name();
        self.out.push(b'.');
        self.name();
        self.number(unique);
        self.out.push(b'@');
        self.name();
        self.text(".example");
        self.out[begin..].make_ascii_lowercase();
    }
}

/// How far along its table a row is, in thousandths: the tables grew as time went by.
fn age(number: u64, of: u64) -> u64 {
    (number * 999 / of.max(1)).min(999)
}

/// A tenant.
pub fn organization(w: &mut Writer, n: u64) {
    w.number(n);
    w.tab();
    w.name();
    w.out.push(b' ');
    w.pick(&["Ltd", "GmbH", "SA", "Inc", "AB", "BV", "Cooperative", "Foundation"]);
    w.text("\torg-");
    w.number(n);
    w.out.push(b'-');
    w.hex(6);
    w.tab();
    w.pick(&["free", "free", "team", "business", "enterprise"]);
    w.tab();
    w.pick(&COUNTRIES);
    w.tab();
    let age = age(n, w.organizations);
    w.instant(age);
    w.text("\t{\"theme\": \"");
    w.pick(&["light", "dark", "system"]);
    w.text("\", \"seats\": ");
    let seats = w.below(500);
    w.number(seats);
    w.text(", \"sso\": ");
    w.pick(&["true", "false"]);
    w.text(", \"domain\": \"");
    w.hex(8);
    w.text(".example\"}");
    w.end();
}

/// A person of a tenant.
pub fn user(w: &mut Writer, n: u64) {
    w.number(n);
    w.tab();
    let organization = 1 + w.below(w.organizations);
    w.number(organization);
    w.tab();
    w.email(n);
    w.tab();
    w.name();
    w.out.push(b' ');
    w.name();
    w.tab();
    w.pick(&["reader", "reader", "reader", "editor", "editor", "admin"]);
    w.text("\t$argon2id$");
    w.hex(64);
    w.tab();
    let age = age(n, w.users);
    w.instant(age);
    w.tab();
    if w.rng.one_in(5) {
        w.text("\\N")
    } else {
        w.instant(999)
    }
    w.end();
}

/// A page of prose.
pub fn document(w: &mut Writer, n: u64) {
    w.number(n);
    w.tab();
    let organization = 1 + w.below(w.organizations);
    w.number(organization);
    w.tab();
    let author = 1 + w.below(w.users);
    w.number(author);
    w.tab();
    w.prose.title(&mut w.rng, &mut w.out);
    w.tab();
    // Most pages are short and stay in the heap; one in nine is long and goes, compressed by PostgreSQL, to TOAST.
    let bytes = if w.rng.one_in(9) { 3000 + w.below(12_000) } else { 200 + w.below(1600) };
    w.prose.body(&mut w.rng, &mut w.out, bytes as usize);
    w.text("\t{");
    w.pick(&["guide", "policy", "meeting", "design", "incident", "recipe", "travel"]);
    w.out.push(b',');
    w.pick(&["internal", "public", "archived", "legal", "finance"]);
    w.text("}\t");
    w.pick(&["published", "published", "published", "draft", "archived"]);
    w.tab();
    let age = age(n, w.documents);
    w.instant(age);
    w.tab();
    let later = age + w.below(1000 - age);
    w.instant(later);
    w.end();
}

/// What somebody changed in a document.
pub fn revision(w: &mut Writer, n: u64) {
    w.number(n);
    w.tab();
    let document = 1 + w.below(w.documents);
    w.number(document);
    w.tab();
    let editor = 1 + w.below(w.users);
    w.number(editor);
    w.tab();
    let number = 1 + w.below(20);
    w.number(number);
    w.text("\t\\\\x");
    w.hex(32);
    w.tab();
    w.prose.title(&mut w.rng, &mut w.out);
    w.tab();
    let bytes = 60 + w.below(400) as usize;
    w.prose.body(&mut w.rng, &mut w.out, bytes);
    w.tab();
    let at = w.below(1000);
    w.instant(at);
    w.end();
}

/// An order: identifiers, money and a small JSON document.
pub fn order(w: &mut Writer, n: u64) {
    w.uuid();
    w.tab();
    w.uuid();
    w.tab();
    let organization = 1 + w.below(w.organizations);
    w.number(organization);
    w.tab();
    let user = 1 + w.below(w.users);
    w.number(user);
    w.tab();
    let at = w.below(1000);
    w.instant(at);
    w.tab();
    let (units, cents) = (w.below(2000), w.below(100));
    w.number(units);
    w.out.push(b'.');
    padded(&mut w.out, cents, 2);
    w.tab();
    w.pick(&CURRENCIES);
    w.tab();
    w.email(n % 50_000);
    w.tab();
    w.pick(&STATUSES);
    w.tab();
    if w.rng.one_in(2) {
        w.prose.sentence(&mut w.rng, &mut w.out, &[])
    } else {
        w.text("\\N")
    }
    w.text("\t{\"items\": [");
    for item in 0..1 + w.below(3) {
        w.text(if item > 0 { ", {\"sku\": \"KB-" } else { "{\"sku\": \"KB-" });
        let (sku, quantity, price) = (w.below(90_000), 1 + w.below(9), w.below(30_000));
        padded(&mut w.out, sku, 5);
        w.text("\", \"price\": ");
        w.number(price / 100);
        w.out.push(b'.');
        padded(&mut w.out, price % 100, 2);
        w.text(", \"quantity\": ");
        w.number(quantity);
        w.out.push(b'}');
    }
    w.text("], \"trace\": \"");
    w.hex(24);
    w.text("\", \"channel\": \"");
    w.pick(&["web", "web", "app", "phone", "partner"]);
    w.text("\", \"ship_to\": {\"city\": \"");
    w.name();
    w.text("\", \"zip\": \"");
    let zip = w.below(100_000);
    padded(&mut w.out, zip, 5);
    w.text("\", \"country\": \"");
    w.pick(&COUNTRIES);
    w.text("\"}}");
    w.end();
}

/// A unit vector of normal numbers: what a model gives, and what no compressor packs. (COPY's binary form: the manual's
/// chapter on COPY; arrays: array_send in src/backend/utils/adt/arrayfuncs.c.)
pub fn embedding(w: &mut Writer, n: u64) {
    let values: [f32; DIMENSIONS] = std::array::from_fn(|_| w.rng.normal());
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    let out = &mut w.out;
    out.extend_from_slice(&4u16.to_be_bytes());
    out.extend_from_slice(&8u32.to_be_bytes());
    out.extend_from_slice(&(1 + (n - 1) / 2).to_be_bytes());
    out.extend_from_slice(&4u32.to_be_bytes());
    out.extend_from_slice(&((n - 1) as u32 % 2).to_be_bytes());
    out.extend_from_slice(&11u32.to_be_bytes());
    out.extend_from_slice(b"minilm-l6-2");
    out.extend_from_slice(&(20 + 8 * DIMENSIONS as u32).to_be_bytes());
    const REAL_OID: u32 = 700;
    for word in [1, 0, REAL_OID, DIMENSIONS as u32, 1] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    for value in values {
        out.extend_from_slice(&4u32.to_be_bytes());
        out.extend_from_slice(&(value / length).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::TABLES;
    use super::*;

    fn written(table: &str, seed: u64, rows: u64) -> Vec<u8> {
        let prose = Prose::new();
        let rng = Rng::new(seed, table);
        let mut writer = Writer { prose: &prose, rng, out: Vec::new(), organizations: 50, users: 2000, documents: 5000 };
        let table = TABLES.iter().find(|found| found.name == table).expect("a table");
        (1..=rows).for_each(|number| (table.row)(&mut writer, number));
        writer.out
    }

    #[test]
    fn the_same_seed_writes_the_same_rows_and_another_seed_others() {
        for table in &TABLES {
            assert_eq!(written(table.name, 1, 200), written(table.name, 1, 200), "{}", table.name);
            assert_ne!(written(table.name, 1, 200), written(table.name, 2, 200), "{}", table.name);
        }
    }

    /// Measured on heap pages too: documents 2.6, revisions 2.2, orders 3.0, users 2.1, embeddings 1.15.
    #[test]
    fn prose_packs_about_as_real_english_does_and_vectors_hardly_at_all() {
        let ratio = |table: &str| {
            let text = written(table, 1, 700);
            text.len() as f64 / zstd::bulk::compress(&text, 1).expect("compress").len() as f64
        };
        assert!((2.2..2.9).contains(&ratio("documents")), "{}", ratio("documents"));
        // COPY's binary form repeats each value's length, which the heap does not hold.
        assert!(ratio("embeddings") < 2.4, "{}", ratio("embeddings"));
    }
}
