//! What an agent has in DDS: topics, readers and writers, in a participant (`participant.rs`). The two are all that speaks to `rustdds`.
//!
//! What was learnt about the library, and where it is dealt with:
//! - A reader's cache holds 64 samples by default, throws unread ones away and has acknowledged them: `READER_SAMPLES`, and links
//!   that count their samples (`link.rs`).
//! - A reader that stops acknowledging blocks a reliable writer: one inbox topic for each *life* of each agent, so that the
//!   dead stall nobody but themselves, and a time limit around each write.
//! - The ordinary `DataReader` takes time in proportion to what waits: the simple one, except for presence, which is rare.
//! - A writer with a deadline of 5 ms repairs losses quickly.
//! - A reliable writer with a reader keeps every sample until a timer of 6 s: neither history nor resource limits make it drop one
//!   before. So what is written is paced (`sending.rs`).
//! - Endpoints made at once can make the library stand still for ever: one at a time (`participant.rs`).
//! - The library never removes what it knows about a topic: a few hundred bytes for each life of a peer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _};
use ifmsg::AgentId;
use rustdds::{QosPolicies, QosPolicyBuilder, RTPSEntity as _, TopicKind, no_key, policy, with_key};
use tokio::time::timeout;

use crate::{
    config::{DdsConfig, Durability, History, Profile, Reliability},
    error::StartError,
    participant::Participant,
    record::lasting_samples,
    statement::Guid,
    wire::{
        FRAME_TYPE, Frame, FrameCdr, Heard, PRESENCE_TOPIC, PRESENCE_TYPE, Presence, PresenceCdr, bus_topic,
        inbox_topic,
    },
};

/// Samples that a reader keeps, *taken ones as well*: the library throws none away before there are more.
const READER_SAMPLES: i32 = 1_024;
/// Samples that a reliable inbox writer keeps until they are acknowledged.
const WRITER_SAMPLES: i32 = 256;
/// The same for presence, where one reader that is dead must not matter: 50 s of lease are fewer.
const PRESENCE_SAMPLES: i32 = 8_192;

/// A participant and what it always has. Its drop returns at once; the library's threads end in the background.
pub(crate) struct Engine {
    config: DdsConfig,
    presence: with_key::DataWriter<Presence, PresenceCdr>,
    broadcast: FrameWriter,
    record: FrameWriter,
    participant: Arc<Participant>,
}

/// What comes in.
pub(crate) struct Inputs {
    pub(crate) presence: PresenceStream,
    pub(crate) reliable: FrameReader,
    pub(crate) best_effort: FrameReader,
    pub(crate) broadcast: FrameReader,
}

impl Engine {
    /// Makes a participant, which takes up to a second. Cancel safe: what nobody waits for any more ends.
    pub(crate) async fn open(
        config: &DdsConfig,
        agent: &AgentId,
        life: u64,
    ) -> Result<(Self, Inputs), StartError> {
        let participant = Participant::join(config).await?;
        make(participant, config, agent, life)
            .await
            .map_err(|error| StartError::participant(config.domain, &error))
    }

    /// Writers into the inbox of one life of a peer. The engine must not be closed before this ends or is dropped.
    pub(crate) fn writers(
        &self,
        peer: &AgentId,
        life: u64,
    ) -> impl Future<Output = Result<Writers, Failure>> + Send + 'static {
        let (participant, config, peer) = (Arc::clone(&self.participant), self.config.clone(), peer.clone());
        async move {
            let writer = async |lane: &str, profile: &str| {
                let qos = writer_qos(config.profile(profile)?, WRITER_SAMPLES);
                frame_writer(&participant, inbox_topic(&peer, life, lane), qos).await
            };
            Ok(Writers {
                reliable: writer("reliable", &config.topics.reliable).await?,
                best_effort: writer("best_effort", &config.topics.best_effort).await?,
            })
        }
    }

    /// Says that this agent is there. Never waits; what does not fit is said again later.
    pub(crate) fn announce(&self, presence: &Presence) {
        let _ = self.presence.async_write(presence.clone(), None).now_or_never();
    }

    /// Takes the announcement back.
    pub(crate) fn withdraw(&self, presence: &Presence) {
        let _ = self.presence.dispose(&presence.agent, None);
    }

    /// A best-effort sample for everybody, if the library has room. Never waits.
    pub(crate) fn broadcast(&self, frame: Frame) -> bool {
        self.broadcast.try_write(frame)
    }

    /// A sample of the record of reliable broadcasts, if the library has room. Never waits.
    pub(crate) fn record(&self, frame: Frame) -> bool {
        self.record.try_write(frame)
    }

    /// From which endpoint broadcasts come.
    pub(crate) fn broadcast_guid(&self) -> Guid {
        self.broadcast.guid()
    }

    /// How many participants were found since the last call.
    pub(crate) fn newly_found(&self) -> u64 {
        self.participant.newly_found()
    }

    /// The participant's number on this machine.
    pub(crate) fn participant_id(&self) -> u16 {
        self.participant.number()
    }

    /// Ends everything, and waits until the library's threads have ended.
    pub(crate) async fn close(self) {
        let Self {
            presence,
            broadcast,
            record,
            participant,
            ..
        } = self;
        // Before the participant, or the library calls it an error.
        drop((presence, broadcast, record));
        if let Some(participant) = Arc::into_inner(participant) {
            participant.close().await;
        }
    }
}

