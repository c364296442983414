//! A box in a cable that keeps each packet for a while. This kernel need not have `netem`: the box is two TAP devices, and a
//! thread that carries frames from one to the other.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tappers::Tap;

use crate::Error;

/// Frames in a box, each way; beyond it they are lost, as in a router.
const MOST: usize = 10_000;
/// An Ethernet frame with a tag, and room to spare.
const FRAME: usize = 2_048;

/// How long packets take, at least, and how much longer at most: each another time, so they overtake each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delay {
    pub(crate) least: Duration,
    pub(crate) spread: Duration,
}

/// The thread between two devices. Dropping it ends it, and with it the devices.
#[derive(Debug)]
pub(crate) struct InCable {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Two devices of the calling thread's namespace, not yet plugged in: their names, and what carries between them.
pub(crate) fn start(delay: Delay, seed: u64) -> Result<([String; 2], InCable), Error> {
    let refused = |error: std::io::Error| Error::refused("a TAP device (/dev/net/tun)", error);
    let device = || -> Result<(String, Tap), std::io::Error> {
        let mut tap = Tap::new()?;
        tap.set_nonblocking(true)?;
        let name = tap.name()?.name().to_string_lossy().into_owned();
        Ok((name, tap))
    };
    let (one, tap_one) = device().map_err(refused)?;
    let (other, tap_other) = device().map_err(refused)?;
    let (stop, stopped) = UnixStream::pair().map_err(refused)?;
    let carrier = Carrier {
        taps: [tap_one, tap_other],
        stopped,
        delay,
        random: StdRng::seed_from_u64(seed),
        waiting: BinaryHeap::new(),
        taken: 0,
    };
    let running = InCable {
        stop: Some(stop),
        thread: Some(thread::spawn(move || carrier.run())),
    };
    Ok(([one, other], running))
}

impl Drop for InCable {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Carrier {
    taps: [Tap; 2],
    stopped: UnixStream,
    delay: Delay,
    random: StdRng,
    waiting: BinaryHeap<Reverse<Waiting>>,
    taken: u64,
}

/// When it is due, in what order it came, to which device it goes, and the frame.
type Waiting = (Instant, u64, usize, Vec<u8>);

impl Carrier {
    #[allow(
        clippy::disallowed_methods,
        reason = "packets of real programs take real time"
    )]
    fn run(mut self) {
        let mut buffer = vec![0; FRAME];
        loop {
            let now = Instant::now();
            self.hand_on(now);
            let [one, other] = &self.taps;
            let mut wanted = [
                PollFd::new(one.as_fd(), PollFlags::POLLIN),
                PollFd::new(other.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut wanted, self.patience(now)).is_err() {
                continue;
            }
            if wanted[2].any() == Some(true) {
                return;
            }
            self.take(&mut buffer, Instant::now());
        }
    }

    fn patience(&self, now: Instant) -> PollTimeout {
        let Some(Reverse((due, ..))) = self.waiting.peek() else {
            return PollTimeout::NONE;
        };
        // Rounded up: a frame that is due in half a millisecond must not be asked after without end.
        let left = due.saturating_duration_since(now) + Duration::from_micros(999);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn take(&mut self, buffer: &mut [u8], now: Instant) {
        for from in 0..2 {
            while let Ok(length) = self.taps[from].recv(buffer) {
                if self.waiting.len() >= 2 * MOST {
                    continue;
                }
                let spread = u64::try_from(self.delay.spread.as_micros()).unwrap_or(u64::MAX);
                let due =
                    now + self.delay.least + Duration::from_micros(self.random.random_range(0..=spread));
                self.taken += 1;
                let frame = buffer[..length].to_vec();
                self.waiting.push(Reverse((due, self.taken, 1 - from, frame)));
            }
        }
    }

    fn hand_on(&mut self, now: Instant) {
        while let Some(Reverse((due, ..))) = self.waiting.peek()
            && *due <= now
            && let Some(Reverse((_, _, to, frame))) = self.waiting.pop()
        {
            // A device whose queue is full loses the frame.
            let _ = self.taps[to].send(&frame);
        }
    }
}
