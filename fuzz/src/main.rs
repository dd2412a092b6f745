//! Runs one target under libFuzzer: `BOWLINE_FUZZ=frame fuzzer CORPUS…`, with libFuzzer's own options. `cargo xtask fuzz` does it.

#![no_main]

use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("BOWLINE_FUZZ").expect("BOWLINE_FUZZ names a target");
        fuzz::TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} is no target")).1
    });
    target(bytes);
});
