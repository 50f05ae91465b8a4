//! `check --config FILE`: everything that can be known before starting.

use std::io::{self, Write};
use std::path::Path;

use super::client::Admin;
use super::output::{Format, write_data};
use super::{Exit, complain, print};
use crate::config::Config;
use crate::config::check::{Agent, Finding, Report, Verdict, check};

/// Checks a file and what it points at. Exit 2 when the file itself is faulty, 1 when what it
/// points at is.
pub async fn offline(path: &Path, format: Format) -> Exit {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors);
            let finding = Finding {
                name: "configuration",
                verdict: Verdict::Wrong,
                text: errors.to_string(),
            };
            return print(|out| {
                if format != Format::Table {
                    write_data(out, format, &Report { checks: vec![finding] })?;
                }
                Ok(Exit::Usage)
            });
        }
    };
    let agent = agent_of(&config).await;
    let report = check(&config, agent);
    let exit = if report.verdict() == Verdict::Wrong { Exit::Wrong } else { Exit::Good };
    print(|out| {
        if format == Format::Table {
            write_report(out, &report)?;
        } else {
            write_data(out, format, &report)?;
        }
        Ok(exit)
    })
}

/// The agent that answers on the admin port counts only if it is of this cluster.
async fn agent_of(config: &Config) -> Agent {
    match Admin::new(config.admin.listen).state().await {
        Ok(state) if state.cluster == config.cluster => Agent::Running,
        Ok(_) | Err(_) => Agent::Absent,
    }
}

fn write_report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for Finding { name, verdict, text } in &report.checks {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Doubtful => "doubtful",
            Verdict::Wrong => "wrong",
        };
        writeln!(out, "{verdict:8}  {name}: {text}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_a_line_each() {
        let finding = |verdict| Finding { name: "vips", verdict, text: "found".to_owned() };
        let report = Report { checks: vec![finding(Verdict::Ok), finding(Verdict::Doubtful)] };
        let mut out = Vec::new();
        write_report(&mut out, &report).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "ok        vips: found\ndoubtful  vips: found\n");
        assert_eq!(report.verdict(), Verdict::Doubtful);
    }

    #[tokio::test]
    async fn a_faulty_file_is_exit_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("paris.yaml");
        std::fs::write(&path, "cluster: Paris\n").unwrap();
        assert_eq!(offline(&path, Format::Json).await, Exit::Usage);
    }
}
