//! Two lists in the order of keys, beside each other.

use crate::PackagesError;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::pin::Pin;

type List<'a, T> = BoxStream<'a, Result<T, PackagesError>>;

/// Key by key what each of them has, in the order of the keys' bytes. An error of either ends it.
pub(crate) fn pairs<'a, A: Send + 'a, B: Send + 'a>(
    first: List<'a, A>,
    second: List<'a, B>,
    key_of_first: fn(&A) -> &str,
    key_of_second: fn(&B) -> &str,
) -> List<'a, (Option<A>, Option<B>)> {
    stream::try_unfold((first.peekable(), second.peekable()), move |(mut first, mut second)| async move {
        let a = Pin::new(&mut first).peek().await.map(|head| head.as_ref().ok().map(|of| key_of_first(of).to_owned()));
        let b = Pin::new(&mut second).peek().await.map(|head| head.as_ref().ok().map(|of| key_of_second(of).to_owned()));
        // One that failed comes first: it is taken, and ends this.
        let (takes_first, takes_second) = match (&a, &b) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) => (a <= b, b <= a),
            (a, b) => (a.is_some(), b.is_some()),
        };
        let of_first = if takes_first { first.try_next().await? } else { None };
        let of_second = if takes_second { second.try_next().await? } else { None };
        Ok(Some(((of_first, of_second), (first, second))))
    })
    .boxed()
}
