//! Two real agents over DDS on two machines, with state on disk, while either is killed by `kill -9` and comes back, the wire between them
//! is cut for less and for more than a link's silence, and packets are lost.
//!
//! Falsified by a reliable message that is lost; by one that an application gets twice, but for what its killed agent had printed and
//! nobody was told of; by a pair that does not find each other again.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{collections::BTreeSet, fs, path::PathBuf, thread, time::Duration};

use ifmesh_testnet::{Cut, Host, Lan, Network};
use ifmesh_tests::{
    internet::now,
    program::{PATIENCE, Running, ifmesh, run},
    traffic::Application,
};
use tempfile::TempDir;

const NAMES: [&str; 2] = ["one", "other"];

#[derive(Debug, Clone, Copy)]
enum Blow {
    /// `kill -9` of this one, which comes back a second later.
    Kill(usize),
    /// Nothing passes for so long.
    Cut(Duration),
    /// The same, and meanwhile this one is killed and comes back.
    CutAndKill(usize),
}

use Blow::{Cut as Apart, CutAndKill, Kill};

/// Within the silence that a link stands, and beyond it.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(5);

#[test]
fn nothing_is_lost_or_doubled_whatever_happens() {
    // Most of the time goes by waiting for links to be given up.
    thread::scope(|scope| {
        for (loss, blows) in [
            (0.0, [Kill(0), Apart(LONG), Kill(1)]),
            (0.0, [Apart(SHORT), CutAndKill(1), Kill(1)]),
            (1.0, [Kill(1), Apart(LONG), CutAndKill(0)]),
            (20.0, [Apart(SHORT), Kill(0), Apart(LONG)]),
        ] {
            scope.spawn(move || play(loss, blows));
        }
    });
}

struct Story {
    hosts: [Host; 2],
    /// One folder, as if it were two disks.
    folder: TempDir,
    applications: [Application; 2],
    /// What the other one knew to be acknowledged, before each further life.
    told: [Vec<BTreeSet<String>>; 2],
    _lan: Lan,
    _network: Network,
}

fn play(loss: f64, blows: [Blow; 3]) {
    let mut story = Story::new();
    let started = now();
    story.flow();
    story.hosts[0].loss(loss).unwrap();
    let mut times = Vec::new();
    for blow in blows {
        story.talk(Duration::from_millis(500));
        story.suffer(blow);
        times.push(story.flow());
    }
    while !story.is_done() {
        story.listen();
        assert!(
            started.elapsed() < 3 * PATIENCE,
            "{blows:?}: {}",
            story.progress()
        );
    }
    let [one, other] = &story.applications;
    let repeated = (one.judge(other, &story.told[0]), other.judge(one, &story.told[1]));
    println!(
        "{loss} % lost, {blows:?}: {} messages; flowing after {times:.1?}; {repeated:?} printed and not recorded before a kill, and \
         handed over again",
        story.progress()
    );
}

impl Story {
    fn new() -> Self {
        let network = Network::new().unwrap();
        let lan = network.lan().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let swarm = swarm(&folder);
        run(&[
            "init",
            swarm.to_str().unwrap(),
            "--names",
            &NAMES.join(","),
            "--transport",
            "dds",
        ]);
        let hosts = [0, 1].map(|number| {
            let (name, address) = (NAMES[number], format!("10.9.0.{}", number + 1));
            let host = network.host(name).unwrap();
            host.join(&lan, &format!("{address}/24")).unwrap();
            let path = swarm.join(format!("{name}.toml"));
            let text = fs::read_to_string(&path).unwrap();
            let here = format!("\ninterfaces = [\"{address}\"]\n");
            let changed = text.replace("\ninterfaces = [\"127.0.0.1\"]\n", &here);
            assert_ne!(changed, text, "no interface to change");
            fs::write(path, changed).unwrap();
            host
        });
        let applications = [0, 1].map(|number| {
            let agent = agent(&hosts[number], &folder, NAMES[number]);
            Application::new(NAMES[number], NAMES[1 - number], agent)
        });
        Self {
            hosts,
            folder,
            applications,
            told: Default::default(),
            _lan: lan,
            _network: network,
        }
    }

    fn suffer(&mut self, blow: Blow) {
        match blow {
            Kill(victim) => self.kill(victim),
            Apart(time) => {
                self.hosts[0].cut(Cut::All).unwrap();
                self.talk(time);
                self.hosts[0].mend().unwrap();
            }
            CutAndKill(victim) => {
                self.hosts[0].cut(Cut::All).unwrap();
                self.talk(SHORT);
                self.kill(victim);
                self.talk(LONG);
                self.hosts[0].mend().unwrap();
            }
        }
    }

    fn kill(&mut self, victim: usize) {
        self.applications[victim].kill();
        self.talk(Duration::from_secs(1));
        self.told[victim].push(self.applications[1 - victim].acknowledged());
        let agent = agent(&self.hosts[victim], &self.folder, NAMES[victim]);
        self.applications[victim].restart(agent);
    }

    /// Both send and receive for this long.
    fn talk(&mut self, time: Duration) {
        let started = now();
        while started.elapsed() < time {
            self.step();
        }
    }

    /// Waits until messages that are sent from now on pass both ways, and says how long that took.
    fn flow(&mut self) -> Duration {
        let started = now();
        let [here, there] = [0, 1].map(|number| self.applications[number].send(100));
        while !self.applications[0].is_acknowledged(here) || !self.applications[1].is_acknowledged(there) {
            self.step();
            assert!(started.elapsed() < PATIENCE, "no way back: {}", self.progress());
        }
        started.elapsed()
    }

    fn step(&mut self) {
        for application in &mut self.applications {
            let (sent, acknowledged) = application.progress();
            // Fewer than a window: the agent must not stop reading.
            if sent - acknowledged < 300 {
                application.send(100);
            }
        }
        self.listen();
    }

    fn listen(&mut self) {
        for application in &mut self.applications {
            application.listen(Duration::from_millis(10));
        }
    }

    fn is_done(&self) -> bool {
        let [one, other] = &self.applications;
        one.is_done() && other.is_done() && one.has_all_of(other) && other.has_all_of(one)
    }

    fn progress(&self) -> String {
        format!("{:?}", self.applications.each_ref().map(Application::progress))
    }
}

fn swarm(folder: &TempDir) -> PathBuf {
    folder.path().join("swarm")
}

fn agent(host: &Host, folder: &TempDir, name: &str) -> Running {
    Running::agent(host.command(ifmesh().to_str().unwrap()), &swarm(folder), name)
}
