use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{Closed, TransportEvent};

/// Least charge for a frame that waits, in bytes; bounds the number of frames.
pub const LEAST_CHARGE: usize = 1_024;

/// The way of events to a backend's `recv`, bounded in bytes and in number. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    most: usize,
}

/// What is yet to be read.
#[derive(Debug)]
pub struct Unread(Mutex<mpsc::Receiver<Queued>>);

/// An event, and the room that it takes up until it is read.
#[derive(Debug)]
struct Queued {
    event: TransportEvent,
    _room: Option<OwnedSemaphorePermit>,
}

impl Events {
    /// Both ends of a queue for frames of so many bytes, at least 64 times [`LEAST_CHARGE`].
    pub fn new(bytes: usize) -> (Self, Unread) {
        let most = bytes.clamp(64 * LEAST_CHARGE, u32::MAX as usize);
        let (queue, events) = mpsc::channel(most / LEAST_CHARGE);
        let room = Arc::new(Semaphore::new(most));
        (Self { queue, room, most }, Unread(Mutex::new(events)))
    }

    /// Waits while too much is unread. Errors do not matter: nobody will read again.
    pub async fn push(&self, event: TransportEvent) {
        let room = match &event {
            TransportEvent::Frame { frame, .. } => {
                let charge = charge(frame.len(), self.most);
                Arc::clone(&self.room).acquire_many_owned(charge).await.ok()
            }
            _ => None,
        };
        let _ = self.queue.send(Queued { event, _room: room }).await;
    }

    /// Hands over a frame if nothing has to be waited for; otherwise it comes back.
    pub fn try_push(&self, event: TransportEvent) -> Result<(), TransportEvent> {
        let charge = match &event {
            TransportEvent::Frame { frame, .. } => charge(frame.len(), self.most),
            _ => 0,
        };
        // A place in the queue first: room that is taken and given back again would wake whoever waits for it.
        let Ok(place) = self.queue.try_reserve() else {
            return Err(event);
        };
        match Arc::clone(&self.room).try_acquire_many_owned(charge) {
            Ok(room) => {
                place.send(Queued {
                    event,
                    _room: Some(room),
                });
                Ok(())
            }
            Err(_) => Err(event),
        }
    }

    /// Only if there is room: for what happens when nobody may be reading any more.
    pub fn offer(&self, event: TransportEvent) {
        let _ = self.queue.try_send(Queued { event, _room: None });
    }

    /// Only if there is plenty of room: what strangers can cause must not get into the way of frames.
    pub fn offer_aside(&self, event: TransportEvent) {
        if self.queue.capacity() > self.queue.max_capacity() / 2 {
            self.offer(event);
        }
    }
}

impl Unread {
    /// The next event, for [`recv`](crate::IfTransport::recv); an error when all [`Events`] are gone and all is read. Cancel safe.
    pub async fn recv(&self) -> Result<TransportEvent, Closed> {
        let queued = self.0.lock().await.recv().await;
        queued.map(|queued| queued.event).ok_or(Closed)
    }
}

/// What a frame of this length counts for, where `most` bytes may wait: a single one may be larger.
pub fn charge(len: usize, most: usize) -> u32 {
    u32::try_from(len.max(LEAST_CHARGE).min(most)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ifmsg::AgentId;

    use super::*;
    use crate::Lane;

    /// Falsified by a frame that overtakes one that waits, or by more unread bytes than there is room for.
    #[tokio::test]
    async fn what_is_pushed_at_once_overtakes_nothing() -> Result<(), Box<dyn std::error::Error>> {
        let from = AgentId::new("a")?;
        let frame = |byte: u8, len: usize| TransportEvent::Frame {
            from: from.clone(),
            lane: Lane::Reliable,
            frame: Bytes::from(vec![byte; len]),
            road: None,
        };
        let (events, unread) = Events::new(64 * LEAST_CHARGE);
        assert!(events.try_push(frame(1, 63 * LEAST_CHARGE)).is_ok());
        // There is room for a small one, until a large one waits for it.
        let large = tokio::spawn({
            let (events, event) = (events.clone(), frame(2, 2 * LEAST_CHARGE));
            async move { events.push(event).await }
        });
        tokio::task::yield_now().await;
        assert!(events.try_push(frame(3, 1)).is_err());
        let mut came = Vec::new();
        for _ in 0..2 {
            if let TransportEvent::Frame { frame, .. } = unread.recv().await? {
                came.push(frame[0]);
            }
        }
        large.await?;
        assert_eq!(came, [1, 2]);
        assert!(events.try_push(frame(3, 1)).is_ok());
        Ok(())
    }
}
