use std::{fmt, sync::Arc};

use ifmesh_transport::{LinkNotice, LinkObserver};

/// Whoever wants to know what the transport does, if anybody.
#[derive(Clone, Default)]
pub(crate) struct Notices(pub(crate) Option<Arc<dyn LinkObserver>>);

impl Notices {
    pub(crate) fn tell(&self, notice: impl FnOnce() -> LinkNotice) {
        if let Some(observer) = &self.0 {
            observer.on_notice("webrtc", &notice());
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notices").field(&self.0.is_some()).finish()
    }
}
