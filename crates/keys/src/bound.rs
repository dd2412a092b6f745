//! Binds a data key to its repository and its id inside what is wrapped, for recipients that cannot take associated data.

use seal::{DataKey, WrapContext};
use zeroize::Zeroizing;

const MARK: &[u8; 15] = b"bowline bound 1";

/// Mark 15, repository id 16, key id 16, data key 32 (docs/format.md, "Bound key").
pub(crate) fn bind(key: &DataKey, context: &WrapContext) -> Zeroizing<Vec<u8>> {
    let mut bound = Zeroizing::new(Vec::with_capacity(MARK.len() + 64));
    for part in [&MARK[..], context.repository.bytes(), context.key.bytes(), key.reveal()] {
        bound.extend_from_slice(part);
    }
    bound
}

/// The data key, if it was bound to just this.
pub(crate) fn unbind(bound: &[u8], context: &WrapContext) -> Option<Zeroizing<[u8; 32]>> {
    let rest = bound.strip_prefix(MARK)?.strip_prefix(context.repository.bytes())?.strip_prefix(context.key.bytes())?;
    <[u8; 32]>::try_from(rest).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use seal::{KeyId, RepositoryId};

    #[test]
    fn a_key_is_bound_as_the_test_vectors_say() {
        let said: serde_json::Value = serde_json::from_str(include_str!("../../../docs/format/vectors.json")).unwrap();
        let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let key: [u8; 32] = std::array::from_fn(|at| u8::from_str_radix(&word(&said["data_key"])[2 * at..2 * at + 2], 16).unwrap());
        let context = WrapContext { repository: word(&said["repository_id"]).parse().unwrap(), key: word(&said["key_id"]).parse().unwrap() };
        let bound = bind(&DataKey::from_bytes(context.key, Zeroizing::new(key)), &context);
        assert_eq!(bound.iter().map(|b| format!("{b:02x}")).collect::<String>(), word(&said["bound"]["bound"]));
    }

    #[test]
    fn a_bound_key_comes_loose_only_where_it_was_bound_to() {
        let key = DataKey::random();
        let context = WrapContext { repository: RepositoryId::random(), key: key.id() };
        let bound = bind(&key, &context);
        assert_eq!(bound.len(), 79);
        assert_eq!(*unbind(&bound, &context).unwrap(), *key.reveal());
        assert!(unbind(&bound, &WrapContext { key: KeyId::random(), ..context }).is_none());
        assert!(unbind(&bound, &WrapContext { repository: RepositoryId::random(), ..context }).is_none());
        assert!(unbind(&bound[..78], &context).is_none());
        assert!(unbind(&[&bound[..], b"x"].concat(), &context).is_none());
    }
}
