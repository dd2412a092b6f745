//! English-like prose with English's statistics: Zipf's law, a topic for each document, names and numbers. zstd packs it about like real text.

/// A small, fast generator of pseudo-random numbers (splitmix64): the same on every machine and release.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A sequence of its own for each seed and name.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut rng = Self(name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)));
        rng.next();
        rng
    }
    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
    /// True once in `of` times.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
    /// An almost normal number with mean 0 and deviation 1: the sum of four even ones.
    pub fn normal(&mut self) -> f32 {
        let bits = self.next();
        let parts = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        parts as f32 / 37_837.0 - 3.464
    }
}

/// A class of words, drawn by Zipf's law: the n-th about 1/n as often as the first.
#[derive(Debug)]
struct Class {
    words: Vec<String>,
    /// Word numbers, each as often as its word is drawn: one random index does the draw.
    draw: Vec<u16>,
}

impl Class {
    fn even(words: Vec<String>) -> Self {
        let draw = (0..words.len() as u16).collect();
        Self { words, draw }
    }
    fn zipf(words: Vec<String>) -> Self {
        let weight = |rank: usize| 1.0 / (rank as f64 + 6.0);
        let total: f64 = (0..words.len()).map(weight).sum();
        let draw = (0..words.len()).flat_map(|rank| {
            let times = (weight(rank) / total * 60_000.0).round().max(1.0) as usize;
            std::iter::repeat_n(rank as u16, times)
        });
        let draw = draw.collect();
        Self { words, draw }
    }
    fn pick(&self, rng: &mut Rng) -> &str {
        &self.words[usize::from(*rng.pick(&self.draw))]
    }
}

/// The vocabulary; made once.
#[derive(Debug)]
pub struct Prose {
    determiners: Class,
    prepositions: Class,
    conjunctions: Class,
    pronouns: Class,
    auxiliaries: Class,
    adverbs: Class,
    nouns: Class,
    verbs: Class,
    adjectives: Class,
    names: Class,
}

const STARTS: [&str; 40] = [
    "Al", "Be", "Bran", "Cor", "Da", "El", "Fen", "Gar", "Ha", "Is", "Jo", "Ka", "Lo", "Mar", "Nor", "Os", "Pe", "Quin", "Ro", "Sa", "Tor", "Ul",
    "Va", "Wes", "Yor", "Zel", "Bri", "Cla", "Dor", "Fre", "Gre", "Hol", "Kel", "Lin", "Mor", "Pre", "Sten", "Tre", "Wil", "Ash",
];
const MIDDLES: [&str; 24] =
    ["a", "be", "ca", "den", "e", "fi", "ga", "i", "ki", "la", "ma", "ne", "o", "pa", "ra", "ri", "sa", "ta", "ti", "u", "va", "ver", "wi", "zo"];
const ENDS: [&str; 30] = [
    "bridge", "burg", "by", "dale", "den", "don", "field", "ford", "ham", "ia", "land", "ley", "lin", "lo", "man", "mer", "mont", "ner", "nia",
    "port", "rick", "ro", "ski", "son", "stein", "ster", "ton", "vich", "well", "worth",
];

impl Prose {
    /// Reads the word list and derives from it what a real vocabulary has: inflections, compounds, names.
    pub fn new() -> Self {
        let list = |class: &str| -> Vec<String> {
            let line = include_str!("words.txt").lines().find_map(|line| line.strip_prefix(class)?.strip_prefix(' '));
            line.expect("a class of the word list").split(' ').map(str::to_owned).collect()
        };
        let mut rng = Rng::new(7, "vocabulary");
        let mut nouns = list("noun");
        let singular = nouns.clone();
        nouns.extend(singular.iter().map(|noun| match noun.as_bytes() {
            [.., b'y'] => format!("{}ies", &noun[..noun.len() - 1]),
            [.., b's' | b'x' | b'h'] => format!("{noun}es"),
            _ => format!("{noun}s"),
        }));
        for suffix in ["maker", "keeping", "work", "less", "ship", "wise", "hood", "like"] {
            nouns.extend((0..220).map(|_| format!("{}{suffix}", rng.pick(&singular))));
        }
        let mut verbs = list("verb");
        let plain = verbs.clone();
        for verb in &plain {
            let stem = verb.strip_suffix('e').unwrap_or(verb);
            verbs.extend([format!("{verb}s"), format!("{stem}ing"), format!("{stem}ed")]);
        }
        for prefix in ["re", "over", "out", "mis", "pre"] {
            verbs.extend((0..70).map(|_| format!("{prefix}{}", rng.pick(&plain))));
        }
        let mut adjectives = list("adj");
        let bare = adjectives.clone();
        for (prefix, suffix) in [("un", ""), ("", "ly"), ("non", ""), ("", "er"), ("semi", "")] {
            adjectives.extend((0..90).map(|_| format!("{prefix}{}{suffix}", rng.pick(&bare))));
        }
        let names = (0..3000).map(|n| {
            let middle = if n % 3 == 0 { "" } else { *rng.pick(&MIDDLES) };
            format!("{}{middle}{}", rng.pick(&STARTS), rng.pick(&ENDS))
        });
        let names = names.collect();
        Self {
            determiners: Class::even(list("det")),
            prepositions: Class::even(list("prep")),
            conjunctions: Class::even(list("conj")),
            pronouns: Class::even(list("pron")),
            auxiliaries: Class::even(list("aux")),
            adverbs: Class::even(list("adv")),
            nouns: Class::zipf(nouns),
            verbs: Class::zipf(verbs),
            adjectives: Class::zipf(adjectives),
            names: Class::zipf(names),
        }
    }

