//! Twins of damage: where it is found, and what it leaves of a restore.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "damage leaves the question open whether a backup is good",
        "crates/drill/src/lib.rs",
        "Class::Damaged | Class::Missing => Outcome::Failed,",
        "Class::Missing => Outcome::Failed,",
        ("e2e_drill_damage", "one_flipped_bit"),
    ),
    twin(
        "indexes are not held against their tables",
        "crates/checks/src/lib.rs",
        "for relation in &provable.relations {",
        "for relation in provable.relations.iter().filter(|relation| matches!(relation.kind, CheckKind::Heap)) {",
        ("e2e_verify", "an_index_that_disagrees"),
    ),
    twin(
        "what is found wrong changes no verdict",
        "crates/checks/src/lib.rs",
        "self.faults.iter().map(|fault| fault.outcome).chain(",
        "self.faults.iter().take(0).map(|fault| fault.outcome).chain(",
        ("e2e_verify", "a_page_that_is_damaged"),
    ),
    twin(
        "what a worker of the restore met is forgotten",
        "crates/restore/src/files.rs",
        "if let Some(e) = shared.trouble() {",
        "if let Some(e) = shared.trouble().filter(|_| false) {",
        ("e2e_damage", "a_flipped_bit_in_a_pack"),
    ),
    twin(
        "the checksum of what is not sealed is not compared",
        "crates/seal/src/frame.rs",
        "if tag != checksum(context, head, payload) {",
        "if tag != checksum(context, head, payload) && false {",
        ("laws", "any_flipped_bit_is_found"),
    ),
    twin(
        "a damaged page from before the backup is believed to be repaired by replay",
        "crates/capture/src/pages.rs",
        "lsn > self.start && lsn <= stop;",
        "lsn <= stop;",
        ("bad_input_limits", "a_damaged_page_fails_the_backup"),
    ),
];
