//! `drain`: takes new connections away from a cluster or a service, and shows how far that is.
//!
//! Every agent named takes the order for itself and says so; the ramp runs there, whether or not
//! this command stays to watch.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::ask::{Answers, each, show};
use super::client::{Admin, Error};
use super::output::{Format, over, percent};
use super::table::shown;
use super::{Exit, complain};
use crate::admin::json::DrainJson;
use crate::admin::order::{DrainAsk, DrainTaken};

/// How often the agents are asked how far they are.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So soon after an order it may not be in a table yet.
const FIRST_LOOKS: u32 = 3;
/// Looks in a row that an agent may leave unanswered.
const MOST_SILENT_LOOKS: u32 = 10;

/// Whether the command stays until the drain is complete and nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It does.
    UntilDone,
    /// Only where somebody watches a terminal.
    IfWatched,
}

/// `portolan drain NAME`: exit 1 when an agent did not take it, or could not keep it.
pub async fn drain(agents: &[Admin], ask: &DrainAsk, stay: Stay, format: Format) -> Exit {
    let mut answers = each(agents, |agent| async move { agent.drain(ask).await }).await;
    let watched = format == Format::Table && io::stdout().is_terminal();
    let stays = !ask.undo && (stay == Stay::UntilDone || watched);
    if !stays {
        return show(answers, format, write_taken, |taken| taken.kept);
    }
    // For people: who took it, at once, then how it goes. For programs: one answer, at the end.
    let taken: Vec<Admin> =
        answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(agent, _)| *agent).collect();
    if format == Format::Table {
        let told = show(answers, format, write_taken, |taken| taken.kept);
        return told
            .max(follow(&taken, &ask.name, watched).await.map_or_else(|e| e, |_| Exit::Good));
    }
    match follow(&taken, &ask.name, false).await {
        Ok(ended) => update(&mut answers, &ended),
        Err(exit) => return exit,
    }
    show(answers, format, write_taken, |taken| taken.kept)
}

/// Puts how each drain ended into the answers.
fn update(answers: &mut Answers<DrainTaken>, ended: &[Option<DrainJson>]) {
    let taken = answers.iter_mut().filter_map(|(_, answer)| answer.as_mut().ok());
    for (taken, ended) in taken.zip(ended) {
        taken.drain.clone_from(ended);
    }
}

/// Looks at the agents until nothing is left of what is drained; how each stands then.
async fn follow(
    agents: &[Admin],
    name: &str,
    watched: bool,
) -> Result<Vec<Option<DrainJson>>, Exit> {
    let mut silent = 0;
    let mut made = 0;
    loop {
        let looks = each(agents, |agent| async move { agent.drains().await }).await;
        let looks: Result<Vec<_>, Error> =
            looks.into_iter().map(|(_, look)| look.map(|drains| of_name(drains, name))).collect();
        match looks {
            Ok(looks) => {
                silent = 0;
                if watched {
                    progress(&looks);
                }
                // An order is shown from the next table on.
                made += 1;
                let shown = made > FIRST_LOOKS || looks.iter().all(Option::is_some);
                if shown && looks.iter().flatten().all(is_done) {
                    if watched {
                        progress_ends();
                    }
                    return Ok(looks);
                }
            }
            Err(error) => {
                silent += 1;
                if silent > MOST_SILENT_LOOKS {
                    complain(&error);
                    return Err(Exit::Unreachable);
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn of_name(drains: Vec<DrainJson>, name: &str) -> Option<DrainJson> {
    drains.into_iter().find(|drain| is_named(drain, name))
}

/// A service may have been given by its whole DNS name.
fn is_named(drain: &DrainJson, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let rest = name.strip_prefix(&drain.name);
    rest.is_some_and(|rest| rest.is_empty() || drain.name.contains('.') && rest.starts_with('.'))
}

fn is_done(drain: &DrainJson) -> bool {
    drain.share <= 0.0 && drain.connections == 0
}

/// One line, written over itself. A terminal that went away ends nothing.
fn progress(looks: &[Option<DrainJson>]) {
    let mut out = io::stdout().lock();
    let _unseen = write!(out, "\r\x1b[K{}", progress_line(looks)).and_then(|()| out.flush());
}

fn progress_ends() {
    let _unseen = writeln!(io::stdout().lock());
}

/// The largest share among the agents, and the connections of all.
fn progress_line(looks: &[Option<DrainJson>]) -> String {
    let share = looks.iter().flatten().map(|drain| drain.share).fold(0.0, f64::max);
    let left: u64 = looks.iter().flatten().map(|drain| drain.connections).sum();
    match looks.iter().flatten().count() {
        0 => "taken back".to_owned(),
        _ => format!("share {}, connections left {left}", percent(share)),
    }
}

fn write_taken(out: &mut dyn Write, taken: &DrainTaken) -> io::Result<()> {
    let by = format!("replica {} of {}", shown(&taken.replica), taken.cluster);
    match &taken.drain {
        Some(drain) => writeln!(
            out,
            "{by}: {} drains over {}, complete at {}; share {}, connections left {}",
            shown(&drain.name),
            over(drain),
            shown(&drain.until),
            percent(drain.share),
            drain.connections
        )?,
        None => writeln!(out, "{by}: no longer drained")?,
    }
    if !taken.kept {
        writeln!(out, "wrong: it is in force, but not kept")?;
    }
    match &taken.note {
        Some(note) => writeln!(out, "note: {}", shown(note)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterId;
    use crate::routes::By;

    fn drain(share: f64, connections: u64) -> DrainJson {
        DrainJson {
            name: "web.shop".to_owned(),
            by: By::Command,
            until: "2026-05-04T10:00:00Z".to_owned(),
            over_seconds: 600.0,
            share,
            connections,
        }
    }

    #[test]
    fn who_took_it_and_what_is_left_is_told() {
        let taken = DrainTaken {
            cluster: ClusterId::parse("paris").unwrap(),
            replica: "00000000000000ff".to_owned(),
            drain: Some(drain(0.43, 7)),
            kept: false,
            note: Some("a note".to_owned()),
        };
        let mut text = Vec::new();
        write_taken(&mut text, &taken).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "replica 00000000000000ff of paris: web.shop drains over 10m, complete at \
             2026-05-04T10:00:00Z; share 43 %, connections left 7\n\
             wrong: it is in force, but not kept\nnote: a note\n"
        );
    }

    #[test]
    fn progress_is_the_slowest_share_and_all_connections() {
        let looks = [Some(drain(0.43, 7)), None, Some(drain(0.5, 2))];
        assert_eq!(progress_line(&looks), "share 50 %, connections left 9");
        assert_eq!(progress_line(&[None]), "taken back");
        assert!(is_done(&drain(0.0, 0)) && !is_done(&drain(0.0, 1)) && !is_done(&drain(0.1, 0)));
    }

    #[test]
    fn a_drain_is_found_by_its_short_and_its_whole_name() {
        let web = drain(0.0, 0);
        for (name, found) in [
            ("web.shop", true),
            ("Web.Shop.svc.clusterset.local", true),
            ("web.shopping", false),
            ("web", false),
        ] {
            assert_eq!(is_named(&web, name), found, "{name}");
        }
        let oregon = DrainJson { name: "oregon".to_owned(), ..drain(0.0, 0) };
        assert!(is_named(&oregon, "oregon") && !is_named(&oregon, "oregon.shop"));
    }
}
