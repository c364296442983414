use std::{
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    Cut, Entered, Error, NatKind,
    delay::{self, Delay, InCable},
    faults::Faults,
    isolate::LOOPBACK,
    namespace::{Namespace, feed},
};

/// Hosts and what joins them, apart from the machine's own network and from every other `Network`.
#[derive(Debug)]
pub struct Network {
    switch: Arc<Switch>,
}

/// A wire that hosts are joined to.
#[derive(Debug)]
pub struct Lan {
    switch: Arc<Switch>,
    bridge: String,
}

/// A machine in a [`Network`]: loopback, and an interface (`eth0`, `eth1`, ...) for each [`Lan`] that it has joined.
#[derive(Debug)]
pub struct Host {
    name: String,
    table: String,
    namespace: Namespace,
    switch: Arc<Switch>,
    cabling: Mutex<Cabling>,
}

#[derive(Debug, Default)]
struct Cabling {
    /// Ports at the switch, one for each interface.
    ports: Vec<String>,
    /// Which bridge each is for.
    bridges: Vec<String>,
    faults: Faults,
    /// In the cables, one each.
    boxes: Vec<InCable>,
}

/// Where every cable ends: bridges and the hosts' ports, in a namespace of their own.
#[derive(Debug)]
struct Switch {
    namespace: Namespace,
    names: AtomicUsize,
}

impl Network {
    /// An empty network.
    ///
    /// # Errors
    /// If the caller is not root, or a program is missing.
    pub fn new() -> Result<Self, Error> {
        let namespace = Namespace::new()?;
        // Asked for before it is needed: a test fails here and not halfway.
        namespace.nft("")?;
        // Frames on the bridges are nobody else's business. Where the kernel cannot, it does not either.
        let _ = namespace.sysctl("bridge/bridge-nf-call-iptables", "0");
        let names = AtomicUsize::new(0);
        Ok(Self {
            switch: Arc::new(Switch { namespace, names }),
        })
    }

    /// A new wire.
    pub fn lan(&self) -> Result<Lan, Error> {
        let bridge = self.switch.name("lan");
        self.switch.namespace.ip(&format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
             link set {bridge} addrgenmode none up"
        ))?;
        Ok(Lan {
            switch: self.switch.clone(),
            bridge,
        })
    }

    /// A new host. The name is for its error messages.
    pub fn host(&self, name: &str) -> Result<Host, Error> {
        let namespace = Namespace::new()?;
        namespace.ip(LOOPBACK)?;
        Ok(Host {
            name: name.to_owned(),
            table: self.switch.name("host"),
            namespace,
            switch: self.switch.clone(),
            cabling: Mutex::default(),
        })
    }

    /// A router that translates: from `inside` (its address there is the gateway of those behind it) to its one address `outside`.
    /// IPv4 alone.
    pub fn nat(
        &self,
        name: &str,
        kind: NatKind,
        outside: (&Lan, &str),
        inside: (&Lan, &str),
    ) -> Result<Host, Error> {
        let router = self.host(name)?;
        let wan = router.join(outside.0, outside.1)?;
        router.join(inside.0, inside.1)?;
        router.namespace.nft(&kind.script(&wan))?;
        router.namespace.sysctl("ipv4/ip_forward", "1")?;
        Ok(router)
    }
}

impl Host {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Plugs a new interface into `lan`, with this address (`10.0.0.2/24`, `fd00::2/64`), and returns the interface's name. Hosts
    /// of one [`Network`] can be joined only to its own wires.
    pub fn join(&self, lan: &Lan, address: &str) -> Result<String, Error> {
        let mut cabling = self.cabling();
        let (port, interface) = (self.switch.name("port"), format!("eth{}", cabling.ports.len()));
        let (bridge, here) = (&lan.bridge, self.namespace.path());
        if !Arc::ptr_eq(&self.switch, &lan.switch) {
            return Err(Error::refused(
                format!("{} cannot join", self.name),
                "the wire belongs to another network",
            ));
        }
        self.switch.namespace.ip(&format!(
            "link add {port} type veth peer name {interface} netns {here}
             link set {port} addrgenmode none master {bridge} up"
        ))?;
        let nodad = if address.contains(':') { "nodad" } else { "" };
        // Without addresses that the kernel makes up, a host has those that the test gave it and no others.
        self.namespace.ip(&format!(
            "link set {interface} addrgenmode none up
             address add {address} dev {interface} {nodad}"
        ))?;
        cabling.ports.push(port);
        cabling.bridges.push(bridge.clone());
        self.apply(&cabling)?;
        Ok(interface)
    }

