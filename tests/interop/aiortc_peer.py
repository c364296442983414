"""An agent over aiortc, written from PROTOCOL.md: signaling, signed descriptions, hello, session.

Started with one argument, a JSON object: {agent, key (PKCS#8 PEM), trusted: {agent: key}, signaling, epoch}. It connects
with every trusted agent that it meets, offering where PROTOCOL.md 10.3 says so. Commands come in as lines of JSON, what
happens goes out as lines of JSON; tests/src/interop has both.
"""

import asyncio
import hashlib
import json
import re
import secrets
import struct
import sys
import time

import aioice.ice
import websockets
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from session import Identity, Session, check, now_text, seconds

# It leaves loopback out of its candidates; a test must use nothing else.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]

MESSAGING, BEST_EFFORT = "if-agent-messaging", "if-agent-best-effort"


def tell(event):
    print(json.dumps(event), flush=True)


def u64(value):
    return struct.pack(">Q", value)


def described(sdp):
    """The fingerprint and the user fragment of an SDP, or an error if it has several."""
    prints = set(re.findall(r"^a=fingerprint:(\S+) (\S+)", sdp, re.M))
    fragments = set(re.findall(r"^a=ice-ufrag:(\S+)", sdp, re.M))
    [(algorithm, fingerprint)], [fragment] = prints, fragments
    if algorithm.lower() != "sha-256":
        raise ValueError("a fingerprint that is not SHA-256")
    return fingerprint.replace(":", "").lower(), fragment


def sha256_only(sdp):
    """aiortc names its certificate by three hashes; PROTOCOL.md 9.3 allows one."""
    return re.sub(r"^a=fingerprint:sha-(384|512) .*\r\n", "", sdp, flags=re.M)


class Refused(Exception):
    pass


