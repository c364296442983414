//! How a backend ends: somebody closes it, its tasks let out what was accepted, and everybody who closes it hears the result.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::CloseError;

/// The end of a backend, for its [`close`](crate::IfTransport::close).
#[derive(Debug)]
pub struct Ending {
    closing: watch::Sender<bool>,
    done: watch::Receiver<Option<u64>>,
    unsent_told: AtomicBool,
}

impl Ending {
    /// An end that is yet to come, and for the backend's main task: what becomes true when it is to end, and where it then
    /// says how many accepted envelopes did not get out.
    pub fn new() -> (Self, watch::Receiver<bool>, watch::Sender<Option<u64>>) {
        let (closing, to_close) = watch::channel(false);
        let (finished, done) = watch::channel(None);
        let unsent_told = AtomicBool::new(false);
        let ending = Self {
            closing,
            done,
            unsent_told,
        };
        (ending, to_close, finished)
    }

    /// Tells the task to end, and waits until it has. What did not get out is told to the first who closes. Cancel safe.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.closing.send_replace(true);
        let done = awaited(&mut self.done.clone(), |unsent| unsent.is_some()).await;
        // None: the runtime ended before it.
        let unsent = done.flatten().unwrap_or(0);
        if unsent > 0 && !self.unsent_told.swap(true, Ordering::Relaxed) {
            let envelopes = usize::try_from(unsent).unwrap_or(usize::MAX);
            return Err(CloseError::Unsent { envelopes });
        }
        Ok(())
    }
}

/// Waits for a value that fits, and copies it: what `watch` hands out is a lock. `None`: the sender is gone. Cancel safe.
pub async fn awaited<T: Copy>(values: &mut watch::Receiver<T>, fits: impl Fn(T) -> bool) -> Option<T> {
    values
        .wait_for(|value| fits(*value))
        .await
        .ok()
        .map(|value| *value)
}
