use tokio::sync::watch;

/// Waits for a value that fits, and copies it: what `watch` hands out is a lock. `None`: the sender is gone.
pub(crate) async fn awaited<T: Copy>(values: &mut watch::Receiver<T>, fits: impl Fn(T) -> bool) -> Option<T> {
    values
        .wait_for(|value| fits(*value))
        .await
        .ok()
        .map(|value| *value)
}
