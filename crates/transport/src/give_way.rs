use std::{future::poll_fn, task::Poll};

/// Lets tasks that were woken before run before this one goes on. Cancel safe. Unlike [`tokio::task::yield_now`] without a look at the network.
pub async fn give_way() {
    let mut given = false;
    poll_fn(|context| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
