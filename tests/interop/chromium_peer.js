// An agent in a browser, written from PROTOCOL.md: signaling, signed descriptions, hello, session; WebRTC, WebCrypto and
// JSON are the browser's.
//
// `start` takes the settings: {agent, key (PKCS#8 PEM), trusted: {agent: key}, signaling, epoch}. It connects with every
// trusted agent that it meets, offering where PROTOCOL.md 10.3 says so. Commands come in by `command`, what happens goes
// out by `tell`, both JSON; tests/src/interop has both.
//
// What a full implementation has and this one does not: broadcast and best-effort streams as a sender, former epochs, limits on
// what waits, the JSON form in another spelling than the canonical one.
"use strict";

const CONTROL = "x-ifmesh-session";
const MESSAGING = "if-agent-messaging";
const BEST_EFFORT = "if-agent-best-effort";
const WINDOW = 1024;
const MAX_AGE = 300_000;

const event = (value) => globalThis.tell(JSON.stringify(value));

// ---- bytes ---------------------------------------------------------------------------------------------------------

const utf8 = (text) => new TextEncoder().encode(text);
const strictUtf8 = (bytes) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const same = (a, b) => hex(a) === hex(b);

function unhex(text, length) {
  if (typeof text !== "string" || !new RegExp(`^[0-9a-f]{${2 * length}}$`).test(text)) throw new Error("hexadecimal");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function concat(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function number(value, length) {
  const bytes = new Uint8Array(length);
  for (let at = length - 1, rest = BigInt(value); at >= 0; at--, rest >>= 8n) bytes[at] = Number(rest & 255n);
  return bytes;
}

const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));

// ---- the canonical form (section 2) --------------------------------------------------------------------------------

// RFC 8785 was made of what JSON.stringify does with strings and numbers; only the order is left to do.
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const names = Object.keys(value).sort();
    return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
  }
  if (typeof value === "string" && !value.isWellFormed()) throw new Error("a lone surrogate");
  return JSON.stringify(value);
}

// What is canonical is spelled in one way alone: so this refuses duplicate members and all the rest.
function parseCanonical(text) {
  const value = JSON.parse(text);
  if (canonical(value) !== text) throw new Error("not canonical");
  return value;
}

// ---- digests, signatures, trees (section 3) ------------------------------------------------------------------------

const digest = (body) => sha256(number(0, 1), body);
const keyId = async (key) => (await sha256(utf8("IFMESH-KEY\0\x01"), key)).slice(0, 8);
const node = (left, right) => sha256(number(1, 1), left, right);

function split(size) {
  let k = 1;
  while (k * 2 < size) k *= 2;
  return k;
}

async function rootOf(leaves) {
  if (leaves.length === 1) return leaves[0];
  const k = split(leaves.length);
  return node(await rootOf(leaves.slice(0, k)), await rootOf(leaves.slice(k)));
}

async function pathOf(index, leaves) {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  return index < k
    ? [...(await pathOf(index, leaves.slice(0, k))), await rootOf(leaves.slice(k))]
    : [...(await pathOf(index - k, leaves.slice(k))), await rootOf(leaves.slice(0, k))];
}

function pathLength(index, size) {
  if (size === 1) return 0;
  const k = split(size);
  return 1 + (index < k ? pathLength(index, k) : pathLength(index - k, size - k));
}

async function rootFrom(index, size, leaf, path) {
  if (size === 1) return leaf;
  const k = split(size);
  const [rest, last] = [path.slice(0, -1), path.at(-1)];
  return index < k
    ? node(await rootFrom(index, k, leaf, rest), last)
    : node(last, await rootFrom(index - k, size - k, leaf, rest));
}

const signedBytes = (id, size, root) => concat(utf8("IFMESH-SIG\0\x01"), id, number(size, 4), root);
const statement = (kind, ...parts) =>
  concat(utf8(`${kind}\0`), ...parts.flatMap((part) => [number(part.length, 4), part]));

