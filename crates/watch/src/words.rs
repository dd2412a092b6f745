//! Sizes and times as sentences have them.

/// Bytes, rounded: `512 MiB`, `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..0x0010_0000 => (1u64 << 10, "KiB"),
        0x0010_0000..0x4000_0000 => (1 << 20, "MiB"),
        0x4000_0000..0x100_0000_0000 => (1 << 30, "GiB"),
        _ => (1 << 40, "TiB"),
    };
    format!("{} {name}", (count as f64 / unit as f64 * 10.0).round() / 10.0)
}

/// A time for people: `40 s`, `12 min`, `5 h`, `3 d`.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}