/// What the library said, or the configuration.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn make(
    participant: Participant,
    config: &DdsConfig,
    agent: &AgentId,
    life: u64,
) -> Result<(Engine, Inputs), Failure> {
    let topics = &config.topics;

    let inbox = async |lane: &str, profile: &str| {
        let qos = reader_qos(config.profile(profile)?);
        frame_reader(&participant, inbox_topic(agent, life, lane), qos).await
    };
    let reliable = inbox("reliable", &topics.reliable).await?;
    let best_effort = inbox("best_effort", &topics.best_effort).await?;

    let lasting = i32::try_from(lasting_samples(config))?;
    let bus = async |profile: &str| {
        let qos = writer_qos(config.profile(profile)?, lasting);
        frame_writer(&participant, bus_topic(profile), qos).await
    };
    let broadcast_writer = bus(&topics.broadcast).await?;
    let record = bus(&topics.record).await?;
    let qos = reader_qos(config.profile(&topics.broadcast)?);
    let broadcast = frame_reader(&participant, bus_topic(&topics.broadcast), qos).await?;

    // Last: whoever hears of us finds everything else in place.
    let mut profile = *config.profile(&topics.presence)?;
    profile.history = History::KeepLast(1);
    let topic = participant.topic(PRESENCE_TOPIC.to_owned(), PRESENCE_TYPE, TopicKind::WithKey)?;
    let qos = reader_qos(&profile);
    let heard = participant
        .reader(&topic, |subscriber, topic| {
            subscriber.create_datareader::<Heard, PresenceCdr>(topic, Some(qos))
        })
        .await?;
    let qos = writer_qos(&profile, PRESENCE_SAMPLES);
    let presence = participant
        .writer(&topic, |publisher, topic| {
            publisher.create_datawriter(topic, Some(qos))
        })
        .await?;
    let engine = Engine {
        config: config.clone(),
        presence,
        broadcast: broadcast_writer,
        record,
        participant: Arc::new(participant),
    };
    let inputs = Inputs {
        presence: PresenceStream(Box::pin(heard.async_sample_stream())),
        reliable,
        best_effort,
        broadcast,
    };
    Ok((engine, inputs))
}

async fn frame_writer(
    participant: &Participant,
    topic: String,
    qos: QosPolicies,
) -> Result<FrameWriter, Failure> {
    let topic = participant.topic(topic, FRAME_TYPE, TopicKind::NoKey)?;
    let writer = participant
        .writer(&topic, |publisher, topic| {
            publisher.create_datawriter_no_key(topic, Some(qos))
        })
        .await?;
    Ok(FrameWriter(writer))
}

async fn frame_reader(
    participant: &Participant,
    topic: String,
    qos: QosPolicies,
) -> Result<FrameReader, Failure> {
    let topic = participant.topic(topic, FRAME_TYPE, TopicKind::NoKey)?;
    let reader = participant
        .reader(&topic, |subscriber, topic| {
            subscriber.create_simple_datareader_no_key(topic, Some(qos))
        })
        .await?;
    Ok(FrameReader::new(reader))
}

fn writer_qos(profile: &Profile, samples: i32) -> QosPolicies {
    let mut qos = qos(profile, samples);
    if let Some(deadline) = profile.deadline {
        qos = qos.deadline(policy::Deadline(rustdds::Duration::from_std(deadline)));
    }
    if let Some(lifespan) = profile.lifespan {
        let duration = rustdds::Duration::from_std(lifespan);
        qos = qos.lifespan(policy::Lifespan { duration });
    }
    qos.build()
}

fn reader_qos(profile: &Profile) -> QosPolicies {
    // What waits is bounded by the number of samples alone, whatever the writers keep.
    qos(profile, READER_SAMPLES)
        .history(policy::History::KeepAll)
        .build()
}