async function verifies(key, bytes, signature) {
  const imported = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
  return crypto.subtle.verify("Ed25519", imported, signature, bytes);
}

class Identity {
  static async of({ agent, key, trusted }) {
    const self = new Identity();
    const der = Uint8Array.from(atob(key.replace(/-----[^-]*-----|\s/g, "")), (char) => char.charCodeAt(0));
    self.private = await crypto.subtle.importKey("pkcs8", der, "Ed25519", false, ["sign"]);
    self.agent = agent;
    self.public = unhex(trusted[agent], 32);
    self.id = await keyId(self.public);
    return self;
  }

  async sign(bytes) {
    return new Uint8Array(await crypto.subtle.sign("Ed25519", this.private, bytes));
  }
}

// ---- the two forms (sections 4 and 5) ------------------------------------------------------------------------------

class Flight {
  static async sign(identity, messages) {
    const self = new Flight();
    Object.assign(self, { identity, messages, bodies: messages.map((message) => utf8(canonical(message))) });
    self.leaves = await Promise.all(self.bodies.map(digest));
    self.signature = await identity.sign(signedBytes(identity.id, messages.length, await rootOf(self.leaves)));
    return self;
  }

  async json(index) {
    const size = this.messages.length;
    const signature = {
      algorithm: "ed25519",
      public_key: hex(this.identity.public),
      signature_bytes: hex(this.signature),
      signed_fields: Object.keys(this.messages[index]).sort(),
    };
    if (size > 1) signature.batch = { index, size, path: (await pathOf(index, this.leaves)).map(hex) };
    return utf8(canonical({ ...this.messages[index], signature }));
  }

  async binary(indices) {
    const size = this.messages.length;
    const parts = [utf8("IFB1"), number(0, 1), number(1, 1), number(0, 2), this.identity.id];
    parts.push(number(size, 2), number(indices.length, 2), this.signature);
    for (const index of indices) {
      if (indices.length < size) parts.push(number(index, 2), ...(await pathOf(index, this.leaves)));
      parts.push(number(this.bodies[index].length, 4), this.bodies[index]);
    }
    return concat(...parts);
  }
}

// A frame, read: {form, id, size, signature, messages: [{body, message, root}]}.
async function read(frame) {
  return same(frame.slice(0, 4), utf8("IFB1")) ? readBinary(frame) : readJson(frame);
}

async function readJson(frame) {
  const message = parseCanonical(strictUtf8(frame));
  const { signature } = message;
  delete message.signature;
  if (signature === undefined || signature === null) throw new Error("unsigned");
  const { algorithm, public_key, signature_bytes, signed_fields, batch, ...others } = signature;
  const fields = Object.keys(message).sort();
  if (Object.keys(others).length > 0 || algorithm !== "ed25519" || `${signed_fields}` !== `${fields}`) {
    throw new Error("signature");
  }
  const { index, size, path } = batch ?? { index: 0, size: 1, path: [] };
  if (batch && !(size >= 2 && size <= 256)) throw new Error("batch");
  if (!(index >= 0 && index < size) || path.length !== pathLength(index, size)) throw new Error("batch");
  const body = utf8(canonical(message));
  const root = await rootFrom(index, size, await digest(body), path.map((text) => unhex(text, 32)));
  const id = await keyId(unhex(public_key, 32));
  return { form: "json", id, size, signature: unhex(signature_bytes, 64), messages: [{ body, message, root }] };
}