    /// Adds a route: to `default` or `10.1.0.0/16`, by the neighbour `via`.
    pub fn route(&self, to: &str, via: &str) -> Result<(), Error> {
        self.namespace.ip(&format!("route replace {to} via {via}"))
    }

    /// Gives an interface another address, as when a laptop moves: all that it had are gone, with the routes by them.
    pub fn readdress(&self, interface: &str, address: &str) -> Result<(), Error> {
        self.namespace.ip(&format!(
            "address flush dev {interface}
             address add {address} dev {interface}"
        ))
    }

    /// A program to run on this host: add arguments, then spawn it. The process that is started becomes the program itself, so its
    /// process id is the program's. Drop the [`Network`] after it has been spawned, not before.
    pub fn command(&self, program: &str) -> Command {
        self.namespace.command(program)
    }

    /// Puts the calling thread onto this host, with all that it starts from now on, until what this returns is dropped.
    pub fn enter(&self) -> Result<Entered, Error> {
        self.namespace.enter()
    }

    /// From now on each packet that this host sends or receives is lost with this probability, in per cent. 0 ends it.
    pub fn loss(&self, percent: f64) -> Result<(), Error> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 0 to 100,000"
        )]
        let loss = (percent.clamp(0.0, 100.0) * 1_000.0).round() as u32;
        let mut cabling = self.cabling();
        cabling.faults.loss = loss;
        self.apply(&cabling)
    }

    /// From now on this host's cables carry no more than this many kilobits a second towards it. What comes faster waits in
    /// a queue, for up to this long, and what would wait longer is lost: so each packet takes another time.
    pub fn narrow(&self, kilobits: u32, queue: Duration) -> Result<(), Error> {
        for port in &self.cabling().ports {
            let (rate, latency) = (format!("{kilobits}kbit"), format!("{}ms", queue.as_millis()));
            let mut tc = self.switch.namespace.command("tc");
            tc.args(["qdisc", "replace", "dev", port, "root", "tbf", "burst", "5kb"]);
            tc.args(["rate", &rate, "latency", &latency]);
            feed(tc, "tc", "")?;
        }
        Ok(())
    }

    /// From now on each packet that this host sends or receives takes at least `least` and at most `spread` longer, each another
    /// time: so packets overtake each other. The same seed draws the same times. It is for the interfaces that the host has, and
    /// holds until the host is dropped.
    pub fn delay(&self, least: Duration, spread: Duration, seed: u64) -> Result<(), Error> {
        let mut cabling = self.cabling();
        if !cabling.boxes.is_empty() {
            return Err(Error::refused(
                format!("{} cannot be delayed", self.name),
                "there is a delay in its cables already",
            ));
        }
        for index in 0..cabling.ports.len() {
            let (port, bridge) = (cabling.ports[index].clone(), cabling.bridges[index].clone());
            let namespace = &self.switch.namespace;
            let seed = seed.wrapping_add(index as u64);
            let ([inner, outer], in_cable) = thread::scope(|scope| {
                let made = scope.spawn(|| {
                    let _here = namespace.enter()?;
                    delay::start(Delay { least, spread }, seed)
                });
                let panicked = |_| Error::refused("a delay", "the thread that makes it panicked");
                made.join().map_err(panicked)?
            })?;
            // The host's own end of the cable moves to a bridge with nothing on it but the box.
            let own = self.switch.name("box");
            namespace.ip(&format!(
                "link add {own} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
                 link set {own} addrgenmode none up
                 link set {inner} addrgenmode none master {own} up
                 link set {outer} addrgenmode none master {bridge} up
                 link set {port} master {own}"
            ))?;
            cabling.boxes.push(in_cable);
        }
        Ok(())
    }

    /// From now on this does not pass either. Connections are not told.
    pub fn cut(&self, cut: Cut) -> Result<(), Error> {
        let mut cabling = self.cabling();
        if !cabling.faults.cuts.contains(&cut) {
            cabling.faults.cuts.push(cut);
        }
        self.apply(&cabling)
    }

    /// Everything that was cut passes again. Loss stays.
    pub fn mend(&self) -> Result<(), Error> {
        let mut cabling = self.cabling();
        cabling.faults.cuts.clear();
        self.apply(&cabling)
    }

    fn cabling(&self) -> MutexGuard<'_, Cabling> {
        self.cabling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, Cabling { ports, faults, .. }: &Cabling) -> Result<(), Error> {
        self.switch.namespace.nft(&faults.script(&self.table, ports))
    }
}

impl Switch {
    fn name(&self, kind: &str) -> String {
        format!("{kind}{}", self.names.fetch_add(1, Ordering::Relaxed))
    }
}
