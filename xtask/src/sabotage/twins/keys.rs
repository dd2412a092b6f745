//! Twins of keys and who holds them.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "a recipient's slot goes although nobody left can prove the key",
        "crates/repo/src/slots.rs",
        "            if !is_new_proven {",
        "            if !is_new_proven && false {",
        ("e2e_keys_changes", "recipients_come_and_go_and_the_last_one_stays"),
    ),
    twin(
        "after one silent recipient nobody else is asked",
        "crates/repo/src/keyring.rs",
        "                    Err(e) => {\n                        if e.class() == Class::Transient {",
        "                    Err(e) if e.class() == Class::Transient => return Err(e.into()),\n                    Err(e) => {\n                        if e.class() == Class::Transient {",
        ("e2e_keys", "any_one_of_several_opens"),
    ),
    twin(
        "a rewrap keeps the slots of who went",
        "crates/repo/src/slots.rs",
        "let stays = |slot: &Slot| !change.drops.contains(&slot.recipient) &&",
        "let stays = |slot: &Slot|",
        ("e2e_keys_changes", "a_replaced_kms_key_is_rewrapped_for"),
    ),
    twin(
        "a rotation changes nothing",
        "crates/repo/src/slots.rs",
        "            present.wal_key = Some(id);",
        "            let _ = id;",
        ("e2e_keys_changes", "wal_from_a_rotation_on"),
    ),
    twin(
        "a slot is named by the alias, which may move",
        "crates/keys/src/aws.rs",
        r#"Ok(Wrapped { recipient: format!("{PREFIX}{arn}"), bytes: blob.into_inner() })"#,
        r#"Ok(Wrapped { recipient: { drop(arn); self.name() }, bytes: blob.into_inner() })"#,
        ("e2e_keys", "a_backup_for_aws_kms_comes_back"),
    ),
    twin(
        "check calls a recovery recipient proven",
        "crates/repo/src/keyring.rs",
        "        let is_proven = recipient.can_unwrap();\n        if is_proven &&",
        "        let is_proven = true;\n        if recipient.can_unwrap() &&",
        ("e2e_keys_down", "check_proves_each_recipient"),
    ),
    twin(
        "data keys are wrapped with another key of Vault's than the named one",
        "crates/keys/src/vault.rs",
        r#"let path = format!("{}/{verb}/{}", self.mount, self.key);"#,
        r#"let path = format!("{}/{verb}/bowline", self.mount);"#,
        ("e2e_keys", "a_backup_for_vault_comes_back"),
    ),
    twin(
        "any line vouches for a kept configuration",
        "crates/repo/src/configuration.rs",
        r"if mac.strip_suffix('\n') == Some(&self.mac(object, text, key))",
        r"if mac.strip_suffix('\n').is_some() || Some(&mac.to_owned()) == Some(&self.mac(object, text, key))",
        ("laws", "configuration::what_only_the_store_vouches_for"),
    ),
];