    /// A name of a person or place.
    pub fn name(&self, rng: &mut Rng) -> &str {
        self.names.pick(rng)
    }

    /// A title of three to seven words.
    pub fn title(&self, rng: &mut Rng, out: &mut Vec<u8>) {
        let begin = out.len();
        self.noun_phrase(rng, out, &[]);
        space(out, self.prepositions.pick(rng));
        self.noun_phrase(rng, out, &[]);
        trim_start_and_capitalise(out, begin);
    }

    /// Paragraphs until at least `bytes` are written; they are divided by `\n\n` as COPY's text form spells it.
    pub fn body(&self, rng: &mut Rng, out: &mut Vec<u8>, bytes: usize) {
        let begin = out.len();
        // A document comes back to its subjects; this is most of what a compressor finds in real text.
        let topic: Vec<String> = (0..6).map(|n| if n < 2 { self.names.pick(rng) } else { self.nouns.pick(rng) }.to_owned()).collect();
        while out.len() - begin < bytes {
            self.sentence(rng, out, &topic);
            out.extend_from_slice(if rng.one_in(6) { b"\\n\\n" } else { b" " });
        }
        out.pop();
        while out.last().is_some_and(|byte| !byte.is_ascii_punctuation() || *byte == b'\\') {
            out.pop();
        }
    }

    /// One sentence with its full stop.
    pub fn sentence(&self, rng: &mut Rng, out: &mut Vec<u8>, topic: &[String]) {
        let begin = out.len();
        self.clause(rng, out, topic);
        while rng.one_in(3) {
            out.extend_from_slice(if rng.one_in(2) { b"," } else { b"" });
            space(out, self.conjunctions.pick(rng));
            self.clause(rng, out, topic);
        }
        out.push(*rng.pick(b"......?!;:"));
        trim_start_and_capitalise(out, begin);
    }

    fn clause(&self, rng: &mut Rng, out: &mut Vec<u8>, topic: &[String]) {
        if rng.one_in(4) {
            space(out, self.pronouns.pick(rng))
        } else {
            self.noun_phrase(rng, out, topic)
        }
        if rng.one_in(2) {
            space(out, self.auxiliaries.pick(rng));
        }
        if rng.one_in(5) {
            space(out, self.adverbs.pick(rng));
        }
        space(out, self.verbs.pick(rng));
        if !rng.one_in(4) {
            self.noun_phrase(rng, out, topic);
        }
        while rng.one_in(2) {
            space(out, self.prepositions.pick(rng));
            self.noun_phrase(rng, out, topic);
        }
    }

    fn noun_phrase(&self, rng: &mut Rng, out: &mut Vec<u8>, topic: &[String]) {
        match rng.below(14) {
            0 => return space(out, self.names.pick(rng)),
            1 => {
                space(out, "");
                return number(out, rng.next() % 10u64.pow(1 + (rng.next() % 4) as u32));
            }
            2 | 3 if !topic.is_empty() => return space(out, rng.pick(topic).as_str()),
            _ => {}
        }
        space(out, self.determiners.pick(rng));
        if rng.one_in(3) {
            space(out, self.adjectives.pick(rng));
        }
        space(out, if !topic.is_empty() && rng.one_in(8) { rng.pick(topic).as_str() } else { self.nouns.pick(rng) });
    }
}

fn space(out: &mut Vec<u8>, word: &str) {
    out.push(b' ');
    out.extend_from_slice(word.as_bytes());
}

fn trim_start_and_capitalise(out: &mut Vec<u8>, begin: usize) {
    if out.get(begin) == Some(&b' ') {
        out.remove(begin);
    }
    if let Some(first) = out.get_mut(begin) {
        first.make_ascii_uppercase();
    }
}

/// A whole number in decimal, without the cost of the formatting machinery.
pub fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// A whole number in decimal with zeros before it.
pub fn padded(out: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10u64.pow(place) % 10) as u8);
    }
}

/// Random bytes in hexadecimal.
pub fn hex(rng: &mut Rng, out: &mut Vec<u8>, digits: usize) {
    for _ in 0..digits {
        out.push(b"0123456789abcdef"[(rng.next() & 15) as usize]);
    }
}
