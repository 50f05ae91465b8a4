use super::super::output::tests::state;
use super::*;

fn agents(count: u16) -> Vec<Admin> {
    (1..=count).map(|port| Admin::new(([127, 0, 0, 1], port).into())).collect()
}

fn shown(answered: &[(Admin, Picked)], several: bool, format: Format) -> String {
    let mut out = Vec::new();
    write_answers(&mut out, answered, several, format, write_picked).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn exports_are_what_the_own_cluster_stands_in_for() {
    let Picked::Services(exports) = pick(state(), Listing::Exports) else { panic!("services") };
    assert_eq!(exports.len(), 1);
    assert_eq!(exports[0].name.as_str(), "mail");
    let Picked::Services(imports) = pick(state(), Listing::Imports) else { panic!("services") };
    assert_eq!(imports.len(), 2);
}

#[test]
fn one_agent_stands_alone_and_several_make_a_list() {
    let answered: Vec<_> =
        agents(2).into_iter().map(|agent| (agent, pick(state(), Listing::Peers))).collect();
    let one = shown(&answered[..1], false, Format::Json);
    assert!(one.starts_with("[\n  {\n    \"cluster\""), "{one}");
    let several = shown(&answered, true, Format::Json);
    assert!(several.starts_with("[\n  [\n    {\n"), "{several}");
    let table = shown(&answered, true, Format::Table);
    assert!(table.starts_with("== 127.0.0.1:1 ==\nPEER"), "{table}");
    assert!(table.contains("\n\n== 127.0.0.1:2 ==\n"), "{table}");
    assert_eq!(shown(&[], false, Format::Json), "", "nothing answered, nothing shown");
}

#[tokio::test]
async fn nobody_there_is_exit_three() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = Admin::new(listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(status(&[agent], Format::Table).await, Exit::Unreachable);
    assert_eq!(explain(&[agent], "web.shop", Format::Json).await, Exit::Unreachable);
}

#[test]
fn faults_map_to_the_documented_exits() {
    let address = ([127, 0, 0, 1], 1).into();
    let refused = |status| Error::Refused { address, status, text: String::new() };
    for (error, exit) in [
        (Error::Unreachable { address, reason: String::new() }, Exit::Unreachable),
        (Error::NotFound(String::new()), Exit::Wrong),
        (refused(400), Exit::Usage),
        (refused(503), Exit::Wrong),
        (Error::NotOurs { address, reason: String::new() }, Exit::Wrong),
    ] {
        assert_eq!(exit_of(&error), exit);
    }
    assert_eq!(
        [Exit::Good, Exit::Wrong, Exit::Usage, Exit::Unreachable].map(Exit::code),
        [0, 1, 2, 3]
    );
}
