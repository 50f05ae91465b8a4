use super::*;

pub(in crate::commands) fn state() -> StateJson {
    serde_json::from_value(serde_json::json!({
        "cluster": "paris", "clusterset": "clusterset.local", "version": "0.1.0", "revision": 7,
        "source": {"kind": "files", "synced": true, "ageSeconds": 0.2, "error": null},
        "peers": [
            {"cluster": "oregon", "state": "up", "rttMs": 20.25, "lossPercent": 0.0,
             "sessions": 1, "revision": 4, "lastError": null},
            {"cluster": "tokyo", "state": "down", "rttMs": null, "lossPercent": 100.0,
             "sessions": 0, "revision": 2, "lastError": "no answer\u{1b}[2J"},
        ],
        "services": [
            {"namespace": "shop", "name": "web", "type": "ClusterSetIP", "ips": ["127.64.0.1"],
             "ports": [{"port": 80, "protocol": "TCP"}], "dns": ["127.64.0.1"],
             "candidates": [
                {"cluster": "oregon", "rank": 1, "state": "up", "rttMs": 20.25, "weight": 100,
                 "usable": true, "reason": "nearest", "since": 42.4},
                {"cluster": "tokyo", "rank": 2, "state": "down", "rttMs": 110.0, "weight": 100,
                 "usable": false, "reason": "down", "since": 7300.0},
             ]},
            {"namespace": "shop", "name": "mail", "type": "Headless", "ips": [], "ports": [],
             "dns": [], "candidates": [
                {"cluster": "paris", "rank": 1, "state": "up", "rttMs": 0.0, "weight": 100,
                 "usable": false, "reason": "no_endpoint", "since": 1.0},
             ]},
        ],
    }))
    .unwrap()
}

fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_status_shows_the_agent_its_peers_and_what_is_wrong() {
    assert_eq!(
        written(|out| write_status(out, &state())),
        "\
cluster paris of clusterset.local
version 0.1.0, route table 7
source files, synced
services 2, of which 1 can be served

PEER    STATE  RTT      LOSS   SESSIONS  REVISION  LAST ERROR
oregon  up     20.2 ms  0 %    1         4         -
tokyo   down   -        100 %  0         2         no answer\\u{1b}[2J

wrong: peer tokyo is down and has no control session: no answer\\u{1b}[2J
"
    );
}

#[test]
fn a_well_state_has_no_troubles() {
    let mut state = state();
    state.peers.truncate(1);
    assert!(troubles(&state).is_empty());
    state.peers[0].state = PeerState::Draining;
    assert!(troubles(&state).is_empty(), "a drain is wanted");
    state.source.synced = false;
    state.source.error = Some("a.yaml:3: bad".to_owned());
    assert_eq!(troubles(&state).len(), 2);
    assert!(written(|out| write_status(out, &state)).contains("not synced, 0 s old: a.yaml:3"));
}

#[test]
fn routes_name_the_winner_the_reason_and_the_next() {
    assert_eq!(
        written(|out| write_routes(out, &state().services)),
        "\
SERVICE    ADDRESSES   PORTS   GOES TO  REASON   THEN
web.shop   127.64.0.1  80/TCP  oregon   nearest  -
mail.shop  -           -       nowhere  -        -
"
    );
}

#[test]
fn imports_name_who_exports() {
    assert_eq!(
        written(|out| write_services(out, &state().services)),
        "\
NAMESPACE  NAME  TYPE          ADDRESSES   PORTS   EXPORTED BY
shop       web   ClusterSetIP  127.64.0.1  80/TCP  oregon,tokyo
shop       mail  Headless      -           -       paris
"
    );
}

#[test]
fn an_explanation_shows_every_candidate_and_why_the_winner_won() {
    assert_eq!(
        written(|out| write_explained(out, &state().services[0])),
        "\
web.shop (ClusterSetIP)
addresses  127.64.0.1
ports      80/TCP
dns now    127.64.0.1

RANK  CLUSTER  STATE  RTT       WEIGHT  SHARE  USABLE  REASON   SINCE
1     oregon   up     20.2 ms   100     100 %  yes     nearest  42 s
2     tokyo    down   110.0 ms  100     100 %  no      down     2 h

a new connection goes to oregon because: it is the nearest that is healthy (20.2 ms)
"
    );
    let nobody = written(|out| write_explained(out, &state().services[1]));
    assert!(nobody.ends_with("a new connection is refused because: no candidate is usable\n"));
    assert!(nobody.contains("addresses  none\n"), "{nobody}");
}

#[test]
fn every_reason_has_words() {
    let candidate = &state().services[0].candidates[0];
    for reason in [
        "local",
        "nearest",
        "tie_locality",
        "pinned",
        "weighted",
        "fenced",
        "draining",
        "suspect",
        "down",
        "no_endpoint",
        "port_not_exported",
        "not_allowed",
        "last_resort",
    ] {
        let reason = serde_json::from_value(reason.into()).unwrap();
        assert!(because(&CandidateJson { reason, ..candidate.clone() }).len() > 10);
    }
}

#[test]
fn data_is_the_agents_own_json_and_the_same_in_yaml() {
    let json = written(|out| write_data(out, Format::Json, &state()));
    assert_eq!(serde_json::from_str::<StateJson>(&json).unwrap(), state());
    let yaml = written(|out| write_data(out, Format::Yaml, &state()));
    assert!(yaml.starts_with("cluster: paris\n"), "{yaml}");
    assert_eq!(serde_saphyr::from_str::<StateJson>(&yaml).unwrap(), state());
}

#[test]
fn ages_are_said_as_people_say_them() {
    for (seconds, text) in
        [(0.4, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (172_800.0, "2 d")]
    {
        assert_eq!(age(seconds), text);
    }
}
