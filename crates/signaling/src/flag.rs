//! A flag that is set once.

use tokio::sync::watch;

/// Waits until the flag is set, or until nobody can set it any more. Cancel safe.
pub(crate) async fn set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|is_set| *is_set).await;
}
