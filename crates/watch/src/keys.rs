//! Whether the data keys open, for each recipient: asked of the keepers themselves.

use crate::Trouble;
use crate::facts::RecipientFacts;
use crate::settings::Doors;
use repo::{Encryption, Reader};

pub(crate) async fn look(reader: &Reader, doors: &dyn Doors) -> Result<Option<Vec<RecipientFacts>>, Trouble> {
    if reader.document().encryption == Encryption::Off {
        return Ok(None);
    }
    let mut found = Vec::new();
    for recipient in doors.recipients()? {
        let (name, trouble) = match reader.prove(&*recipient).await {
            Ok(proof) => (proof.recipient, None),
            Err(e) => (recipient.name(), Some(Trouble::of(&e))),
        };
        found.push(RecipientFacts { name, trouble });
    }
    // Whoever can wrap may not be able to unwrap: what is stored must open, too.
    reader.digester().await.map_err(|e| Trouble::of(&e))?;
    Ok(Some(found))
}