fn qos(profile: &Profile, samples: i32) -> QosPolicyBuilder {
    QosPolicyBuilder::new()
        .reliability(match profile.reliability {
            Reliability::Reliable => policy::Reliability::Reliable {
                max_blocking_time: rustdds::Duration::from_millis(100),
            },
            Reliability::BestEffort => policy::Reliability::BestEffort,
        })
        .durability(match profile.durability {
            Durability::Volatile => policy::Durability::Volatile,
            Durability::TransientLocal => policy::Durability::TransientLocal,
        })
        .history(match profile.history {
            History::KeepAll => policy::History::KeepAll,
            History::KeepLast(depth) => policy::History::KeepLast {
                depth: i32::try_from(depth).unwrap_or(i32::MAX),
            },
        })
        .resource_limits(policy::ResourceLimits {
            max_samples: samples,
            max_instances: samples,
            max_samples_per_instance: samples,
        })
}

/// The way into one inbox.
pub(crate) struct Writers {
    pub(crate) reliable: FrameWriter,
    pub(crate) best_effort: FrameWriter,
}

/// Writes frames to one topic.
pub(crate) struct FrameWriter(no_key::DataWriter<Frame, FrameCdr>);

impl FrameWriter {
    pub(crate) fn guid(&self) -> Guid {
        self.0.guid().to_bytes()
    }

    /// Hands a sample to the library if it has room; otherwise it is gone.
    pub(crate) fn try_write(&self, frame: Frame) -> bool {
        let written = self.0.async_write(frame, None).now_or_never();
        matches!(written, Some(Ok(())))
    }

    /// Waits while the library has no room, at most this long. Whether the sample was taken. Cancel safe.
    pub(crate) async fn write(&self, frame: Frame, most: Duration) -> bool {
        let options = rustdds::WriteOptionsBuilder::new()
            .best_effort_may_block(true)
            .build();
        // The library's own limit holds only for the first try.
        let written = timeout(most, self.0.async_write_with_options(frame, options)).await;
        matches!(written, Ok(Ok(_)))
    }

    /// Waits until readers have acknowledged what was written. That says that they cached it, no more.
    pub(crate) async fn acknowledged(&self, most: Duration) {
        let _ = timeout(most, self.0.async_wait_for_acknowledgments()).await;
    }
}

/// Reads frames from one topic. For one task.
pub(crate) struct FrameReader {
    reader: no_key::SimpleDataReader<Frame, FrameCdr>,
    /// There was nothing more when it was last asked, and its waker is yet to be set.
    drained: AtomicBool,
}

impl FrameReader {
    fn new(reader: no_key::SimpleDataReader<Frame, FrameCdr>) -> Self {
        Self {
            reader,
            drained: AtomicBool::new(false),
        }
    }

    /// The next sample, and who wrote it; `None` for one that could not be read.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<(Guid, Frame)>> {
        // The library wakes under the lock that setting a waker takes, and has not left it yet: whoever is woken looks first.
        if !self.drained.swap(false, Ordering::Relaxed)
            && let Some(taken) = self.take()
        {
            return Poll::Ready(taken);
        }
        // Before looking again, so that what comes in between is not missed.
        self.reader.set_waker(Some(context.waker().clone()));
        let taken = self.take();
        self.drained.store(false, Ordering::Relaxed);
        taken.map_or(Poll::Pending, Poll::Ready)
    }

    /// The next sample that is there already.
    pub(crate) fn take(&self) -> Option<Option<(Guid, Frame)>> {
        match self.reader.try_take_one() {
            Ok(None) => {
                self.drained.store(true, Ordering::Relaxed);
                None
            }
            Ok(Some(change)) => Some(Some((change.writer_guid().to_bytes(), change.into_value()))),
            Err(error) => {
                tracing::debug!(%error, "a sample that is no frame");
                Some(None)
            }
        }
    }
}

type Samples = dyn Stream<Item = rustdds::dds::result::ReadResult<with_key::DataSample<Heard>>> + Send;

/// Reads what agents say of themselves.
pub(crate) struct PresenceStream(Pin<Box<Samples>>);

impl PresenceStream {
    /// The next one, and who wrote it; `None` for one that could not be read.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(Guid, Presence)>> {
        loop {
            match ready!(self.0.poll_next_unpin(context)) {
                Some(Ok(sample)) => {
                    let writer = sample.sample_info().writer_guid().to_bytes();
                    if let Some(Heard(presence)) = sample.into_value().value() {
                        return Poll::Ready(Some((writer, presence)));
                    }
                    // Taken back: heartbeats decide.
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "a sample that is no presence");
                    return Poll::Ready(None);
                }
                None => return Poll::Pending,
            }
        }
    }
}

/// A frame's payload is shared, its names are too: cloning it for a second try is cheap.
pub(crate) fn frame(
    source: &std::sync::Arc<str>,
    destination: &std::sync::Arc<str>,
    payload: Bytes,
) -> Frame {
    Frame {
        source: source.clone(),
        destination: destination.clone(),
        kind: crate::wire::Kind::Data,
        link: 0,
        number: 0,
        payload,
    }
}