class Connection:
    """One negotiation, and the link that it becomes."""

    def __init__(self, agent, peer, number):
        self.agent, self.peer, self.number = agent, peer, number
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.verified = False
        self.messaging = self.best_effort = None

    # -- descriptions (9.3)

    def sign(self, role, offer_hash=""):
        self.sdp = sha256_only(self.pc.localDescription.sdp)
        self.fingerprint, fragment = described(self.sdp)
        statement = {
            "from": self.agent.identity.agent,
            "to": self.peer,
            "session": self.number,
            "role": role,
            "epoch": self.agent.epoch,
            "fingerprint": self.fingerprint,
            "ice_ufrag": fragment,
            "sdp_hash": hashlib.sha256(self.sdp.encode()).hexdigest(),
            "expires": now_text(30),
        }
        if role == "answer":
            statement["offer"] = offer_hash
        self.statement_bytes = self.parts(statement)
        signature = self.agent.identity.private.sign(self.statement_bytes).hex()
        return statement | {"signature": signature}

    @staticmethod
    def parts(statement):
        names = ("from", "to", "session", "role", "epoch", "fingerprint", "ice_ufrag", "sdp_hash", "expires")
        parts = [u64(statement[n]) if n == "epoch" else statement[n].encode() for n in names]
        return check.statement("IFMESH-SDP", *parts, statement.get("offer", "").encode())

    def verify(self, role, statement, sdp, session=None, offer_hash=""):
        signed = self.parts(statement)
        key = self.agent.session.keys[self.peer]
        fingerprint, fragment = described(sdp)
        for name, holds in (
            ("signature", check.verifies(key, signed, bytes.fromhex(statement["signature"]))),
            ("from", statement["from"] == self.peer),
            ("to", statement["to"] == self.agent.identity.agent),
            ("role", statement["role"] == role),
            ("session", session in (None, statement["session"])),
            ("offer", statement.get("offer", "") == offer_hash),
            ("expires", time.time() < seconds(statement["expires"]) <= time.time() + 60),
            ("fingerprint", statement["fingerprint"] == fingerprint),
            ("ice_ufrag", statement["ice_ufrag"] == fragment),
            ("sdp_hash", statement["sdp_hash"] == hashlib.sha256(sdp.encode()).hexdigest()),
        ):
            if not holds:
                raise Refused(name)
        self.peer_epoch, self.peer_fingerprint = statement["epoch"], fingerprint
        return signed

    async def offer(self):
        self.adopt(self.pc.createDataChannel(MESSAGING))
        self.adopt(self.pc.createDataChannel(BEST_EFFORT, ordered=False, maxRetransmits=0))
        await self.pc.setLocalDescription(await self.pc.createOffer())
        statement = self.sign("offer")
        self.offer_hash = hashlib.sha256(self.statement_bytes).hexdigest()
        return {"offer": {"type": "offer", "sdp": self.sdp}, "statement": statement}

    async def accept(self, frame):
        """The answer to our offer."""
        sdp = frame["answer"]["sdp"]
        self.verify("answer", frame["statement"], sdp, self.number, self.offer_hash)
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def answer(self, frame):
        sdp, statement = frame["offer"]["sdp"], frame["statement"]
        self.number = statement["session"]
        offer_hash = hashlib.sha256(self.verify("offer", statement, sdp)).hexdigest()
        self.pc.on("datachannel", self.adopt)
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        signed = self.sign("answer", offer_hash)
        return {"answer": {"type": "answer", "sdp": self.sdp}, "statement": signed}

    async def candidate(self, candidate):
        line = candidate["candidate"]
        if not line:
            return
        parsed = candidate_from_sdp(line.removeprefix("candidate:"))
        parsed.sdpMid, parsed.sdpMLineIndex = candidate.get("sdpMid"), candidate.get("sdpMLineIndex")
        await self.pc.addIceCandidate(parsed)

    # -- channels and hello (10)

    def adopt(self, channel):
        if channel.label == MESSAGING:
            self.messaging = channel
            channel.on("message", self.on_message)
            if channel.readyState == "open":
                self.say_hello()
            else:
                channel.on("open", self.say_hello)
        elif channel.label == BEST_EFFORT:
            self.best_effort = channel
            channel.on("message", lambda frame: self.verified and self.receive(frame))
        else:
            channel.close()

    def hello_parts(self, hello):
        return [
            u64(hello[n]) if n in ("epoch", "peer_epoch", "max_frame") else hello[n].encode()
            for n in (
                "version", "from", "to", "session", "epoch", "peer_epoch", "fingerprint", "peer_fingerprint", "max_frame",
            )
        ] + [MESSAGING.encode()]

    def say_hello(self):
        hello = {
            "type": "hello",
            "version": "1",
            "from": self.agent.identity.agent,
            "to": self.peer,
            "session": self.number,
            "epoch": self.agent.epoch,
            "peer_epoch": self.peer_epoch,
            "fingerprint": self.fingerprint,
            "peer_fingerprint": self.peer_fingerprint,
            "max_frame": 65536,
        }
        hello["signature"] = self.agent.identity.statement("IFMESH-HELLO", *self.hello_parts(hello))
        self.messaging.send(json.dumps(hello).encode())

    def on_message(self, frame):
        if self.verified:
            self.receive(frame)
            return
        hello = json.loads(frame)
        signature = bytes.fromhex(hello["signature"])
        expected = {
            "type": "hello", "version": "1", "from": self.peer, "to": self.agent.identity.agent,
            "session": self.number, "epoch": self.peer_epoch, "peer_epoch": self.agent.epoch,
            "fingerprint": self.peer_fingerprint, "peer_fingerprint": self.fingerprint,
        }
        statement = check.statement("IFMESH-HELLO", *self.hello_parts(hello))
        key = self.agent.session.keys[self.peer]
        if not check.verifies(key, statement, signature) or expected.items() - hello.items():
            tell({"event": "rejected", "reason": "hello", "peer": self.peer})
            self.messaging.close()
            return
        self.verified = True
        tell({"event": "link", "peer": self.peer, "max_frame": hello["max_frame"]})
        self.agent.session.peer(self.peer).link_up(self.send)

    def send(self, frame):
        if self.messaging.readyState == "open":
            self.messaging.send(frame)

    async def begin(self, frames):
        """The first of two chunks of each of so many frames (10.4), and never the second. Returns how many went out."""
        whole = struct.pack(">II", 2, 2048) + hashlib.sha256(bytes(2048)).digest()
        for number in range(frames):
            while self.messaging.readyState == "open" and self.messaging.bufferedAmount > 1 << 16:
                await asyncio.sleep(0.001)
            if self.messaging.readyState != "open":
                return number
            self.messaging.send(b"IFC1" + struct.pack(">QI", number, 0) + whole + bytes(1024))
        return frames

    def receive(self, frame):
        data = frame.encode() if isinstance(frame, str) else frame
        self.agent.session.receive(self.peer, data)


