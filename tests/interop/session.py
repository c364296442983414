"""The session of PROTOCOL.md, sections 7 and 8, in Python: enough of it to talk, written from that document alone.

Messages, signatures and frames (sections 1 to 6) are those of crates/ifmsg/vectors/check.py, which is a second implementation too.
What a full implementation has and this one does not: broadcast streams as a sender, best-effort messages as a sender (control
messages aside), former epochs, limits on what waits. There is no I/O in here: frames go in by `receive`, come out by the
callbacks.
"""

import secrets
import struct
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives import serialization as ser

sys.path.insert(0, str(Path(__file__).parents[2] / "crates/ifmsg/vectors"))
import check  # noqa: E402

CONTROL = "x-ifmesh-session"
WINDOW = 1024
MAX_AGE = 300.0


def now_text(ahead=0.0):
    return datetime.fromtimestamp(time.time() + ahead, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def seconds(stamp):
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


class Identity:
    """A name and its key."""

    def __init__(self, agent, pem):
        self.agent = agent
        self.private = ser.load_pem_private_key(pem.encode(), None)
        self.public = self.private.public_key().public_bytes(ser.Encoding.Raw, ser.PublicFormat.Raw)

    def statement(self, prefix, *parts):
        return self.private.sign(check.statement(prefix, *parts)).hex()


# ---- frames (sections 3 to 5) --------------------------------------------------------------------------------------


def path_of(index, leaves):
    if len(leaves) == 1:
        return []
    k = check.split(len(leaves))
    if index < k:
        return path_of(index, leaves[:k]) + [check.root_of(leaves[k:])]
    return path_of(index - k, leaves[k:]) + [check.root_of(leaves[:k])]


class Flight:
    """Messages under one signature, and every form that they can be sent in."""

    def __init__(self, identity, messages):
        self.identity, self.messages = identity, messages
        self.bodies = [check.write(message).encode() for message in messages]
        self.leaves = [check.digest(body) for body in self.bodies]
        self.size = len(messages)
        signed = check.signed_bytes(identity.public, self.size, check.root_of(self.leaves))
        self.signature = identity.private.sign(signed)

    def json(self, index):
        signature = {
            "algorithm": "ed25519",
            "public_key": self.identity.public.hex(),
            "signature_bytes": self.signature.hex(),
            "signed_fields": sorted(self.messages[index]),
        }
        if self.size > 1:
            path = [node.hex() for node in path_of(index, self.leaves)]
            signature["batch"] = {"index": index, "size": self.size, "path": path}
        return check.write(self.messages[index] | {"signature": signature}).encode()

    def binary(self, indices=None):
        indices = list(range(self.size)) if indices is None else indices
        frame = struct.pack(
            ">4sBBH8sHH", b"IFB1", 0, 1, 0, check.key_id(self.identity.public), self.size, len(indices)
        )
        frame += self.signature
        for index in indices:
            if len(indices) < self.size:
                frame += struct.pack(">H", index) + b"".join(path_of(index, self.leaves))
            frame += struct.pack(">I", len(self.bodies[index])) + self.bodies[index]
        return frame


# ---- the session ---------------------------------------------------------------------------------------------------


class Session:
    """This agent's side towards all its peers."""

    def __init__(self, identity, trusted, epoch, tell):
        self.identity, self.epoch, self.tell = identity, epoch, tell
        self.keys = {agent: bytes.fromhex(key) for agent, key in trusted.items()}
        self.peers = {}

    def peer(self, agent):
        if agent not in self.peers:
            self.peers[agent] = Peer(self, agent)
        return self.peers[agent]

    def receive(self, link, frame):
        """A frame that came by the link to `link`. Section 7.2, in its order."""
        try:
            short, size, signature, messages = check.read(frame)
        except Exception as error:  # whatever a hostile frame makes of our parser: it is refused
            return self.refuse("unsigned" if error.args == ("unsigned",) else "malformed", {})
        fresh, owed = [], set()
        for body, message, root in messages:  # steps 1 to 3
            reason = self.address_and_trust(message, short)
            if reason is None:
                peer = self.peer(message["source"])
                reason = peer.replay(message, body)
                if reason in ("duplicate", "too-old"):
                    owed.add(peer)
                    continue
            if reason is not None:
                self.refuse(reason, message)
            else:
                fresh.append((peer, body, message, root))
        if fresh:  # step 5: once for the frame
            public, root = self.keys[fresh[0][2]["source"]], fresh[0][3]
            if not check.verifies(public, check.signed_bytes(public, size, root), signature) or any(
                f[3] != root or self.keys[f[2]["source"]] != public for f in fresh
            ):
                for _, _, message, _ in fresh:
                    self.refuse("bad-signature", message)
                fresh = []
        form = "binary" if frame.startswith(b"IFB1") else "json"
        for peer, body, message, _ in fresh:
            peer.admit(message, body, form)
            owed.add(peer)
        for peer in owed:
            peer.answer()

    def address_and_trust(self, message, short):
        if message["destination"] not in (self.identity.agent, "*"):
            return "not-for-us"
        if message["source"] == self.identity.agent:
            return "from-ourselves"
        if check.key_id(self.keys.get(message["source"], b"")) != short:
            known = short in map(check.key_id, self.keys.values())
            return "wrong-source" if known else "unknown-key"
        return None

    def refuse(self, reason, message):
        self.tell({"event": "rejected", "reason": reason, "id": message.get("id")})


class Peer:
    def __init__(self, session, agent):
        self.session, self.agent = session, agent
        self.send_frame = None  # the link, while there is one
        self.nonce, self.answered, self.echo_owed = None, False, None
        # What comes from it.
        self.peer_epoch, self.seen = -1, {}
        self.acks_owed = False
        # What goes to it.
        self.control_number = 0
        self.direct_number = 0
        self.unacknowledged = {}  # number -> (id, frame, sent at)

    # -- links and hellos (8.2)

    def link_up(self, send_frame):
        self.send_frame, self.answered = send_frame, False
        self.nonce = secrets.token_hex(16)
        self.control()

    def link_down(self):
        self.send_frame, self.answered = None, False

    def tick(self):
        """Every quarter of a second: ask again, send again."""
        if self.send_frame is None:
            return
        if not self.answered:
            self.control()
            return
        for number, (name, frame, sent) in list(self.unacknowledged.items()):
            if time.monotonic() - sent > 1.0:
                self.transmit(number, name, frame)

    # -- out

    def draft(self, members, number, delivery=None):
        message = {
            "id": f"{self.session.epoch}-{delivery or 'reliable'}-{self.agent}-{number}",
            "timestamp": now_text(),
            "level": 1,
            "source": self.session.identity.agent,
            "destination": self.agent,
            "version": "2.1",
            "epoch": self.session.epoch,
            "sequence_num": number,
        }
        if delivery:
            message["delivery"] = delivery
        return message | members

    def control(self):
        """One control message, with everything there is to say."""
        hello = {}
        if not self.answered:
            hello["nonce"] = self.nonce
        if self.echo_owed:
            hello["echo"], self.echo_owed = self.echo_owed, None
        payload = {
            "floors": [
                {"stream": "direct", "floor": min(self.unacknowledged, default=self.direct_number + 1)},
                {"stream": "broadcast", "floor": 1},
            ]
        }
        if hello:
            payload["hello"] = hello
        if self.seen:
            payload["acks"] = [inbound.ack(self.peer_epoch) for inbound in self.reliable.values()]
        self.acks_owed = False
        self.control_number += 1
        members = {"performative": CONTROL, "payload": payload}
        message = self.draft(members, self.control_number, "best-effort")
        self.send_frame(Flight(self.session.identity, [message]).json(0))

    def send(self, drafts, form):
        """Signs reliable messages as one flight and sends them: `json`, `binary`, or `parts` of both."""
        messages = []
        for members in drafts:
            self.direct_number += 1
            messages.append(self.draft(members, self.direct_number))
        flight = Flight(self.session.identity, messages)
        if form == "json":
            frames = {index: flight.json(index) for index in range(flight.size)}
        elif form == "binary":
            frames = {0: flight.binary()}
        else:
            frames = {0: flight.json(0), 1: flight.binary(list(range(1, flight.size)))}
        for index, message in enumerate(messages):
            # Sent again it goes alone, with its path.
            self.unacknowledged[message["sequence_num"]] = (message["id"], flight.json(index), time.monotonic())
        for frame in frames.values():
            self.send_frame(frame)
        return flight

    def forge(self, members):
        """A message that was changed after it was signed. Its number stays free: `repair` sends what was signed."""
        self.direct_number += 1
        message = self.draft(members, self.direct_number)
        flight = Flight(self.session.identity, [message])
        genuine = flight.json(0)
        forged = flight.json(0).replace(b'"forged":false', b'"forged":true')
        assert forged != genuine
        self.send_frame(forged)
        self.forged = (self.direct_number, message["id"], genuine)

    def repair(self):
        self.transmit(*self.forged)

    def transmit(self, number, name, frame):
        self.unacknowledged[number] = (name, frame, time.monotonic())
        self.send_frame(frame)

    # -- in

    def replay(self, message, body):
        """Step 3: what is known of this number. None: go on."""
        if message["epoch"] < self.peer_epoch:
            return "stale-epoch"
        if message["epoch"] > self.peer_epoch:
            return None
        seen, number = self.seen.setdefault(stream_of(message), {}), message["sequence_num"]
        if seen and number + WINDOW <= max(seen):
            return "too-old"
        if seen.get(number) == check.digest(body):
            return "duplicate"
        return None

    def admit(self, message, body, form):
        """Steps 6 to 8. The signature has verified."""
        known, stream, number = self.replay(message, body), stream_of(message), message["sequence_num"]
        control = message.get("performative") == CONTROL
        hello = message["payload"].get("hello", {}) if control else {}
        if known is not None:
            if known == "stale-epoch":
                self.session.refuse(known, message)
            return
        if message["epoch"] > self.peer_epoch:
            live = abs(time.time() - seconds(message["timestamp"])) <= MAX_AGE
            if not live and not (self.nonce and hello.get("echo") == self.nonce):
                self.echo_owed = hello.get("nonce")
                return self.session.refuse("not-live", message)
            self.peer_epoch, self.seen = message["epoch"], {}
            self.reliable = {"direct": Inbound("direct"), "broadcast": Inbound("broadcast")}
        seen = self.seen.setdefault(stream, {})
        if number in seen:
            return self.session.refuse("equivocation", message)
        seen[number] = check.digest(body)
        while len(seen) > WINDOW:
            del seen[min(seen)]
        if "expires" in message and time.time() > seconds(message["expires"]):
            return self.session.refuse("expired", message)
        if control:
            self.take_control(message["payload"])
        elif stream in self.reliable:
            self.acks_owed = True
            self.reliable[stream].waiting[number] = (message, form)
            self.deliver()
        else:
            self.session.tell({"event": "message", "form": form, "message": message})

    def take_control(self, payload):
        if payload.keys() - {"hello", "acks", "floors", "room"}:
            return
        hello = payload.get("hello", {})
        if len(hello.get("nonce", "")) == 32:
            self.echo_owed = hello["nonce"]
        if hello.get("echo") == self.nonce and not self.answered:
            self.answered = True
            self.session.tell({"event": "up", "peer": self.agent})
            for number, (name, frame, _) in list(self.unacknowledged.items()):
                self.transmit(number, name, frame)
        for floor in payload.get("floors", []):
            self.reliable[floor["stream"]].floor_is(floor["floor"])
            self.acks_owed = True
        for ack in payload.get("acks", []):
            if ack["epoch"] == self.session.epoch and ack["stream"] == "direct":
                self.acknowledged(ack)
        if payload.get("room"):
            for number, (name, frame, _) in list(self.unacknowledged.items()):
                self.transmit(number, name, frame)
        self.deliver()

    def acknowledged(self, ack):
        refused = dict(ack.get("refused", []))
        for number in sorted(self.unacknowledged):
            name = self.unacknowledged[number][0]
            if number in refused:
                self.session.tell({"event": "refused", "id": name, "reason": refused[number]})
            elif number <= ack["cumulative"]:
                self.session.tell({"event": "acknowledged", "id": name})
            else:
                continue
            del self.unacknowledged[number]

    def deliver(self):
        for inbound in self.reliable.values():
            for message, form in inbound.take():
                self.session.tell({"event": "message", "form": form, "message": message})

    def answer(self):
        """What this frame left owing: an echo at once, acknowledgements at once."""
        if self.send_frame and (self.echo_owed or self.acks_owed):
            self.control()


class Inbound:
    """One reliable stream of a peer: in order, from where its sender says that it stands (8.4)."""

    def __init__(self, name):
        self.name, self.cumulative, self.waiting = name, None, {}

    def floor_is(self, floor):
        self.cumulative = max(self.cumulative or 0, floor - 1)
        self.waiting = {n: m for n, m in self.waiting.items() if n > self.cumulative}

    def take(self):
        while self.cumulative is not None and self.cumulative + 1 in self.waiting:
            self.cumulative += 1
            yield self.waiting.pop(self.cumulative)

    def ack(self, epoch):
        runs = []
        for number in sorted(self.waiting):
            if runs and runs[-1][1] == number - 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        return {
            "epoch": epoch,
            "stream": self.name,
            "cumulative": self.cumulative or 0,
            "held": runs[:64],
            "refused": [],
        }


def stream_of(message):
    """Section 7.1: four streams."""
    reliable = message.get("delivery", "reliable") == "reliable"
    return (("direct", "broadcast") if reliable else ("best-effort", "best-effort-broadcast"))[
        message["destination"] == "*"
    ]
