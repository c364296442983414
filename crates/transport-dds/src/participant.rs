//! A participant of the library, and how endpoints are made in it: one at a time.
//!
//! The library's two threads and a caller can wait for each other for ever (0.15.1). Its discovery thread tells the event loop of
//! all readers of a new writer's topic, through a queue of 32, and holds its database for reading meanwhile. The event loop may
//! have to read that database before it takes the next thing from the queue, and a `RwLock` lets nobody read while somebody waits
//! to write: as whoever makes the next endpoint does. So nobody makes one before the library is done with the last. There is no call that
//! says so, but there are events: that the new endpoint was matched with all that were known on its topic before, or that the discovery
//! thread has heard of it from itself, which happens only where the interface has multicast. An endpoint on a topic where nobody is
//! known gives the discovery thread nothing to tell, so it hardly waits.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use futures::StreamExt as _;
use rustdds::{
    DomainParticipant, DomainParticipantBuilder, DomainParticipantStatusEvent,
    DomainParticipantStatusListener, GUID, Publisher, QosPolicies, RTPSEntity, StatusEvented as _,
    Subscriber, Topic, TopicDescription as _, TopicKind,
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

/// How long to wait for the events of an endpoint whose topic is in use, which takes a few milliseconds where not every core is
/// busy. The library drops events when more than 2,048 wait, so some may never come.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// The same where nobody is known on the topic: what is found meanwhile is little.
const SETTLES_ALONE_WITHIN: Duration = Duration::from_millis(20);

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
        self.participant()?
            .create_topic(name, type_name.to_owned(), &QosPolicies::qos_none(), kind)
    }

    /// Makes a writer and waits until the next endpoint may be made. A call that is dropped may let the next one be made too early.
    pub(crate) async fn writer<W: RTPSEntity>(
        &self,
        topic: &Topic,
        make: impl FnOnce(&Publisher, &Topic) -> CreateResult<W>,
    ) -> CreateResult<W> {
        let known = |participant: &DomainParticipant, name: &str| {
            let readers = participant.discovered_readers().into_iter();
            let here = readers.filter(|reader| reader.subscription_topic_data.topic_name() == name);
            here.map(|reader| reader.reader_proxy.remote_reader_guid)
                .collect()
        };
        self.endpoint(topic, known, || make(&self.publisher, topic)).await
    }

    /// As [`writer`](Self::writer), a reader.
    pub(crate) async fn reader<R: RTPSEntity>(
        &self,
        topic: &Topic,
        make: impl FnOnce(&Subscriber, &Topic) -> CreateResult<R>,
    ) -> CreateResult<R> {
        let known = |participant: &DomainParticipant, name: &str| {
            let writers = participant.discovered_writers().into_iter();
            let here = writers.filter(|writer| writer.publication_topic_data.topic_name() == name);
            here.map(|writer| writer.writer_proxy.remote_writer_guid)
                .collect()
        };
        self.endpoint(topic, known, || make(&self.subscriber, topic))
            .await
    }

    /// `known`: those on the topic that it may be matched with.
    async fn endpoint<E: RTPSEntity>(
        &self,
        topic: &Topic,
        known: impl FnOnce(&DomainParticipant, &str) -> BTreeSet<GUID>,
        make: impl FnOnce() -> CreateResult<E>,
    ) -> CreateResult<E> {
        let events = self.events.lock().await;
        let known = known(self.participant()?, &topic.name());
        let endpoint = make()?;
        self.settled(&events, endpoint.guid(), known).await;
        Ok(endpoint)
    }

    fn participant(&self) -> CreateResult<&DomainParticipant> {
        self.library
            .0
            .as_ref()
            .ok_or_else(|| CreateError::ResourceDropped {
                reason: "the participant".to_owned(),
            })
    }

    /// Waits until the library is done with a new endpoint, on whose topic these were known before.
    async fn settled(&self, events: &DomainParticipantStatusListener, new: GUID, mut known: BTreeSet<GUID>) {
        known.retain(|endpoint| endpoint.prefix != new.prefix);
        let alone = known.is_empty();
        let most = if alone {
            SETTLES_ALONE_WITHIN
        } else {
            SETTLES_WITHIN
        };
        let settled = async {
            let mut events = events.as_async_status_stream();
            while let Some(event) = events.next().await {
                self.note(&event);
                let judged = judged(&event, new);
                known.retain(|other| judged != Some(*other) && !is_lost(*other, &event));
                if judged == Some(new) || !alone && known.is_empty() {
                    break;
                }
            }
        };
        if timeout(most, settled).await.is_err() && !alone {
            tracing::warn!("the DDS library has not told of an endpoint of ours; going on all the same");
        }
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

/// The other endpoint that the library compared a new one with, or itself, if it heard of it.
fn judged(event: &DomainParticipantStatusEvent, new: GUID) -> Option<GUID> {
    use DomainParticipantStatusEvent as Event;
    let (ours, other) = match event {
        Event::WriterDetected { writer } => (writer.guid, writer.guid),
        Event::ReaderDetected { reader } => (reader.guid, reader.guid),
        Event::RemoteReaderMatched {
            local_writer,
            remote_reader,
        }
        | Event::RemoteReaderQosIncompatible {
            local_writer,
            remote_reader,
            ..
        } => (*local_writer, *remote_reader),
        Event::RemoteWriterMatched {
            local_reader,
            remote_writer,
        }
        | Event::RemoteWriterQosIncompatible {
            local_reader,
            remote_writer,
            ..
        } => (*local_reader, *remote_writer),
        _ => return None,
    };
    (ours == new).then_some(other)
}

/// Whether it tells that an endpoint is gone.
fn is_lost(endpoint: GUID, event: &DomainParticipantStatusEvent) -> bool {
    use DomainParticipantStatusEvent as Event;
    match event {
        Event::ReaderLost { guid, .. } | Event::WriterLost { guid, .. } => *guid == endpoint,
        Event::ParticipantLost { id, .. } => *id == endpoint.prefix,
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