async function readBinary(frame) {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  let at = 4;
  const take = (length) => {
    if (at + length > frame.length) throw new Error("truncated");
    at += length;
    return frame.slice(at - length, at);
  };
  if (!same(take(4), [0, 1, 0, 0])) throw new Error("header");
  const id = take(8);
  const [size, count] = [view.getUint16(16), view.getUint16(18)];
  take(4);
  if (!(count >= 1 && count <= size && size <= 256)) throw new Error("header");
  const signature = take(64);
  const messages = [];
  for (let n = 0, last = -1; n < count; n++) {
    let index = n;
    const path = [];
    if (count < size) {
      take(2);
      index = view.getUint16(at - 2);
      if (index <= last || index >= size) throw new Error("index");
      last = index;
      for (let rest = pathLength(index, size); rest > 0; rest--) path.push(take(32));
    }
    take(4);
    const body = take(view.getUint32(at - 4));
    const message = parseCanonical(strictUtf8(body));
    messages.push({ body, message, root: count < size && (await rootFrom(index, size, await digest(body), path)) });
  }
  if (at !== frame.length) throw new Error("trailing");
  if (count === size) {
    const root = await rootOf(await Promise.all(messages.map(({ body }) => digest(body))));
    for (const message of messages) message.root = root;
  }
  return { form: "binary", id, size, signature, messages };
}

function checkMembers(message) {
  const anId = (value) => typeof value === "string" && /^[A-Za-z0-9._:/@+-]{1,128}$/.test(value);
  const natural = (least) => (value) => Number.isSafeInteger(value) && value >= least;
  const required = {
    id: anId,
    timestamp: (value) => typeof value === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(value),
    level: (value) => value === 1 || value === 2,
    source: anId,
    destination: (value) => value === "*" || anId(value),
    version: (value) => value === "2.1",
    payload: (value) => value !== null && typeof value === "object" && !Array.isArray(value),
    epoch: natural(0),
    sequence_num: natural(1),
  };
  const optional = [
    "performative", "conversation_id", "in_reply_to", "traceId", "citation_ids", "delivery", "expires",
  ];
  for (const name in required) if (!required[name](message[name])) throw new Error(name);
  for (const name of Object.keys(message)) {
    if (!(name in required || optional.includes(name) || (/^x_./.test(name) && anId(name)))) throw new Error(name);
  }
}

// ---- the session (sections 7 and 8) --------------------------------------------------------------------------------

const streamOf = ({ delivery, destination }) =>
  (delivery === "best-effort" ? "best-effort" : "reliable") + (destination === "*" ? " to all" : "");

class Session {
  constructor(identity, settings) {
    this.identity = identity;
    this.epoch = settings.epoch;
    this.keys = new Map(Object.entries(settings.trusted).map(([agent, key]) => [agent, unhex(key, 32)]));
    this.peers = new Map();
    this.turn = Promise.resolve();
  }

  peer(agent) {
    if (!this.peers.has(agent)) this.peers.set(agent, new Peer(this, agent));
    return this.peers.get(agent);
  }

  // Everything that changes the session happens one after the other, though WebCrypto lets us wait in between.
  inTurn(act) {
    this.turn = this.turn.then(act).catch((error) => event({ event: "error", error: `${error.stack ?? error}` }));
    return this.turn;
  }

  refuse(reason, message) {
    event({ event: "rejected", reason, id: message?.id });
  }

  // Section 7.2, in its order.
  async receive(bytes) {
    let frame;
    try {
      frame = await read(bytes);
      for (const { message } of frame.messages) checkMembers(message);
    } catch (error) {
      return this.refuse(error.message === "unsigned" ? "unsigned" : "malformed");
    }
    let fresh = [];
    const owed = new Set();
    for (const { body, message, root } of frame.messages) {
      const peer = this.peer(message.source);
      const tag = hex(await digest(body));
      const reason = (await this.addressAndTrust(message, frame.id)) ?? peer.replay(message, tag);
      if (reason === null) fresh.push({ peer, message, root, tag });
      else if (reason === "duplicate" || reason === "too-old") owed.add(peer);
      else this.refuse(reason, message);
    }
    if (fresh.length > 0) {
      const { peer, root } = fresh[0];
      const signed = signedBytes(frame.id, frame.size, root);
      const one = fresh.every((other) => other.peer === peer && same(other.root, root));
      if (!one || !(await verifies(this.keys.get(peer.agent), signed, frame.signature))) {
        for (const { message } of fresh) this.refuse("bad-signature", message);
        fresh = [];
      }
    }
    for (const { peer, message, tag } of fresh) {
      await peer.admit(message, tag, frame.form);
      owed.add(peer);
    }
    for (const peer of owed) await peer.answer();
  }