class Agent:
    def __init__(self, setting):
        self.identity = Identity(setting["agent"], setting["key"])
        self.epoch, self.url = setting["epoch"], setting["signaling"]
        self.session = Session(self.identity, setting["trusted"], self.epoch, tell)
        self.connections = {}

    async def register(self):
        """Section 9.2."""
        self.socket = await websockets.connect(self.url)
        me = {"agent_id": self.identity.agent, "public_key": self.identity.public.hex(), "epoch": self.epoch}
        await self.send({"type": "register"} | me)
        challenge = json.loads(await self.socket.recv())
        assert challenge["type"] == "challenge", challenge
        signature = self.identity.statement(
            "IFMESH-REG",
            challenge["server_id"].encode(),
            challenge["nonce"].encode(),
            self.identity.agent.encode(),
            u64(self.epoch),
            self.identity.public.hex().encode(),
        )
        await self.send({"type": "proof", "signature": signature})
        registered = json.loads(await self.socket.recv())
        assert registered["type"] == "registered", registered
        tell({"event": "registered", "agent": self.identity.agent})
        for agent in registered["agents"]:
            await self.met(agent["agent_id"])

    async def send(self, frame):
        await self.socket.send(json.dumps(frame))

    async def relay(self, kind, peer, members):
        await self.send({"type": kind, "from": self.identity.agent, "to": peer} | members)

    async def met(self, peer):
        """10.3: the larger id offers. The other one of us waits, as long as it takes."""
        if peer in self.session.keys and self.identity.agent.encode() > peer.encode():
            connection = self.connections[peer] = Connection(self, peer, secrets.token_hex(16))
            await self.relay("offer", peer, await connection.offer())
            tell({"event": "offered", "peer": peer})

    async def serve(self):
        async for text in self.socket:
            frame = json.loads(text)
            kind, peer = frame["type"], frame.get("from")
            try:
                if kind == "agent-joined":
                    await self.met(frame["agent_id"])
                elif kind == "offer":
                    connection = Connection(self, peer, None)
                    answer = await connection.answer(frame)
                    self.connections[peer] = connection
                    await self.relay("answer", peer, answer)
                    tell({"event": "answered", "peer": peer})
                elif kind == "answer":
                    await self.connections[peer].accept(frame)
                elif kind == "ice-candidate" and peer in self.connections:
                    await self.connections[peer].candidate(frame["candidate"])
                elif kind == "error":
                    tell({"event": "error", "error": frame})
            except Refused as refused:
                tell({"event": "rejected", "reason": f"description: {refused}", "peer": peer})

    async def obey(self):
        reader = asyncio.StreamReader(limit=1 << 24)
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            peer = self.session.peer(command["peer"])
            if command["do"] == "send":
                flight = peer.send(command["messages"], command["form"])
                tell({"event": "sent", "ids": [message["id"] for message in flight.messages]})
            elif command["do"] == "forge":
                peer.forge(command["message"])
            elif command["do"] == "repair":
                peer.repair()
            elif command["do"] == "begin":
                begun = await self.connections[command["peer"]].begin(command["frames"])
                tell({"event": "begun", "frames": begun})

    async def tick(self):
        while True:
            await asyncio.sleep(0.25)
            for peer in self.session.peers.values():
                peer.tick()


async def main():
    agent = Agent(json.loads(sys.argv[1]))
    await agent.register()
    # It ends when its commands do.
    tasks = [asyncio.create_task(task) for task in (agent.serve(), agent.tick(), agent.obey())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for connection in agent.connections.values():
        await connection.pc.close()
    for task in done:
        task.result()


asyncio.run(main())
