//! Messages that wait for the application.

use std::collections::VecDeque;

use ifmsg::{Header, VerifiedMessage};

use super::control::Reliable;

/// The stream and epoch of a reliable message.
pub(super) type Origin = (Reliable, u64);

/// Messages for the application.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) items: VecDeque<InboxItem>,
    pub(super) best_effort: usize,
    /// So many of them, the first ones, may be handed out.
    pub(super) released: usize,
}

#[derive(Debug)]
pub(super) struct InboxItem {
    pub(super) message: VerifiedMessage,
    /// `None` for best effort, which nobody acknowledges.
    pub(super) origin: Option<Origin>,
}

impl Inbox {
    pub(super) fn push(&mut self, item: InboxItem) {
        self.items.push_back(item);
    }

    /// Adds a best-effort message; beyond `room` of them the oldest gives way, and is returned.
    pub(super) fn push_best_effort(
        &mut self,
        message: VerifiedMessage,
        room: usize,
    ) -> Option<VerifiedMessage> {
        self.items.push_back(InboxItem {
            message,
            origin: None,
        });
        self.best_effort += 1;
        if self.best_effort <= room {
            return None;
        }
        let oldest = self.items.iter().position(|item| item.origin.is_none())?;
        self.best_effort -= 1;
        self.released -= usize::from(oldest < self.released);
        self.items.remove(oldest).map(|item| item.message)
    }

    /// The first message that is wanted; nearly always the first of all.
    pub(super) fn take(&mut self, wanted: impl Fn(&Header) -> bool) -> Option<InboxItem> {
        let mut released = self.items.iter().take(self.released);
        let at = released.position(|item| wanted(item.message.header()))?;
        let item = self.items.remove(at)?;
        self.released -= 1;
        self.best_effort -= usize::from(item.origin.is_none());
        Some(item)
    }
}