  async addressAndTrust(message, id) {
    if (![this.identity.agent, "*"].includes(message.destination)) return "not-for-us";
    if (message.source === this.identity.agent) return "from-ourselves";
    const key = this.keys.get(message.source);
    return key && same(await keyId(key), id) ? null : "unknown-key";
  }
}

class Peer {
  constructor(session, agent) {
    Object.assign(this, { session, agent, sendFrame: null, nonce: null, answered: false, echoOwed: null });
    Object.assign(this, { peerEpoch: -1, seen: new Map(), reliable: null, acksOwed: false });
    Object.assign(this, { controlNumber: 0, directNumber: 0, unacknowledged: new Map(), forged: null });
  }

  linkUp(sendFrame) {
    this.sendFrame = sendFrame;
    this.answered = false;
    this.nonce = hex(crypto.getRandomValues(new Uint8Array(16)));
    return this.control();
  }

  async tick() {
    if (!this.sendFrame) return;
    if (!this.answered) return this.control();
    for (const [n, { id, frame, sent }] of this.unacknowledged) {
      if (performance.now() - sent > 1000) this.transmit(n, id, frame);
    }
  }

  draft(members, n, delivery) {
    const message = {
      id: `${this.session.epoch}-${delivery ?? "reliable"}-${this.agent}-${n}`,
      timestamp: new Date().toISOString(),
      level: 1,
      source: this.session.identity.agent,
      destination: this.agent,
      version: "2.1",
      epoch: this.session.epoch,
      sequence_num: n,
      ...members,
    };
    if (delivery) message.delivery = delivery;
    return message;
  }

  // One control message, with everything there is to say.
  async control() {
    const hello = {};
    if (!this.answered) hello.nonce = this.nonce;
    if (this.echoOwed) hello.echo = this.echoOwed;
    this.echoOwed = null;
    this.acksOwed = false;
    const floor = Math.min(this.directNumber + 1, ...this.unacknowledged.keys());
    const payload = { floors: [{ stream: "direct", floor }, { stream: "broadcast", floor: 1 }] };
    if (Object.keys(hello).length > 0) payload.hello = hello;
    if (this.reliable) payload.acks = Object.values(this.reliable).map((inbound) => inbound.ack(this.peerEpoch));
    this.controlNumber += 1;
    const message = this.draft({ performative: CONTROL, payload }, this.controlNumber, "best-effort");
    this.sendFrame(await (await Flight.sign(this.session.identity, [message])).json(0));
  }

  // Signs reliable messages as one flight and sends them: `json`, `binary`, or `parts` of both.
  async send(drafts, form) {
    const messages = drafts.map((members) => this.draft(members, ++this.directNumber));
    const flight = await Flight.sign(this.session.identity, messages);
    const indices = messages.map((_, index) => index);
    const alone = await Promise.all(indices.map((index) => flight.json(index)));
    event({ event: "sent", ids: messages.map(({ id }) => id) });
    for (const index of indices) {
      const { sequence_num, id } = messages[index];
      this.unacknowledged.set(sequence_num, { id, frame: alone[index], sent: performance.now() });
    }
    if (form === "json") alone.forEach((frame) => this.sendFrame(frame));
    else if (form === "binary") this.sendFrame(await flight.binary(indices));
    else {
      this.sendFrame(alone[0]);
      this.sendFrame(await flight.binary(indices.slice(1)));
    }
  }

