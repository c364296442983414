"""An agent over Eclipse Cyclone DDS, written from PROTOCOL.md ("DDS") and crates/transport-dds/idl/ifmesh.idl alone.

It has a participant of its own, reads and writes the topics of the IDL, proves its key and checks those of others with its own code
(sessions and signatures: session.py and check.py). Commands come as lines of JSON on stdin, events go out as such on
stdout, as in aiortc_peer.py.

Falsified by: types or QoS that do not match, a statement that does not verify, samples without the order and the credit that
PROTOCOL.md promises.
"""

import hashlib
import json
import os
import queue
import re
import secrets
import struct
import sys
import threading
import time
from pathlib import Path

# One machine, loopback alone.
os.environ["CYCLONEDDS_URI"] = (
    "<CycloneDDS><Domain><General><Interfaces><NetworkInterface address='127.0.0.1'/></Interfaces>"
    "<AllowMulticast>false</AllowMulticast></General>"
    "<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>20</MaxAutoParticipantIndex>"
    "<Peers><Peer Address='127.0.0.1'/></Peers></Discovery></Domain></CycloneDDS>"
)

from cyclonedds.core import Policy, Qos  # noqa: E402
from cyclonedds.domain import DomainParticipant  # noqa: E402
from cyclonedds.idl import make_idl_struct, types  # noqa: E402
from cyclonedds.pub import DataWriter  # noqa: E402
from cyclonedds.sub import DataReader  # noqa: E402
from cyclonedds.topic import Topic  # noqa: E402
from cyclonedds.util import duration  # noqa: E402

from session import Identity, Session, check  # noqa: E402

IDL = Path(__file__).parents[2] / "crates/transport-dds/idl/ifmesh.idl"
WINDOW, MAX_FRAME, MAX_SAMPLE, COST = 1 << 19, 1 << 24, 49_152, 512
SILENCE, HEARTBEAT = 3.0, 0.25


def tell(event):
    print(json.dumps(event), flush=True)


# ---- the types, out of the IDL file ---------------------------------------------------------------------------------


def read_idl(text):
    """The structs of a module: as much IDL as ours has. (The wheel's own `idlc` crashes on every input.)"""
    text = re.sub(r"//.*", "", text)
    module = re.search(r"module (\w+)", text)[1]
    basic = {"string": str, "octet": types.uint8, "unsigned long": types.uint32, "unsigned long long": types.uint64}
    structs = {}
    for name, body in re.findall(r"@final\s+struct (\w+) \{(.*?)\};", text, re.S):
        fields, notes = {}, {}
        for key, kind, field, length in re.findall(r"(@key )?([\w<> ]+?) (\w+)(?:\[(\d+)\])?;", body):
            kind = kind.strip()
            element = re.match(r"sequence<(.*)>", kind)
            fields[field] = types.sequence[basic[element[1]]] if element else basic[kind]
            if length:
                fields[field] = types.array[basic[kind], int(length)]
            if key:
                notes[field] = {"key": True}
        struct_type = make_idl_struct(name, f"{module}::{name}", fields, field_annotations=notes)
        struct_type.__idl_annotations__["extensibility"] = "final"
        structs[name] = struct_type
    return structs


TYPES = read_idl(IDL.read_text())
Presence, Frame = TYPES["Presence"], TYPES["Frame"]


def qos(reliable, durable=False, depth=None):
    return Qos(
        Policy.Reliability.Reliable(duration(seconds=1)) if reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if durable else Policy.Durability.Volatile,
        Policy.History.KeepLast(depth) if depth else Policy.History.KeepAll,
        Policy.DataRepresentation(use_cdrv0_representation=True),
    )


def inbox(agent, life, lane):
    plain = re.sub(r"[^A-Za-z0-9]", "_", agent[:40])
    digest = hashlib.sha256(agent.encode()).hexdigest()[:8]
    return f"ifmesh/inbox/{plain}_{digest}/{life:016x}/{lane}"


def u64(number):
    return struct.pack(">Q", number)


# ---- statements -----------------------------------------------------------------------------------------------------


def presence_parts(p):
    return [
        p.version.encode(),
        p.agent.encode(),
        bytes(p.public_key),
        u64(p.epoch),
        u64(p.life),
        p.participant.encode(),
        p.capabilities.encode(),
        u64(p.max_frame),
    ]


def hello_parts(h):
    names = [h["version"].encode(), h["from"].encode(), h["to"].encode()]
    ids = [bytes.fromhex(h[name]) for name in ("life", "peer_life", "link", "peer_link")]
    guids = [bytes.fromhex(h[name]) for name in ("reliable", "best_effort", "bus")]
    return names + ids + [u64(h["window"]), u64(h["max_frame"])] + guids


