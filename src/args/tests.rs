use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Command, ErrorKind> {
    let words = std::iter::once("portolan").chain(line.split_whitespace());
    Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.kind())
}

fn ask(admin: &[&str], output: Format) -> AskArgs {
    let admin = admin.iter().map(|address| address.parse().unwrap()).collect();
    AskArgs { admin, config: None, output }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_line_is_understood() {
    let table = [
        ("run --config p.yaml", Command::Run(RunArgs { config: "p.yaml".into() })),
        ("demo", Command::Demo(DemoArgs { once: false, output: DemoFormat::Text, keep: None })),
        (
            "demo --once -o json --keep d",
            Command::Demo(DemoArgs {
                once: true,
                output: DemoFormat::Json,
                keep: Some("d".into()),
            }),
        ),
        ("check", Command::Check(ask(&[], Format::Table))),
        (
            "check --config p.yaml -o json",
            Command::Check(AskArgs { config: Some("p.yaml".into()), ..ask(&[], Format::Json) }),
        ),
        (
            "status --admin 127.0.1.1:9900 --admin [::1]:9900 -o yaml",
            Command::Status(ask(&["127.0.1.1:9900", "[::1]:9900"], Format::Yaml)),
        ),
        (
            "explain web.shop:80",
            Command::Explain(ExplainArgs {
                name: "web.shop:80".into(),
                ask: ask(&[], Format::Table),
            }),
        ),
        (
            "drain oregon --over 10m --admin 127.0.1.1:9900",
            Command::Drain(DrainArgs {
                name: "oregon".into(),
                over: Some(Duration::from_mins(10)),
                undo: false,
                wait: false,
                ask: ask(&["127.0.1.1:9900"], Format::Table),
            }),
        ),
        (
            "drain web.shop --undo -o json",
            Command::Drain(DrainArgs {
                name: "web.shop".into(),
                over: None,
                undo: true,
                wait: false,
                ask: ask(&[], Format::Json),
            }),
        ),
        (
            "get exports --output json",
            Command::Get(GetArgs { listing: Listing::Exports, ask: ask(&[], Format::Json) }),
        ),
        (
            "trust init --cluster paris --out t",
            Command::Trust(TrustCommand::Init(TrustInitArgs {
                cluster: ClusterId::parse("paris").unwrap(),
                out: "t".into(),
                clusterset: DnsName::parse("clusterset.local").unwrap(),
            })),
        ),
        (
            "trust show --dir t",
            Command::Trust(TrustCommand::Show(TrustShowArgs {
                dir: Some("t".into()),
                config: None,
                output: Format::Table,
            })),
        ),
    ];
    for (line, command) in table {
        assert_eq!(parse(line), Ok(command), "{line}");
    }
    for listing in ["routes", "peers", "exports", "imports"] {
        assert!(parse(&format!("get {listing}")).is_ok(), "{listing}");
    }
}

#[test]
fn zone_dump_asks_one_agent() {
    let dump = |admin: Option<&str>, output| {
        let admin = admin.map(|address| address.parse().unwrap());
        Ok(Command::Zone(ZoneCommand::Dump(ZoneDumpArgs { admin, config: None, output })))
    };
    assert_eq!(parse("zone dump"), dump(None, ZoneFormat::Zone));
    let line = "zone dump --admin 127.0.1.1:9900 -o json";
    assert_eq!(parse(line), dump(Some("127.0.1.1:9900"), ZoneFormat::Json));
}

#[test]
fn wrong_lines_are_usage_errors() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("run", ErrorKind::MissingRequiredArgument),
        ("fly", ErrorKind::InvalidSubcommand),
        ("get events", ErrorKind::InvalidValue),
        ("status --admin 9900", ErrorKind::ValueValidation),
        ("status --admin 127.0.0.1:1 --config f", ErrorKind::ArgumentConflict),
        ("status -o xml", ErrorKind::InvalidValue),
        ("zone", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("zone dump -o table", ErrorKind::InvalidValue),
        ("zone dump --admin 127.0.0.1:1 --config f", ErrorKind::ArgumentConflict),
        ("trust init --cluster Paris --out t", ErrorKind::ValueValidation),
        ("trust show", ErrorKind::MissingRequiredArgument),
    ] {
        assert_eq!(parse(line), Err(kind), "{line}");
        let words = std::iter::once("portolan").chain(line.split_whitespace());
        let error = Cli::try_parse_from(words).unwrap_err();
        assert!(error.use_stderr() && error.exit_code() == 2, "{line}");
    }
}

#[test]
fn the_version_names_the_protocols() {
    let error = Cli::try_parse_from(["portolan", "--version"]).unwrap_err();
    assert!(!error.use_stderr());
    let text = error.to_string();
    assert!(text.starts_with(concat!("portolan ", env!("CARGO_PKG_VERSION"), " (git ")), "{text}");
    assert!(text.contains("protocol 1 to "), "{text}");
}

#[test]
fn the_help_of_every_command_has_an_example() {
    fn visit(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        let children: Vec<_> = command.get_subcommands().collect();
        if children.is_empty() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("  portolan "), "{path}");
        }
        for child in children {
            visit(child, &path);
        }
    }
    visit(&Cli::command(), "");
}

#[test]
fn the_agent_is_the_one_named_then_the_configured_then_the_default() {
    let configured = Some("127.0.1.1:9900".parse().unwrap());
    let named = ask(&["127.0.0.9:1"], Format::Table);
    assert_eq!(named.agents(configured), ["127.0.0.9:1".parse().unwrap()]);
    let none = ask(&[], Format::Table);
    assert_eq!(none.agents(configured), ["127.0.1.1:9900".parse().unwrap()]);
    assert_eq!(none.agents(None), ["127.0.0.1:9900".parse().unwrap()]);
    let dump = |admin| ZoneDumpArgs { admin, config: None, output: ZoneFormat::Zone };
    assert_eq!(dump(named.admin.first().copied()).agent(configured), named.admin[0]);
    assert_eq!(Some(dump(None).agent(configured)), configured);
    assert_eq!(dump(None).agent(None), none.agents(None)[0]);
}