  // A message that was changed after it was signed. Its number stays free: `repair` sends what was signed.
  async forge(members) {
    const message = this.draft(members, ++this.directNumber);
    const frame = await (await Flight.sign(this.session.identity, [message])).json(0);
    const text = strictUtf8(frame);
    const changed = text.replace('"forged":false', '"forged":true');
    if (changed === text) throw new Error("nothing was forged");
    this.sendFrame(utf8(changed));
    this.forged = [message.sequence_num, message.id, frame];
  }

  transmit(n, id, frame) {
    this.unacknowledged.set(n, { id, frame, sent: performance.now() });
    this.sendFrame(frame);
  }

  replay(message, tag) {
    if (message.epoch < this.peerEpoch) return "stale-epoch";
    if (message.epoch > this.peerEpoch) return null;
    const seen = this.seen.get(streamOf(message)) ?? new Map();
    if (message.sequence_num + WINDOW <= Math.max(0, ...seen.keys())) return "too-old";
    return seen.get(message.sequence_num) === tag ? "duplicate" : null;
  }

  // Steps 6 to 8. The signature has verified.
  async admit(message, tag, form) {
    const known = this.replay(message, tag);
    if (known !== null) return known === "stale-epoch" && this.session.refuse(known, message);
    const control = message.performative === CONTROL;
    const hello = (control && message.payload.hello) || {};
    if (message.epoch > this.peerEpoch) {
      const live = Math.abs(Date.now() - Date.parse(message.timestamp)) <= MAX_AGE;
      if (!live && !(this.nonce && hello.echo === this.nonce)) {
        this.echoOwed = hello.nonce ?? null;
        return this.session.refuse("not-live", message);
      }
      this.peerEpoch = message.epoch;
      this.seen = new Map();
      this.reliable = { direct: new Inbound("direct"), broadcast: new Inbound("broadcast") };
    }
    const stream = streamOf(message);
    if (!this.seen.has(stream)) this.seen.set(stream, new Map());
    const seen = this.seen.get(stream);
    if (seen.has(message.sequence_num)) return this.session.refuse("equivocation", message);
    seen.set(message.sequence_num, tag);
    while (seen.size > WINDOW) seen.delete(Math.min(...seen.keys()));
    if (message.expires && Date.now() > Date.parse(message.expires)) return this.session.refuse("expired", message);
    if (control) return this.takeControl(message.payload);
    if (message.delivery === "best-effort") return event({ event: "message", form, message });
    this.acksOwed = true;
    this.reliable[message.destination === "*" ? "broadcast" : "direct"].waiting.set(message.sequence_num, {
      message,
      form,
    });
    this.deliver();
  }

  takeControl({ hello = {}, acks = [], floors = [], room, ...others }) {
    if (Object.keys(others).length > 0) return;
    if (hello.nonce?.length === 32) this.echoOwed = hello.nonce;
    if (hello.echo === this.nonce && !this.answered) {
      this.answered = true;
      event({ event: "up", peer: this.agent });
      for (const [n, { id, frame }] of [...this.unacknowledged]) this.transmit(n, id, frame);
    }
    for (const { stream, floor } of floors) {
      this.reliable[stream].floorIs(floor);
      this.acksOwed = true;
    }
    for (const ack of acks) {
      if (ack.epoch === this.session.epoch && ack.stream === "direct") this.acknowledged(ack);
    }
    if (room) for (const [n, { id, frame }] of [...this.unacknowledged]) this.transmit(n, id, frame);
    this.deliver();
  }

  acknowledged({ cumulative, refused = [] }) {
    const reasons = new Map(refused);
    for (const n of [...this.unacknowledged.keys()].sort((a, b) => a - b)) {
      const { id } = this.unacknowledged.get(n);
      if (reasons.has(n)) event({ event: "refused", id, reason: reasons.get(n) });
      else if (n <= cumulative) event({ event: "acknowledged", id });
      else continue;
      this.unacknowledged.delete(n);
    }
  }

  deliver() {
    for (const inbound of Object.values(this.reliable)) {
      for (const { message, form } of inbound.take()) event({ event: "message", form, message });
    }
  }

