//! The witness commands, run as a user runs them, over the logs of a real demo.
//!
//! Falsified by a command whose exit code, output or verdict is another than documented; by a tampered log that verifies; by a
//! payload or a key in a log.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use common::{Running, code, ifmesh, run, stderr, stdout};
use ifmesh::{AgentId, Destination, Draft, Identity, Timestamp};
use ifmsg::{
    MessageId, Permissions, Stamp, TrustDocument, TrustPolicy, TrustStore, UnsignedMessage, canonical::Limits,
};
use serde_json::Value;

/// In every payload of the input below, and so in no log.
const MARKER: &str = "marker-7f3a-not-for-the-log";

fn input(folder: &Path) -> PathBuf {
    let path = folder.join("messages.ndjson");
    let mut text = String::new();
    for round in 0..5 {
        for (from, to) in [("ann", "bob"), ("bob", "ann"), ("bob", "cat"), ("cat", "*")] {
            let line = serde_json::json!({
                "source": from, "destination": to, "conversation_id": format!("talk-{round}"),
                "performative": "inform", "payload": { "text": MARKER, "round": round },
            });
            text.push_str(&format!("{line}\n"));
        }
    }
    fs::write(&path, text).unwrap();
    path
}

/// The logs of one demo, made once; tests that change them work on a copy.
fn logs() -> &'static Path {
    static LOGS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = LOGS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (input, logs) = (input(folder.path()), folder.path().join("logs"));
        let output = run(&[
            "demo",
            "--transport",
            "mem",
            "--json",
            "--input",
            input.to_str().unwrap(),
            "--witness",
            logs.to_str().unwrap(),
        ]);
        assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
        let account: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let witness = &account["witness"];
        assert_eq!((&witness["logs"], &witness["verified"]), (&3.into(), &3.into()));
        // Of the four messages of a round, one goes to two.
        assert_eq!((&witness["sent"], &witness["matched"]), (&25.into(), &25.into()));
        assert_eq!(witness["missing"], 0);
        folder
    });
    Box::leak(folder.path().join("logs").into_boxed_path())
}

fn copied() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(logs(), folder.path());
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn witness(arguments: &[&str]) -> std::process::Output {
    run(&[&["witness"], arguments].concat())
}

