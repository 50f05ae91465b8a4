//! `status`, `explain`, `get` and `check` without a file: what running agents say.

use std::io::{self, Write};

use serde::Serialize;

use super::client::{Admin, Error};
use super::output::{self, Format};
use super::{Exit, complain, print};
use crate::admin::json::{ServiceJson, StateJson};

/// What `get` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Listing {
    /// Every name, and where a new connection to it goes.
    Routes,
    /// The other clusters and how they are.
    Peers,
    /// What this cluster exports.
    Exports,
    /// Every name of the cluster set, and who exports it.
    Imports,
}

/// `portolan status`: exit 1 when something is wrong with an agent.
pub async fn status(agents: &[Admin], format: Format) -> Exit {
    let answers = each(agents, |agent| async move { agent.state().await }).await;
    show(answers, format, output::write_status, |state| output::troubles(state).is_empty())
}

/// `portolan explain NAME`: exit 1 when no candidate is usable.
pub async fn explain(agents: &[Admin], name: &str, format: Format) -> Exit {
    let answers = each(agents, |agent| async move { agent.explain(name).await }).await;
    show(answers, format, output::write_explained, output::serves)
}

/// `portolan get …`.
pub async fn get(agents: &[Admin], listing: Listing, format: Format) -> Exit {
    let answers = each(agents, |agent| async move { agent.state().await }).await;
    let answers =
        answers.into_iter().map(|(agent, answer)| (agent, answer.map(|s| pick(s, listing))));
    show(answers.collect(), format, write_picked, |_| true)
}

/// `portolan check` without a file: whether the agents are ready and nothing is wrong.
pub async fn check(agents: &[Admin], format: Format) -> Exit {
    let answers = each(agents, |agent| async move {
        let state = agent.state().await?;
        let mut troubles = output::troubles(&state);
        if !agent.ready().await {
            troubles.insert(0, "the agent is not ready".to_owned());
        }
        Ok(Checked { cluster: state.cluster.to_string(), ok: troubles.is_empty(), troubles })
    })
    .await;
    show(answers, format, write_checked, |checked| checked.ok)
}

/// The verdict on one running agent.
#[derive(Debug, Serialize)]
struct Checked {
    cluster: String,
    ok: bool,
    troubles: Vec<String>,
}

fn write_checked(out: &mut dyn Write, checked: &Checked) -> io::Result<()> {
    if checked.ok {
        writeln!(out, "ok: {} is ready, its source and all its peers are well", checked.cluster)?;
    }
    for trouble in &checked.troubles {
        writeln!(out, "wrong: {trouble}")?;
    }
    Ok(())
}

/// A listing's part of the state, in the words of the JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Picked {
    Peers(Vec<crate::admin::json::PeerJson>),
    Routes(Vec<ServiceJson>),
    Services(Vec<ServiceJson>),
}

fn pick(state: StateJson, listing: Listing) -> Picked {
    let own = state.cluster;
    match listing {
        Listing::Peers => Picked::Peers(state.peers),
        Listing::Routes => Picked::Routes(state.services),
        Listing::Imports => Picked::Services(state.services),
        Listing::Exports => {
            let ours = |service: &ServiceJson| service.candidates.iter().any(|c| c.cluster == own);
            Picked::Services(state.services.into_iter().filter(ours).collect())
        }
    }
}

fn write_picked(out: &mut dyn Write, picked: &Picked) -> io::Result<()> {
    match picked {
        Picked::Peers(peers) => output::write_peers(out, peers),
        Picked::Routes(services) => output::write_routes(out, services),
        Picked::Services(services) => output::write_services(out, services),
    }
}

pub(super) type Answers<T> = Vec<(Admin, Result<T, Error>)>;

/// Asks the agents one after the other, in the order given: each answers within 2 s or not at
/// all, and the command line names few.
pub(super) async fn each<T, F>(agents: &[Admin], ask: impl Fn(Admin) -> F) -> Answers<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut answers = Vec::with_capacity(agents.len());
    for agent in agents {
        answers.push((*agent, ask(*agent).await));
    }
    answers
}

/// Shows what was answered and says what was not; the worst of it is the exit.
pub(super) fn show<T: Serialize>(
    answers: Answers<T>,
    format: Format,
    table: impl Fn(&mut dyn Write, &T) -> io::Result<()>,
    good: impl Fn(&T) -> bool,
) -> Exit {
    let several = answers.len() > 1;
    let mut worst = Exit::Good;
    let mut answered = Vec::with_capacity(answers.len());
    for (agent, answer) in answers {
        match answer {
            Ok(value) => {
                let exit = if good(&value) { Exit::Good } else { Exit::Wrong };
                worst = worst.max(exit);
                answered.push((agent, value));
            }
            Err(error) => {
                complain(&error);
                worst = worst.max(exit_of(&error));
            }
        }
    }
    print(|out| {
        write_answers(out, &answered, several, format, table)?;
        Ok(worst)
    })
}

/// One answer stands alone; with several agents asked, tables get a heading each and data is a
/// list.
fn write_answers<T: Serialize>(
    out: &mut dyn Write,
    answered: &[(Admin, T)],
    several: bool,
    format: Format,
    table: impl Fn(&mut dyn Write, &T) -> io::Result<()>,
) -> io::Result<()> {
    if format != Format::Table {
        let values: Vec<&T> = answered.iter().map(|(_, value)| value).collect();
        return match values[..] {
            _ if several => output::write_data(out, format, &values),
            [value] => output::write_data(out, format, value),
            _ => Ok(()),
        };
    }
    for (index, (agent, value)) in answered.iter().enumerate() {
        if several {
            let space = if index > 0 { "\n" } else { "" };
            writeln!(out, "{space}== {} ==", agent.address())?;
        }
        table(out, value)?;
    }
    Ok(())
}

pub(super) fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Unreachable { .. } => Exit::Unreachable,
        // 400: the name itself is none, which is the command line's fault.
        Error::Refused { status: 400, .. } => Exit::Usage,
        Error::NotFound(_) | Error::Refused { .. } | Error::NotOurs { .. } => Exit::Wrong,
    }
}

#[cfg(test)]
mod tests;