  async answer() {
    if (this.sendFrame && (this.echoOwed || this.acksOwed)) await this.control();
  }
}

// One reliable stream of a peer: in order, from where its sender says that it stands (8.4).
class Inbound {
  constructor(stream) {
    Object.assign(this, { stream, cumulative: null, waiting: new Map() });
  }

  floorIs(floor) {
    this.cumulative = Math.max(this.cumulative ?? 0, floor - 1);
    for (const n of [...this.waiting.keys()]) if (n <= this.cumulative) this.waiting.delete(n);
  }

  *take() {
    while (this.cumulative !== null && this.waiting.has(this.cumulative + 1)) {
      this.cumulative += 1;
      yield this.waiting.get(this.cumulative);
      this.waiting.delete(this.cumulative);
    }
  }

  ack(epoch) {
    const held = [];
    for (const n of [...this.waiting.keys()].sort((a, b) => a - b)) {
      if (held.at(-1)?.[1] === n - 1) held.at(-1)[1] = n;
      else held.push([n, n]);
    }
    return { epoch, stream: this.stream, cumulative: this.cumulative ?? 0, held: held.slice(0, 64), refused: [] };
  }
}

// ---- descriptions, channels, hello (sections 9.3 and 10) -----------------------------------------------------------

function described(sdp) {
  const all = (pattern) => [...new Set([...sdp.matchAll(pattern)].map((match) => match[1]))];
  const [prints, fragments] = [all(/^a=fingerprint:(.+?)\r?$/gm), all(/^a=ice-ufrag:(.+?)\r?$/gm)];
  if (prints.length !== 1 || fragments.length !== 1) throw new Error("several fingerprints or user fragments");
  const [algorithm, print] = prints[0].split(" ");
  if (algorithm.toLowerCase() !== "sha-256") throw new Error("a fingerprint that is not SHA-256");
  return { fingerprint: print.replaceAll(":", "").toLowerCase(), fragment: fragments[0] };
}

function descriptionBytes(signed) {
  const texts = (...names) => names.map((name) => utf8(signed[name] ?? ""));
  return statement(
    "IFMESH-SDP",
    ...texts("from", "to", "session", "role"),
    number(signed.epoch, 8),
    ...texts("fingerprint", "ice_ufrag", "sdp_hash", "expires", "offer"),
  );
}

function helloBytes(hello) {
  const texts = (...names) => names.map((name) => utf8(hello[name]));
  return statement(
    "IFMESH-HELLO",
    ...texts("version", "from", "to", "session"),
    number(hello.epoch, 8),
    number(hello.peer_epoch, 8),
    ...texts("fingerprint", "peer_fingerprint"),
    number(hello.max_frame, 8),
    utf8(MESSAGING),
  );
}

class Connection {
  constructor(agent, peer, number) {
    Object.assign(this, { agent, peer, number, verified: false, candidates: [] });
    this.pc = new RTCPeerConnection();
    // Not before the description that they belong to.
    this.described = new Promise((resolve) => (this.hasDescribed = resolve));
    this.pc.onicecandidate = async ({ candidate }) => {
      await this.described;
      if (candidate) agent.relay("ice-candidate", peer, { candidate: candidate.toJSON() });
    };
  }

  async sign(role, offer) {
    const { sdp } = this.pc.localDescription;
    const { fingerprint, fragment } = described(sdp);
    this.fingerprint = fingerprint;
    const signed = {
      from: this.agent.identity.agent,
      to: this.peer,
      session: this.number,
      role,
      epoch: this.agent.epoch,
      fingerprint,
      ice_ufrag: fragment,
      sdp_hash: hex(await sha256(utf8(sdp))),
      expires: new Date(Date.now() + 30_000).toISOString(),
      ...(offer && { offer }),
    };
    const bytes = descriptionBytes(signed);
    signed.signature = hex(await this.agent.identity.sign(bytes));
    return { [role]: { type: role, sdp }, statement: signed, bytes };
  }

