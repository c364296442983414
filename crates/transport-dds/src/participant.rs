//! A participant of the library, and how endpoints are made in it: one at a time.
//!
//! The library's two threads and a caller can wait for each other for ever (0.15.1). Its discovery thread tells the event loop of
//! all readers of a new writer's topic, through a queue of 32, and holds its database for reading meanwhile. The event loop may
//! have to read that database before it takes the next thing from the queue, and a `RwLock` lets nobody read while somebody waits
//! to write: as whoever makes the next endpoint does. So nobody makes one before the library is done with the last. Its discovery
//! thread has heard of it from itself by then, and reports that as an event.

use std::{
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use futures::StreamExt as _;
use rustdds::{
    DomainParticipant, DomainParticipantBuilder, DomainParticipantStatusEvent,
    DomainParticipantStatusListener, GUID, Publisher, QosPolicies, RTPSEntity, StatusEvented as _,
    Subscriber, Topic, TopicKind,
    dds::{CreateError, CreateResult},
};
use tokio::{
    sync::{Mutex, oneshot},
    time::timeout,
};

use crate::{
    config::{DdsConfig, Interfaces},
    error::StartError,
};

/// The library drops events when more than 2,048 wait, so one may never come. It takes a few milliseconds otherwise.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// Ends when it is dropped, in the background.
pub(crate) struct Participant {
    publisher: Publisher,
    subscriber: Subscriber,
    /// Held by whoever makes an endpoint.
    events: Mutex<DomainParticipantStatusListener>,
    found: AtomicU64,
    library: Library,
}

impl Participant {
    /// Joins the domain, which takes up to a second. Cancel safe: a participant that nobody waits for any more ends once it is made.
    pub(crate) async fn join(config: &DdsConfig) -> Result<Self, StartError> {
        let domain = config.domain;
        let mut builder = DomainParticipantBuilder::new(domain);
        if let Interfaces::Only(addresses) = &config.interfaces {
            for address in addresses {
                is_ours(*address)?;
            }
            builder = builder.with_only_networks(addresses.iter().copied());
        }
        let (joined, wait) = oneshot::channel();
        let join = move || Self::make(builder.build()?);
        let thread = thread::Builder::new()
            .name("dds-join".to_owned())
            .spawn(move || drop(joined.send(join())))
            .map_err(|error| StartError::participant(domain, &error))?;
        let joined = wait.await;
        // It has nothing left to do.
        let _ = thread.join();
        match joined {
            Ok(joined) => joined.map_err(|error| StartError::participant(domain, &error)),
            Err(_) => Err(StartError::participant(domain, &"its thread ended")),
        }
    }

    fn make(participant: DomainParticipant) -> CreateResult<Self> {
        let none = QosPolicies::qos_none();
        Ok(Self {
            publisher: participant.create_publisher(&none)?,
            subscriber: participant.create_subscriber(&none)?,
            events: Mutex::new(participant.status_listener()),
            found: AtomicU64::new(0),
            library: Library(Some(participant)),
        })
    }

    /// The participant's number on this machine.
    pub(crate) fn number(&self) -> u16 {
        self.library
            .0
            .as_ref()
            .map_or(0, DomainParticipant::participant_id)
    }

    /// Without QoS of its own: a topic's would be asked of the other side's endpoints as well, a writer's deadline for one.
    pub(crate) fn topic(&self, name: String, type_name: &str, kind: TopicKind) -> CreateResult<Topic> {
        let Some(participant) = &self.library.0 else {
            return Err(CreateError::ResourceDropped {
                reason: "the participant".to_owned(),
            });
        };
        participant.create_topic(name, type_name.to_owned(), &QosPolicies::qos_none(), kind)
    }

    /// Makes a writer and waits until the next endpoint may be made. A call that is dropped may let the next one be made too early.
    pub(crate) async fn writer<W: RTPSEntity>(
        &self,
        make: impl FnOnce(&Publisher) -> CreateResult<W>,
    ) -> CreateResult<W> {
        self.endpoint(|| make(&self.publisher)).await
    }

    /// As [`writer`](Self::writer), a reader.
    pub(crate) async fn reader<R: RTPSEntity>(
        &self,
        make: impl FnOnce(&Subscriber) -> CreateResult<R>,
    ) -> CreateResult<R> {
        self.endpoint(|| make(&self.subscriber)).await
    }

    async fn endpoint<E: RTPSEntity>(&self, make: impl FnOnce() -> CreateResult<E>) -> CreateResult<E> {
        let events = self.events.lock().await;
        let endpoint = make()?;
        let guid = endpoint.guid();
        let settled = async {
            let mut events = events.as_async_status_stream();
            while let Some(event) = events.next().await {
                self.note(&event);
                if tells_of(&event, guid) {
                    break;
                }
            }
        };
        if timeout(SETTLES_WITHIN, settled).await.is_err() {
            tracing::warn!("the DDS library has not told of an endpoint of ours; going on all the same");
        }
        Ok(endpoint)
    }

    /// How many participants were found since the last call.
    pub(crate) fn newly_found(&self) -> u64 {
        // Whoever makes an endpoint takes them in.
        if let Ok(events) = self.events.try_lock() {
            while let Some(event) = events.try_recv_status() {
                self.note(&event);
            }
        }
        self.found.swap(0, Ordering::Relaxed)
    }

    fn note(&self, event: &DomainParticipantStatusEvent) {
        if matches!(event, DomainParticipantStatusEvent::ParticipantDiscovered { .. }) {
            self.found.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends it, and waits until the library's threads have ended. Endpoints must be dropped before, or the library calls it an
    /// error.
    pub(crate) async fn close(self) {
        let Self {
            publisher,
            subscriber,
            events,
            mut library,
            ..
        } = self;
        drop((publisher, subscriber, events));
        let (ended, wait) = oneshot::channel();
        let thread = library.end(Some(ended));
        let _ = wait.await;
        // It has nothing left to do.
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn tells_of(event: &DomainParticipantStatusEvent, guid: GUID) -> bool {
    match event {
        DomainParticipantStatusEvent::WriterDetected { writer } => writer.guid == guid,
        DomainParticipantStatusEvent::ReaderDetected { reader } => reader.guid == guid,
        _ => false,
    }
}

/// Whether an interface of this machine has the address.
fn is_ours(address: IpAddr) -> Result<(), StartError> {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => Ok(()),
        Err(_) => Err(StartError::Interface { address }),
    }
}

/// A participant whose threads are joined elsewhere: that takes up to a second.
struct Library(Option<DomainParticipant>);

impl Library {
    fn end(&mut self, told: Option<oneshot::Sender<()>>) -> Option<thread::JoinHandle<()>> {
        let participant = self.0.take()?;
        let thread = thread::Builder::new().name("dds-close".to_owned());
        let spawned = thread.spawn(move || {
            drop(participant);
            if let Some(told) = told {
                let _ = told.send(());
            }
        });
        spawned
            .inspect_err(|error| tracing::warn!(%error, "no thread to close a DDS participant in"))
            .ok()
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        drop(self.end(None));
    }
}
