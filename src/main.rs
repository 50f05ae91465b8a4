//! Portolan: one binary for every role of a cluster.

use std::process::ExitCode;

use clap::Parser as _;
use portolan::admin::order::DrainAsk;
use portolan::args::{AskArgs, Cli, Command, DemoArgs, DemoFormat, TrustCommand, ZoneCommand, pod};
use portolan::commands::client::Admin;
use portolan::commands::{Exit, ask, check, complain, drain, run, trust, zone};
use portolan::config::Config;
use portolan::demo;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are good; a reader that went away is
            // no reason to fail.
            let _unread = error.print();
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Good };
            return exit.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format_args!("cannot start: {error}; raise the limits of this user"));
            return Exit::Wrong.into();
        }
    };
    let exit = runtime.block_on(dispatch(cli.command));
    // A read of a file system that hangs must not keep the process from its end.
    runtime.shutdown_background();
    exit.into()
}

async fn dispatch(command: Command) -> Exit {
    match command {
        Command::Run(args) => match pod() {
            Ok(pod) => run::run(&args.config, &pod).await,
            Err(error) => {
                complain(&error);
                Exit::Usage
            }
        },
        Command::Demo(args) => demo(args).await,
        Command::Check(args) => match &args.config {
            Some(path) => check::offline(path, args.output).await,
            None => match agents(&args) {
                Ok(agents) => ask::check(&agents, args.output).await,
                Err(exit) => exit,
            },
        },
        Command::Status(args) => match agents(&args) {
            Ok(agents) => ask::status(&agents, args.output).await,
            Err(exit) => exit,
        },
        Command::Explain(args) => match agents(&args.ask) {
            Ok(agents) => ask::explain(&agents, &args.name, args.ask.output).await,
            Err(exit) => exit,
        },
        Command::Drain(args) => {
            let over = args.over.map(|time| humantime::format_duration(time).to_string());
            let order = DrainAsk { name: args.name, over, undo: args.undo };
            let stay = if args.wait { drain::Stay::UntilDone } else { drain::Stay::IfWatched };
            match agents(&args.ask) {
                Ok(agents) => drain::drain(&agents, &order, stay, args.ask.output).await,
                Err(exit) => exit,
            }
        }
        Command::Get(args) => match agents(&args.ask) {
            Ok(agents) => ask::get(&agents, args.listing, args.ask.output).await,
            Err(exit) => exit,
        },
        Command::Zone(ZoneCommand::Dump(args)) => {
            let configured = args.config.as_deref().map(load).transpose();
            match configured.map(|config| args.agent(config.map(|config| config.admin.listen))) {
                Ok(agent) => zone::dump(Admin::new(agent), args.output).await,
                Err(exit) => exit,
            }
        }
        Command::Trust(TrustCommand::Init(args)) => {
            trust::init(&args.out, &args.cluster, &args.clusterset)
        }
        Command::Trust(TrustCommand::Show(args)) => {
            let dir = match (args.dir, args.config) {
                (Some(dir), _) => Ok(dir),
                (None, Some(path)) => {
                    load(&path).and_then(|config| config.trust_dir.ok_or_else(no_folder))
                }
                (None, None) => Err(Exit::Usage),
            };
            dir.map_or_else(|exit| exit, |dir| trust::show(&dir, args.output))
        }
    }
}

/// The identity is in a Secret alone.
fn no_folder() -> Exit {
    complain(&"the configuration names no trust.dir; read the Secret, or name a folder with --dir");
    Exit::Usage
}

/// Whom a command asks.
fn agents(args: &AskArgs) -> Result<Vec<Admin>, Exit> {
    let configured = args.config.as_deref().map(load).transpose()?;
    let addresses = args.agents(configured.map(|config| config.admin.listen));
    Ok(addresses.into_iter().map(Admin::new).collect())
}

fn load(path: &std::path::Path) -> Result<Config, Exit> {
    Config::load(path).map_err(|errors| {
        complain(&errors);
        Exit::Usage
    })
}

async fn demo(args: DemoArgs) -> Exit {
    let output = match args.output {
        DemoFormat::Text => demo::Output::Text,
        DemoFormat::Json => demo::Output::Json,
    };
    match demo::run(demo::Options { once: args.once, output, keep: args.keep }).await {
        Ok(true) => Exit::Good,
        Ok(false) => Exit::Wrong,
        Err(error) => {
            complain(&format_args!("{error:#}"));
            Exit::Wrong
        }
    }
}