  async verify(role, signed, sdp, session, offer) {
    const bytes = descriptionBytes(signed);
    const key = this.agent.session.keys.get(this.peer);
    const { fingerprint, fragment } = described(sdp);
    const ahead = Date.parse(signed.expires) - Date.now();
    const holds = {
      signature: await verifies(key, bytes, unhex(signed.signature, 64)),
      from: signed.from === this.peer,
      to: signed.to === this.agent.identity.agent,
      role: signed.role === role,
      session: session === undefined || signed.session === session,
      offer: signed.offer === offer,
      expires: ahead >= 0 && ahead <= 60_000,
      fingerprint: signed.fingerprint === fingerprint,
      ice_ufrag: signed.ice_ufrag === fragment,
      sdp_hash: signed.sdp_hash === hex(await sha256(utf8(sdp))),
    };
    for (const name in holds) if (!holds[name]) throw new Error(`description: ${name}`);
    this.peerEpoch = signed.epoch;
    this.peerFingerprint = fingerprint;
    return bytes;
  }

  async offer() {
    this.adopt(this.pc.createDataChannel(MESSAGING));
    this.adopt(this.pc.createDataChannel(BEST_EFFORT, { ordered: false, maxRetransmits: 0 }));
    await this.pc.setLocalDescription(await this.pc.createOffer());
    const { bytes, ...members } = await this.sign("offer");
    this.offerHash = hex(await sha256(bytes));
    this.agent.relay("offer", this.peer, members);
    this.hasDescribed();
  }

  async accept({ answer, statement: signed }) {
    await this.verify("answer", signed, answer.sdp, this.number, this.offerHash);
    await this.pc.setRemoteDescription(answer);
    await this.addCandidates();
  }

  async answer({ offer, statement: signed }) {
    const bytes = await this.verify("offer", signed, offer.sdp);
    this.number = signed.session;
    this.pc.ondatachannel = ({ channel }) => this.adopt(channel);
    await this.pc.setRemoteDescription(offer);
    await this.pc.setLocalDescription(await this.pc.createAnswer());
    const { bytes: _, ...members } = await this.sign("answer", hex(await sha256(bytes)));
    this.agent.relay("answer", this.peer, members);
    this.hasDescribed();
    await this.addCandidates();
  }

  async candidate(candidate) {
    this.candidates.push(candidate);
    if (this.pc.remoteDescription) await this.addCandidates();
  }

  async addCandidates() {
    for (const candidate of this.candidates.splice(0)) if (candidate.candidate) await this.pc.addIceCandidate(candidate);
  }

  adopt(channel) {
    channel.binaryType = "arraybuffer";
    const bytesOf = ({ data }) => (typeof data === "string" ? utf8(data) : new Uint8Array(data));
    const { session } = this.agent;
    if (channel.label === MESSAGING) {
      this.messaging = channel;
      channel.onmessage = (message) => session.inTurn(() => this.receive(bytesOf(message)));
      if (channel.readyState === "open") session.inTurn(() => this.sayHello());
      else channel.onopen = () => session.inTurn(() => this.sayHello());
    } else if (channel.label === BEST_EFFORT) {
      channel.onmessage = (message) => session.inTurn(() => this.verified && session.receive(bytesOf(message)));
    } else {
      channel.close();
    }
  }

  async sayHello() {
    const hello = {
      type: "hello",
      version: "1",
      from: this.agent.identity.agent,
      to: this.peer,
      session: this.number,
      epoch: this.agent.epoch,
      peer_epoch: this.peerEpoch,
      fingerprint: this.fingerprint,
      peer_fingerprint: this.peerFingerprint,
      max_frame: 65_536,
    };
    hello.signature = hex(await this.agent.identity.sign(helloBytes(hello)));
    this.messaging.send(JSON.stringify(hello));
  }