def alive_parts(a):
    return [
        a["type"].encode(),
        a["from"].encode(),
        a["to"].encode(),
        bytes.fromhex(a["link"]),
        bytes.fromhex(a["peer_link"]),
        u64(a["count"]),
        u64(a["taken"]),
        u64(a["sent"]),
    ]


def verified(key, prefix, parts, signature):
    return check.verifies(key, check.statement(prefix, *parts), signature)


# ---- chunks (5.1) ---------------------------------------------------------------------------------------------------


def split(number, frame):
    if len(frame) <= MAX_SAMPLE and not frame.startswith(b"IFC1"):
        return [frame]
    count = -(-len(frame) // (MAX_SAMPLE - 56))
    digest = hashlib.sha256(frame).digest()
    at = [index * len(frame) // count for index in range(count + 1)]
    return [
        struct.pack(">4sQIII", b"IFC1", number, index, count, len(frame)) + digest + frame[at[index] : at[index + 1]]
        for index in range(count)
    ]


class Assembler:
    """In order, one frame at a time: the reliable lane promises that."""

    def __init__(self):
        self.parts = []

    def accept(self, sample):
        if not sample.startswith(b"IFC1"):
            return sample
        _, _, index, count, total = struct.unpack(">4sQIII", sample[:24])
        assert index == len(self.parts), (index, len(self.parts))
        self.parts.append(sample[56:])
        if index + 1 < count:
            return None
        frame, self.parts = b"".join(self.parts), []
        assert len(frame) == total and hashlib.sha256(frame).digest() == sample[24:56]
        return frame


# ---- links ----------------------------------------------------------------------------------------------------------


class Link:
    """Towards one life of a peer: greeting first, then up."""

    def __init__(self, agent, presence):
        self.agent, self.peer, self.life = agent, presence.agent, presence.life
        self.key = agent.session.keys[self.peer]
        self.local = agent.next_link()
        topic = {lane: agent.topic(inbox(self.peer, self.life, lane), lane == "reliable") for lane in ("reliable", "best_effort")}
        self.reliable = DataWriter(agent.participant, topic["reliable"], qos=qos(True))
        self.best_effort = DataWriter(agent.participant, topic["best_effort"], qos=qos(False, depth=256))
        self.hello, self.up, self.next_hello, self.pause = None, False, 0.0, 0.02

    # -- out

    def write(self, writer, kind, link, number, payload):
        writer.write(Frame(self.agent.name, self.peer, kind, link, number, list(payload)))

    def say_hello(self):
        hello = {
            "type": "hello",
            "version": "1",
            "from": self.agent.name,
            "to": self.peer,
            "life": f"{self.agent.life:016x}",
            "peer_life": f"{self.life:016x}",
            "link": f"{self.local:016x}",
            "peer_link": self.hello["link"] if self.hello else "0" * 16,
            "window": WINDOW,
            "max_frame": MAX_FRAME,
            "reliable": self.reliable.guid.hex,
            "best_effort": self.best_effort.guid.hex,
            "bus": self.agent.bus.guid.hex,
        }
        hello["signature"] = self.agent.identity.statement("IFMESH-DDS-HELLO", *hello_parts(hello))
        self.write(self.reliable, 1, 0, 0, json.dumps(hello).encode())

    def say_alive(self):
        self.count += 1
        self.told, self.told_at = self.taken, time.monotonic()
        alive = {
            "type": "alive",
            "from": self.agent.name,
            "to": self.peer,
            "link": f"{self.local:016x}",
            "peer_link": self.hello["link"],
            "count": self.count,
            "taken": self.expected,
            "sent": self.number,
        }
        alive["signature"] = self.agent.identity.statement("IFMESH-DDS-ALIVE", *alive_parts(alive))
        self.write(self.best_effort, 1, int(self.hello["link"], 16), 0, json.dumps(alive).encode())

    def send(self, frame):
        self.frames += 1
        self.waiting += split(self.frames, frame)
        self.pump()

    def pump(self):
        while self.waiting:
            cost = len(self.waiting[0]) + COST
            while self.under_way and self.under_way[0][0] <= self.peer_taken:
                self.under_way.pop(0)
            if self.under_way and sum(cost for _, cost in self.under_way) + cost > self.hello["window"]:
                return
            self.number += 1
            self.under_way.append((self.number, cost))
            self.write(self.reliable, 0, int(self.hello["link"], 16), self.number, self.waiting.pop(0))

    def tick(self, now):
        if not self.up:
            if now >= self.next_hello:
                self.next_hello, self.pause = now + self.pause, min(2 * self.pause, 1.0)
                self.say_hello()
            return
        if now - self.heard > SILENCE:
            return self.end("timeout")
        if now - self.told_at > HEARTBEAT or self.taken - self.told >= WINDOW // 4:
            self.say_alive()

    # -- in

    def take_hello(self, hello, writer):
        expected = {"to": self.agent.name, "life": f"{self.life:016x}", "peer_life": f"{self.agent.life:016x}", "reliable": writer}
        if any(hello[name] != value for name, value in expected.items()):
            return
        if not verified(self.key, "IFMESH-DDS-HELLO", hello_parts(hello), bytes.fromhex(hello["signature"])):
            return tell({"event": "rejected", "reason": "hello", "peer": self.peer})
        mine = f"{self.local:016x}"
        if self.up and hello["link"] != self.hello["link"]:
            return self.end("begun anew")
        news = self.hello is None or self.hello["link"] != hello["link"]
        answered = hello["peer_link"] == mine
        if not self.up:
            self.hello = hello
        if news or answered != self.up:
            self.say_hello()
        if answered and not self.up:
            self.up, self.heard, self.told_at = True, time.monotonic(), 0.0
            self.count = self.told = self.taken = self.peer_count = 0
            self.peer_taken = self.number = self.frames = self.expected = 0
            self.waiting, self.under_way, self.assembler = [], [], Assembler()
            tell({"event": "link", "peer": self.peer, "max_frame": hello["max_frame"]})
            self.agent.session.peer(self.peer).link_up(self.send)

    def take_alive(self, alive):
        ids = (alive["link"], alive["peer_link"], alive["to"])
        if not self.up or ids != (self.hello["link"], f"{self.local:016x}", self.agent.name):
            return
        if not verified(self.key, "IFMESH-DDS-ALIVE", alive_parts(alive), bytes.fromhex(alive["signature"])):
            return tell({"event": "rejected", "reason": "alive", "peer": self.peer})
        if alive["type"] == "goodbye":
            return self.end("goodbye")
        if alive["count"] > self.peer_count:
            self.peer_count, self.heard = alive["count"], time.monotonic()
            self.peer_taken = max(self.peer_taken, alive["taken"])
            self.pump()

    def take_data(self, frame):
        """A sample of the reliable lane."""
        if not self.up or frame.link != self.local:
            return
        self.expected += 1
        assert frame.number == self.expected, (frame.number, self.expected)
        payload = bytes(frame.payload)
        if frame.kind == 1:
            return self.take_alive(json.loads(payload))
        whole = self.assembler.accept(payload)
        self.taken += len(payload) + COST
        if whole is not None:
            self.agent.session.receive(self.peer, whole)

    def take_loose(self, frame):
        """A sample of the best-effort lane. What is larger than a sample goes by the other lane: our session sends no such."""
        if self.up and frame.link == self.local and frame.kind == 0:
            self.agent.session.receive(self.peer, bytes(frame.payload))

    def end(self, reason):
        tell({"event": "down", "peer": self.peer, "reason": reason})
        self.agent.session.peer(self.peer).link_down()
        self.agent.links.pop(self.peer)
        self.agent.over(self, reason)


class Agent:
    def __init__(self, setting):
        self.identity = Identity(setting["agent"], setting["key"])
        self.name, self.epoch = setting["agent"], setting["epoch"]
        self.session = Session(self.identity, setting["trusted"], self.epoch, tell)
        self.life, self.attempts, self.later = secrets.randbits(64), 0, []
        self.participant = DomainParticipant(0)
        self.topics, self.links, self.present, self.writers = {}, {}, {}, {}
        inboxes = [(lane, self.topic(inbox(self.name, self.life, lane), lane == "reliable")) for lane in ("reliable", "best_effort")]
        self.inboxes = {lane: DataReader(self.participant, topic, qos=qos(lane == "reliable")) for lane, topic in inboxes}
        self.bus = DataWriter(self.participant, self.topic("ifmesh/bus/status", False), qos=qos(False, depth=256))
        self.record = DataReader(self.participant, self.topic("ifmesh/bus/control", True), qos=qos(True, True))
        topic = Topic(self.participant, "ifmesh/presence", Presence, qos=qos(True, True, 1))
        self.heard = DataReader(self.participant, topic, qos=qos(True, True))
        said = DataWriter(self.participant, topic, qos=qos(True, True, 1))
        self.said = said
        presence = Presence(self.name, "1", list(self.identity.public), self.epoch, self.life, "cyclone", "reliable", MAX_FRAME, [0] * 64)
        signature = self.identity.statement("IFMESH-DDS-PRESENCE", *presence_parts(presence))
        presence.signature = list(bytes.fromhex(signature))
        said.write(presence)

    def topic(self, name, reliable):
        if name not in self.topics:
            self.topics[name] = Topic(self.participant, name, Frame)
        return self.topics[name]

    def next_link(self):
        self.attempts += 1
        return self.attempts << 32 | secrets.randbits(32)

    def writer_of(self, reader, sample):
        """The writer's sixteen bytes, as hexadecimal digits."""
        handle = sample.sample_info.publication_handle
        if handle not in self.writers:
            data = reader.get_matched_publication_data(handle)
            if data is None:
                return None
            self.writers[handle] = data.key.hex
        return self.writers[handle]

    def take_presence(self, presence):
        agent = presence.agent
        key = self.session.keys.get(agent)
        if agent == self.name or key is None:
            return
        if bytes(presence.public_key) != key or not verified(
            key, "IFMESH-DDS-PRESENCE", presence_parts(presence), bytes(presence.signature)
        ):
            return tell({"event": "rejected", "reason": "presence", "peer": agent})
        known = self.present.get(agent)
        if known is not None and presence.epoch <= known.epoch:
            return
        self.present[agent] = presence
        tell({"event": "presence", "peer": agent, "epoch": presence.epoch})
        if agent in self.links:
            self.links[agent].end("replaced")
        if agent not in self.links:
            self.links[agent] = Link(self, presence)

    def over(self, link, reason):
        """After the end of a link: greet again, unless that life said goodbye."""
        if reason != "goodbye" and self.present[link.peer].life == link.life:
            self.links[link.peer] = Link(self, self.present[link.peer])

    def take_frame(self, lane, reader, frame):
        writer = self.writer_of(reader, frame)
        statement = json.loads(bytes(frame.payload)) if frame.kind == 1 and frame.number == 0 else None
        if statement is not None:
            link = self.links.get(statement["from"])
            if link is None:
                return
            return link.take_hello(statement, writer) if statement["type"] == "hello" else link.take_alive(statement)
        for link in self.links.values():
            if link.hello and writer == link.hello[lane]:
                return link.take_data(frame) if lane == "reliable" else link.take_loose(frame)

    def take_record(self, frame):
        """A broadcast, perhaps of before our time: signed, so it is checked like everything else."""
        _, size, signature, messages = check.read(bytes(frame.payload))
        for body, message, root in messages:
            key = self.session.keys.get(message["source"])
            good = key is not None and check.verifies(key, check.signed_bytes(key, size, root), signature)
            tell({"event": "broadcast" if good else "rejected", "reason": "broadcast", "message": message})

    def obey(self, command):
        peer = self.session.peer(command["peer"])
        if peer.send_frame is None:  # for when there is a link again
            self.later.append(command)
        elif command["do"] == "send":
            flight = peer.send(command["messages"], command["form"])
            tell({"event": "sent", "ids": [message["id"] for message in flight.messages]})
        elif command["do"] == "forge":
            peer.forge(command["message"])
        elif command["do"] == "repair":
            peer.repair()

    def run(self, commands):
        tick_at = 0.0
        while True:
            busy = False
            for presence in self.heard.take(N=64):
                if isinstance(presence, Presence):
                    busy = True
                    self.take_presence(presence)
            for lane, reader in self.inboxes.items():
                for frame in reader.take(N=64):
                    if isinstance(frame, Frame):
                        busy = True
                        self.take_frame(lane, reader, frame)
            for frame in self.record.take(N=64):
                if isinstance(frame, Frame):
                    self.take_record(frame)
            now = time.monotonic()
            for link in list(self.links.values()):
                link.tick(now)
            if now >= tick_at:
                tick_at = now + 0.25
                for peer in self.session.peers.values():
                    peer.tick()
                later, self.later = self.later, []
                for command in later:
                    self.obey(command)
            try:
                line = commands.get(block=not busy, timeout=0.002)
            except queue.Empty:
                continue
            if line is None:
                return
            self.obey(json.loads(line))


def main():
    agent = Agent(json.loads(sys.argv[1]))
    tell({"event": "registered", "agent": agent.name})
    commands = queue.Queue(1_000)

    def read():
        for line in sys.stdin:
            commands.put(line)
        commands.put(None)

    threading.Thread(target=read, daemon=True).start()
    agent.run(commands)


main()