fn json_lines(output: &std::process::Output) -> Vec<Value> {
    stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn change(dir: &Path, act: impl FnOnce(&mut Vec<String>)) {
    let path = dir.join("00000000.jsonl");
    let mut lines: Vec<String> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    act(&mut lines);
    fs::write(
        &path,
        lines.iter().map(|line| format!("{line}\n")).collect::<String>(),
    )
    .unwrap();
}

#[test]
fn verify_says_what_is_right_and_names_what_is_wrong() {
    let output = witness(&["verify", text(logs()), "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let all = json_lines(&output);
    let agents: Vec<&str> = all.iter().map(|log| log["agent"].as_str().unwrap()).collect();
    assert_eq!(agents, ["ann", "bob", "cat"]);
    assert!(
        all.iter()
            .all(|log| log["verified"] == true && log["unsigned_lines"] == 0)
    );
    assert!(stdout(&witness(&["verify", text(logs())])).contains("all as signed"));

    type Tamper = fn(&mut Vec<String>);
    let matrix: &[(&str, Tamper, u64, &str)] = &[
        ("deleted", |lines| drop(lines.remove(4)), 5, "lines were removed"),
        (
            "swapped",
            |lines| lines.swap(3, 5),
            4,
            "lines were removed, repeated, inserted or moved",
        ),
        (
            "repeated",
            |lines| lines.insert(3, lines[2].clone()),
            4,
            "repeated",
        ),
        (
            "edited",
            |lines| lines[2] = lines[2].replacen("Z\"", "Y\"", 1),
            3,
            "timestamp",
        ),
        (
            "cut",
            |lines| drop(lines.pop()),
            0,
            "shorter than its own checkpoint",
        ),
    ];
    for (what, tamper, line, reason) in matrix {
        let folder = copied();
        let dir = folder.path().join("bob");
        let lines = fs::read_to_string(dir.join("00000000.jsonl"))
            .unwrap()
            .lines()
            .count() as u64;
        change(&dir, tamper);
        let output = witness(&["verify", text(&dir), "--json"]);
        assert_eq!(code(&output), 1, "{what}: {}", stdout(&output));
        let found = &json_lines(&output)[0];
        let line = if *line == 0 { lines } else { *line };
        assert_eq!(
            (&found["verified"], &found["line"]),
            (&false.into(), &line.into()),
            "{what}: {found}"
        );
        assert!(
            found["reason"].as_str().unwrap().contains(reason),
            "{what}: {found}"
        );
        let output = witness(&["verify", text(folder.path())]);
        assert_eq!(code(&output), 1);
        assert!(
            stdout(&output).contains("bob: NOT as signed"),
            "{}",
            stdout(&output)
        );
    }
    assert_eq!(code(&witness(&["verify", "/nowhere/at/all"])), 2);
    assert_eq!(
        code(&witness(&["verify", text(logs()), "--trust", "/nowhere"])),
        2
    );
    // Another key than the owner's.
    let stranger = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let output = witness(&["verify", text(&logs().join("ann")), "--key", stranger]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(
        stdout(&output).contains("signed with no key of this log"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_checkpoint_that_somebody_holds_shows_a_cut_that_the_files_alone_do_not() {
    let folder = copied();
    let dir = folder.path().join("ann");
    let notes = fs::read_to_string(dir.join("00000000.checkpoints")).unwrap();
    let notes: Vec<String> = notes
        .lines()
        .collect::<Vec<_>>()
        .chunks(5)
        .map(|note| note.join("\n") + "\n")
        .collect();
    let held = folder.path().join("held.note");
    fs::write(&held, notes.last().unwrap()).unwrap();
    let arguments = ["verify", text(&dir), "--checkpoint", text(&held)];
    assert_eq!(code(&witness(&arguments)), 0);
    // All but what the first checkpoint covers goes, checkpoints as well.
    let size: usize = notes[0].lines().nth(1).unwrap().parse().unwrap();
    change(&dir, |lines| lines.truncate(size));
    fs::write(dir.join("00000000.checkpoints"), &notes[0]).unwrap();
    assert_eq!(code(&witness(&["verify", text(&dir)])), 0);
    let output = witness(&arguments);
    assert_eq!(code(&output), 1);
    assert!(stdout(&output).contains("its end was cut"), "{}", stdout(&output));
}

#[test]
fn what_the_other_logs_in_the_folder_hold_is_compared_and_evidence_is_judged() {
    let folder = copied();
    let dir = folder.path().join("ann");
    let text_of = || stdout(&witness(&["verify", text(folder.path())]));
    // Of a log of eve's, of so many lines.
    let note = |lines: u64, transport: &str| {
        let (dir, now) = (
            tempfile::tempdir().unwrap(),
            ifmesh::Timestamp::from_unix_millis(0),
        );
        let settings = ifmesh_witness::Settings::new(dir.path(), "eve".try_into().unwrap());
        let identity = ifmsg::Identity::from_seed(&[3; 32]);
        let (mut log, _) = ifmesh_witness::Log::open(settings, identity, now).unwrap();
        for _ in 1..lines {
            let entry = ifmesh_witness::Entry::new(ifmesh_witness::Event::IfmessageSent);
            log.append(now, &entry.transport(transport)).unwrap();
        }
        log.checkpoint().unwrap().note().to_owned()
    };
    // Bob holds the last checkpoint of ann's log, in whatever file.
    let notes = fs::read_to_string(dir.join("00000000.checkpoints")).unwrap();
    let notes: Vec<&str> = notes.split_inclusive('\n').collect();
    let (first, last) = (notes[..5].concat(), notes[notes.len() - 5..].concat());
    fs::create_dir_all(folder.path().join("bob/peers")).unwrap();
    fs::write(folder.path().join("bob/peers/held.note"), last).unwrap();
    assert_eq!(
        code(&witness(&["verify", text(folder.path())])),
        0,
        "{}",
        text_of()
    );
    let size: usize = first.lines().nth(1).unwrap().parse().unwrap();
    change(&dir, |lines| lines.truncate(size));
    fs::write(dir.join("00000000.checkpoints"), &first).unwrap();
    fs::remove_file(dir.join("peers/cosigned")).ok();
    assert_eq!(
        code(&witness(&["verify", text(&dir)])),
        0,
        "ann's files alone do not show it"
    );
    assert_eq!(code(&witness(&["verify", text(folder.path())])), 1);
    assert!(text_of().contains("its end was cut (by bob)"), "{}", text_of());

    // Evidence: proof in itself, somebody's word, and nothing at all.
    let folder = copied();
    let file = folder.path().join("bob/peers/eve.forked");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let trust = folder.path().join("trust.toml");
    let key = ifmsg::Identity::from_seed(&[3; 32]).public_key().to_hex();
    let bound = fs::read_to_string(&trust).unwrap();
    let entry = format!("\n[agents.eve]\nkey = \"{key}\"\n");
    for (shown, known, exit, verdict) in [
        (note(9, "other"), true, 1, "PROOF against the log of eve"),
        (note(5, "other"), true, 1, "EVIDENCE against the log of eve"),
        (note(9, "one"), true, 0, "void"),
        ("nonsense".to_owned(), true, 0, "void"),
        (note(9, "other"), false, 1, "its key is not known"),
    ] {
        let evidence = serde_json::json!({
            "agent": "eve", "reason": "two-roots", "held": note(9, "one"), "shown": shown,
        });
        fs::write(&file, evidence.to_string()).unwrap();
        fs::write(
            &trust,
            if known {
                format!("{bound}{entry}")
            } else {
                bound.clone()
            },
        )
        .unwrap();
        let output = witness(&["verify", text(folder.path())]);
        assert_eq!(
            code(&output),
            exit,
            "{verdict}: {}{}",
            stdout(&output),
            stderr(&output)
        );
        assert!(
            stdout(&output).contains(verdict),
            "{verdict}: {}",
            stdout(&output)
        );
    }
}

#[test]
fn show_filters_and_shows_neither_payload_nor_key() {
    let dir = logs().join("bob");
    let all = json_lines(&witness(&["show", text(&dir), "--json"]));
    assert_eq!(all[0]["event"], "log_opened");
    assert_eq!(all.last().unwrap()["event"], "log_closed");
    let count = |arguments: &[&str]| {
        let output = witness(&[&["show", text(&dir), "--json"], arguments].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        json_lines(&output).len()
    };
    assert_eq!(count(&["--event", "ifmessage_received"]), 10);
    assert_eq!(count(&["--event", "ifmessage_received", "--peer", "cat"]), 5);
    // Two sent, two acknowledged, two received.
    assert_eq!(count(&["--conversation", "talk-3"]), 6);
    assert_eq!(count(&["--before", "2020-01-01T00:00:00.000Z"]), 0);
    assert_eq!(count(&["--after", "2020-01-01T00:00:00.000Z"]), all.len());
    let trace = all
        .iter()
        .find(|record| record["event"] == "ifmessage_sent")
        .unwrap()["trace_id"]
        .clone();
    assert_eq!(count(&["--trace", trace.as_str().unwrap()]), 2);
    assert_eq!(code(&witness(&["show", text(&dir), "--event", "nonsense"])), 2);
    assert!(stdout(&witness(&["show", text(&dir)])).contains("ifmessage_sent"));

    for entry in ["ann", "bob", "cat"].map(|name| logs().join(name)) {
        for file in ["00000000.jsonl", "00000000.checkpoints"] {
            let content = fs::read_to_string(entry.join(file)).unwrap();
            assert!(
                !content.contains(MARKER) && !content.contains("PRIVATE"),
                "{file}"
            );
        }
    }
}

#[test]
fn show_follows_a_log_as_it_grows() {
    let folder = copied();
    let dir = folder.path().join("cat");
    let path = dir.join("00000000.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let (first, rest) = whole.split_at(whole.find('\n').unwrap() + 1);
    fs::write(&path, first).unwrap();
    let follow = Running::start(ifmesh().args(["witness", "show", text(&dir), "--json", "--follow"]));
    assert!(follow.line().contains("log_opened"));
    // Half a line is not shown until it is whole.
    let (part, end) = rest.split_at(40);
    fs::write(&path, format!("{first}{part}")).unwrap();
    fs::write(&path, format!("{first}{part}{end}")).unwrap();
    for line in rest.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        match record["messages"].as_array() {
            None => assert_eq!(follow.line(), line),
            // One record for each.
            Some(messages) => {
                for message in messages {
                    let shown: Value = serde_json::from_str(&follow.line()).unwrap();
                    assert_eq!((&shown["seq"], &shown["digest"]), (&record["seq"], &message[0]));
                }
            }
        }
    }
    follow.signal("INT");
    assert_eq!(follow.rest().1, 0);
}

#[test]
fn a_proof_stands_alone_and_only_for_its_own_message() {
    let (dir, trust) = (logs().join("ann"), logs().join("trust.toml"));
    let first_sent = |dir: &Path| {
        let output = witness(&["show", text(dir), "--json", "--event", "ifmessage_sent"]);
        json_lines(&output)[0]["digest"].as_str().unwrap().to_owned()
    };
    let (digest, other) = (first_sent(&dir), first_sent(&logs().join("bob")));
    let (digest, other) = (digest.as_str(), other.as_str());
    let folder = tempfile::tempdir().unwrap();
    let proof = folder.path().join("proof.json");
    let made = witness(&["prove", text(&dir), "--digest", digest, "--out", text(&proof)]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let check = |arguments: &[&str]| witness(&[&["check-proof", text(&proof)], arguments].concat());
    let output = check(&["--trust", text(&trust), "--digest", digest]);
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("proved: ann recorded"));
    let output = check(&["--trust", text(&trust), "--json"]);
    assert_eq!(json_lines(&output)[0]["event"], "ifmessage_sent");
    // Another message; another key; no key; another line.
    assert_eq!(code(&check(&["--trust", text(&trust), "--digest", other])), 1);
    let stranger = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(code(&check(&["--key", stranger])), 1);
    assert_eq!(code(&check(&[])), 2);
    let content = fs::read_to_string(&proof).unwrap();
    assert!(!content.contains(MARKER));
    for (from, to) in [
        (digest, other),
        ("\"index\":", "\"index\":1"),
        ("ifmessage_sent", "ifmessage_received"),
    ] {
        fs::write(&proof, content.replace(from, to)).unwrap();
        assert_eq!(code(&check(&["--trust", text(&trust)])), 1, "{from}");
    }
    let unknown = "00".repeat(32);
    assert_eq!(code(&witness(&["prove", text(&dir), "--digest", &unknown])), 1);
    let acknowledged = ["--event", "ifmessage_acknowledged"];
    let made = witness(&[&["prove", text(&dir), "--digest", digest], &acknowledged[..]].concat());
    assert_eq!(code(&made), 0, "{}", stderr(&made));
}

#[test]
fn a_message_itself_names_what_is_to_be_proved() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, _) = common::swarm(folder.path(), "ann,bob");
    let mut ann = common::agent(folder.path(), "ann");
    let bob = common::agent(folder.path(), "bob");
    ann.event("peer-up");
    ann.say(&format!(r#"{{"to":"bob","payload":{{"text":"{MARKER}"}}}}"#));
    let message = bob.event("message")["message"].to_string();
    ann.event("acknowledged");
    assert_eq!((ann.rest().1, bob.rest().1), (0, 0));
    // What the original contract names, and every transport event between the two.
    let mut events = BTreeSet::new();
    for name in ["ann", "bob"] {
        let dir = folder.path().join("state").join(name).join("witness");
        for record in json_lines(&witness(&["show", text(&dir), "--json"])) {
            let event = record["event"].as_str().unwrap().to_owned();
            let describes = event == "webrtc_offer_created" || event == "webrtc_answer_created";
            assert_eq!(record.get("sdp_hash").is_some(), describes, "{record}");
            events.insert(event);
        }
    }
    for event in [
        "signaling_connected",
        "webrtc_offer_created",
        "webrtc_answer_created",
        "ice_candidate_sent",
        "datachannel_open",
        "ifmessage_sent",
        "ifmessage_received",
        "peer_disconnected",
    ] {
        assert!(events.contains(event), "{event} is not among {events:?}");
    }
    let (file, trust) = (
        folder.path().join("message.json"),
        folder.path().join("trust.toml"),
    );
    fs::write(&file, message).unwrap();
    for name in ["ann", "bob"] {
        let dir = folder.path().join("state").join(name).join("witness");
        let made = witness(&[
            "prove",
            text(&dir),
            "--trust",
            text(&trust),
            "--message",
            text(&file),
        ]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        let proof = folder.path().join("proof.json");
        fs::write(&proof, stdout(&made)).unwrap();
        let checked = witness(&[
            "check-proof",
            text(&proof),
            "--trust",
            text(&trust),
            "--message",
            text(&file),
        ]);
        assert_eq!(code(&checked), 0, "{}", stdout(&checked));
    }
}

#[test]
fn trace_tells_one_story_and_what_is_missing_of_it() {
    let output = witness(&["trace", "talk-2", text(logs()), "--json"]);
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    let story = json_lines(&output);
    let place = |agent: &str, event: &str, digest: &Value| {
        story
            .iter()
            .position(|record| {
                record["agent"] == agent && record["event"] == event && record["digest"] == *digest
            })
            .unwrap()
    };
    let sent = story
        .iter()
        .find(|record| record["agent"] == "ann" && record["event"] == "ifmessage_sent")
        .unwrap();
    let digest = &sent["digest"];
    assert!(place("ann", "ifmessage_sent", digest) < place("bob", "ifmessage_received", digest));
    assert!(place("bob", "ifmessage_received", digest) < place("ann", "ifmessage_acknowledged", digest));
    // Five passages of four messages: sent, received, acknowledged.
    assert_eq!(story.len(), 15);
    // Without bob's log, everything with bob has one side only.
    let output = witness(&[
        "trace",
        "talk-2",
        text(&logs().join("ann")),
        text(&logs().join("cat")),
    ]);
    assert_eq!(code(&output), 1);
    assert!(
        stdout(&output).contains("there is no log of bob here"),
        "{}",
        stdout(&output)
    );
    assert_eq!(code(&witness(&["trace", "no-such-talk", text(logs())])), 1);
}

/// Logs of ann and bob in which one line tells of six messages, three of each of two conversations; bob's lacks `missing`.
fn joined_logs(missing: Option<usize>) -> (tempfile::TempDir, Vec<String>) {
    use ifmesh_witness::{Entry, Event, Log, Mention, Metadata, Settings};

    let folder = tempfile::tempdir().unwrap();
    let id = |name: &str| AgentId::new(name).unwrap();
    let identity = |name: &str| Identity::from_seed(&[name.as_bytes()[0]; 32]);
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for name in ["ann", "bob"] {
        let key = *identity(name).public_key();
        trust.bind(id(name), key, Permissions::ALL).unwrap();
    }
    let document = toml::to_string(&TrustDocument::from(&trust)).unwrap();
    fs::write(folder.path().join("trust.toml"), document).unwrap();
    let now = Timestamp::from_unix_millis(1_795_356_600_000);
    let messages: Vec<UnsignedMessage> = (0..6)
        .map(|number| {
            let talk = MessageId::new(format!("talk-{}", number % 2)).unwrap();
            let stamp = Stamp {
                id: MessageId::of_numbers(1, number),
                source: id("ann"),
                timestamp: now,
                epoch: 1,
                sequence: 1 + number,
            };
            let draft =
                Draft::new(Destination::new("bob").unwrap(), serde_json::json!({})).conversation(talk);
            draft.stamp(stamp, &Limits::default()).unwrap()
        })
        .collect();
    let together = |event: Event, peer: &str, missing: Option<usize>| {
        let all = (0..).zip(&messages).filter(|(at, _)| Some(*at) != missing);
        let mut about = all.map(|(_, message)| (message.header(), message.digest()));
        let (header, digest) = about.next().unwrap();
        let mut entry = Entry::new(event)
            .peer(id(peer))
            .message(Mention::of(header, digest));
        for message in about {
            assert!(entry.also(event, &id(peer), None, &Metadata::default(), message));
        }
        entry
    };
    let write = |name: &str, entries: &[Entry]| {
        let settings = Settings::new(folder.path().join(name), id(name));
        let (mut log, _) = Log::open(settings, identity(name), now).unwrap();
        for entry in entries {
            log.append(now, entry).unwrap();
        }
        log.close(now).unwrap();
    };
    let sent = together(Event::IfmessageSent, "bob", None);
    write(
        "ann",
        &[sent, together(Event::IfmessageAcknowledged, "bob", missing)],
    );
    write("bob", &[together(Event::IfmessageReceived, "ann", missing)]);
    let digests = messages.iter().map(|message| message.digest().to_hex());
    (folder, digests.collect())
}

/// Falsified by a command to which a line that is about several messages says less than lines about each.
#[test]
fn several_messages_in_one_line_are_shown_proved_and_traced_one_by_one() {
    let (folder, digests) = joined_logs(None);
    let (logs, ann) = (text(folder.path()), folder.path().join("ann"));
    assert_eq!(code(&witness(&["verify", logs])), 0);

    let shown = stdout(&witness(&["show", text(&ann), "--conversation", "talk-1"]));
    let odd = |at: &usize| at % 2 == 1;
    for (at, digest) in digests.iter().enumerate() {
        assert_eq!(
            shown.matches(digest.as_str()).count(),
            if odd(&at) { 2 } else { 0 },
            "{shown}"
        );
    }
    let json = |of: &[&str]| json_lines(&witness(&[&["show", text(&ann), "--json"], of].concat()));
    let sent = json(&["--conversation", "talk-1", "--event", "ifmessage_sent"]);
    let all = json(&["--event", "ifmessage_sent"]);
    assert_eq!((sent.len(), all.len()), (3, 6));
    assert_eq!(sent[1], all[3]);
    assert_eq!(
        (&sent[1]["digest"], &sent[1]["seq"]),
        (&digests[3].clone().into(), &1.into())
    );
    let named = serde_json::json!({ "conversation": "talk-1", "message_id": "1-3" });
    assert_eq!(sent[1]["metadata"], named);
    let trace = sent[1]["trace_id"].as_str().unwrap();
    assert_eq!(json(&["--trace", trace]).len(), 2, "sent and acknowledged");

    let output = witness(&["trace", "talk-1", logs, "--json"]);
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    let story = json_lines(&output);
    assert_eq!(story.len(), 9);
    for digest in (0..6).filter(odd).map(|at| &digests[at]) {
        let about = story.iter().filter(|record| record["digest"] == **digest);
        let events: Vec<_> = about.map(|record| record["event"].as_str().unwrap()).collect();
        assert_eq!(
            events,
            ["ifmessage_sent", "ifmessage_received", "ifmessage_acknowledged"]
        );
    }

    let proof = folder.path().join("proof.json");
    let trust = folder.path().join("trust.toml");
    for digest in &digests {
        let made = witness(&["prove", text(&ann), "--digest", digest, "--out", text(&proof)]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        let of = |arguments: &[&str]| {
            let all = [
                &["check-proof", text(&proof), "--trust", text(&trust), "--json"],
                arguments,
            ]
            .concat();
            let output = witness(&all);
            assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
            let proved = json_lines(&output);
            proved
                .iter()
                .map(|proved| proved["digest"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&["--digest", digest]), [digest.as_str()]);
        // Asked for none, it says what it proves.
        assert_eq!(of(&[]), digests);
    }
    let unknown = "00".repeat(32);
    assert_eq!(
        code(&witness(&[
            "check-proof",
            text(&proof),
            "--trust",
            text(&trust),
            "--digest",
            &unknown
        ])),
        1
    );
}

/// Falsified by a message that is missing from a line with others, and is not missed.
#[test]
fn one_message_that_is_missing_from_a_line_with_others_is_missed() {
    let (folder, digests) = joined_logs(Some(3));
    let output = witness(&["trace", "talk-1", text(folder.path())]);
    assert_eq!(code(&output), 1);
    let missing: Vec<String> = stdout(&output)
        .lines()
        .filter(|line| line.starts_with("MISSING"))
        .map(str::to_owned)
        .collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(
        missing[0].contains(&digests[3]) && missing[0].contains("did not receive it"),
        "{missing:?}"
    );
    assert_eq!(code(&witness(&["trace", "talk-0", text(folder.path())])), 0);
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in ["verify", "show", "prove", "check-proof", "trace"] {
        let output = witness(&[command, "--help"]);
        assert_eq!(code(&output), 0);
        let text = stdout(&output);
        let example = format!("ifmesh witness {command}");
        assert!(
            text.contains("Example") && text.contains(&example) && text.contains("Exit codes"),
            "{text}"
        );
    }
}

/// A demo never writes over logs, and says so before it starts anything.
#[test]
fn a_folder_that_is_not_empty_is_refused() {
    let output = run(&["demo", "--transport", "mem", "--witness", text(logs())]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("not empty"), "{}", stderr(&output));
}