  async receive(bytes) {
    if (this.verified) return this.agent.session.receive(bytes);
    const hello = JSON.parse(strictUtf8(bytes));
    const expected = {
      type: "hello",
      version: "1",
      from: this.peer,
      to: this.agent.identity.agent,
      session: this.number,
      epoch: this.peerEpoch,
      peer_epoch: this.agent.epoch,
      fingerprint: this.peerFingerprint,
      peer_fingerprint: this.fingerprint,
    };
    const key = this.agent.session.keys.get(this.peer);
    const equal = Object.keys(expected).every((name) => hello[name] === expected[name]);
    if (!equal || !(await verifies(key, helloBytes(hello), unhex(hello.signature, 64)))) {
      this.messaging.close();
      return event({ event: "rejected", reason: "hello", peer: this.peer });
    }
    this.verified = true;
    event({ event: "link", peer: this.peer, max_frame: hello.max_frame });
    await this.agent.session.peer(this.peer).linkUp((frame) => this.messaging.send(frame));
  }
}

// ---- signaling (sections 9.1, 9.2, 10.3) ---------------------------------------------------------------------------

class Agent {
  async start(settings) {
    this.identity = await Identity.of(settings);
    this.epoch = settings.epoch;
    this.session = new Session(this.identity, settings);
    this.connections = new Map();
    this.socket = new WebSocket(settings.signaling);
    this.socket.onmessage = ({ data }) => this.session.inTurn(() => this.take(JSON.parse(data)));
    await new Promise((resolve) => (this.socket.onopen = resolve));
    this.say({
      type: "register",
      agent_id: this.identity.agent,
      public_key: hex(this.identity.public),
      epoch: this.epoch,
    });
    setInterval(() => {
      for (const peer of this.session.peers.values()) this.session.inTurn(() => peer.tick());
    }, 250);
  }

  say(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  relay(type, to, members) {
    this.say({ type, from: this.identity.agent, to, ...members });
  }

  async take(frame) {
    const connection = this.connections.get(frame.from);
    switch (frame.type) {
      case "challenge": {
        const texts = [frame.server_id, frame.nonce, this.identity.agent].map(utf8);
        const proof = statement("IFMESH-REG", ...texts, number(this.epoch, 8), utf8(hex(this.identity.public)));
        return this.say({ type: "proof", signature: hex(await this.identity.sign(proof)) });
      }
      case "registered":
        event({ event: "registered", agent: frame.agent_id });
        for (const { agent_id } of frame.agents) await this.met(agent_id);
        return;
      case "agent-joined":
        return this.met(frame.agent_id);
      case "offer": {
        const answering = new Connection(this, frame.from);
        this.connections.set(frame.from, answering);
        await answering.answer(frame);
        return event({ event: "answered", peer: frame.from });
      }
      case "answer":
        return connection?.accept(frame);
      case "ice-candidate":
        return connection?.candidate(frame.candidate);
      case "error":
        return event({ event: "error", error: frame });
    }
  }

  // The larger id offers. (Ids are ASCII, so the order of code units is that of bytes.)
  async met(peer) {
    if (!this.session.keys.has(peer) || this.identity.agent <= peer) return;
    const number = hex(crypto.getRandomValues(new Uint8Array(16)));
    const connection = new Connection(this, peer, number);
    this.connections.set(peer, connection);
    await connection.offer();
    event({ event: "offered", peer });
  }

  command({ do: verb, peer: name, messages, form, message }) {
    const peer = this.session.peer(name);
    return this.session.inTurn(() => {
      if (verb === "send") return peer.send(messages, form);
      if (verb === "forge") return peer.forge(message);
      if (verb === "repair") return peer.transmit(...peer.forged);
    });
  }
}

const agent = new Agent();
globalThis.start = (settings) => agent.start(settings);
globalThis.command = (command) => agent.command(command);
event({ event: "loaded", secure: isSecureContext });
