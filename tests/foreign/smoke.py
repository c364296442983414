"""Do the foreign peers work on this machine? Each does one real thing, on loopback alone.

Falsified by: a library that is missing or broken, a data channel that does not open, a DDS sample that does not arrive,
an Ed25519 signature that differs from RFC 8032's. `cargo xtask test` runs this before the tests that need the peers, so
that a broken installation is not taken for a broken ifmesh.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from importlib.metadata import version

PATIENCE = 20.0  # seconds, for each peer


def ed25519() -> str:
    """RFC 8032, section 7.1, TEST 3: the same signature, and it verifies; with a flipped bit it does not."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    )
    message = bytes.fromhex("af82")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert key.sign(message) == signature
    key.public_key().verify(signature, message)
    try:
        key.public_key().verify(signature, bytes([message[0] ^ 1, message[1]]))
    except InvalidSignature:
        return f"cryptography {version('cryptography')}: signs and verifies RFC 8032's example"
    raise AssertionError("a changed message verified")


def data_channel() -> str:
    """Two peer connections, one data channel, a message there and back."""
    import aioice.ice
    import aiortc

    # It leaves loopback out of its candidates; a test must use nothing else.
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]

    async def exchange() -> None:
        nothing_outside = aiortc.RTCConfiguration(iceServers=[])
        here, there = (aiortc.RTCPeerConnection(nothing_outside) for _ in range(2))
        echoed = asyncio.get_running_loop().create_future()
        channel = here.createDataChannel("smoke")
        channel.on("open", lambda: channel.send("ping"))
        channel.on("message", echoed.set_result)

        @there.on("datachannel")
        def _(remote):
            remote.on("message", lambda text: remote.send(text + " pong"))

        try:
            await here.setLocalDescription(await here.createOffer())
            await there.setRemoteDescription(here.localDescription)
            await there.setLocalDescription(await there.createAnswer())
            await here.setRemoteDescription(there.localDescription)
            assert await asyncio.wait_for(echoed, PATIENCE) == "ping pong"
        finally:
            await asyncio.gather(here.close(), there.close())

    asyncio.run(exchange())
    return f"aiortc {version('aiortc')}: a message there and back over a data channel"


def dds_sample() -> str:
    """One sample from a reliable writer to a reliable reader."""
    os.environ["CYCLONEDDS_URI"] = (
        "<CycloneDDS><Domain><General><Interfaces><NetworkInterface address='127.0.0.1'/></Interfaces>"
        "<AllowMulticast>false</AllowMulticast></General>"
        "<Discovery><Peers><Peer Address='127.0.0.1'/></Peers></Discovery></Domain></CycloneDDS>"
    )
    from cyclonedds.core import Policy, Qos
    from cyclonedds.domain import DomainParticipant
    from cyclonedds.idl import IdlStruct
    from cyclonedds.idl.annotations import final
    from cyclonedds.idl.types import sequence, uint8
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration

    @dataclass
    @final
    class Sample(IdlStruct, typename="Smoke"):
        id: str
        payload: sequence[uint8]

    qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.Durability.TransientLocal)
    participant = DomainParticipant(0)
    topic = Topic(participant, "ifmesh_smoke", Sample, qos=qos)
    reader, writer = DataReader(participant, topic, qos=qos), DataWriter(participant, topic, qos=qos)
    sent = Sample("smoke", list(b"sample"))
    writer.write(sent)
    received = next(reader.take_iter(timeout=duration(seconds=PATIENCE)), None)
    assert received == sent, received
    return f"cyclonedds {version('cyclonedds')}: a sample from writer to reader"


if __name__ == "__main__":
    for check in (ed25519, data_channel, dds_sample):
        started = time.monotonic()
        print(f"  {check()} ({time.monotonic() - started:.2f} s)", flush=True)
