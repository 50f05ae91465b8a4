//! `zone dump`: all that an agent's DNS server answers.

use super::ask::exit_of;
use super::client::Admin;
use super::{Exit, complain, print};
use crate::admin::zone::Format;

/// `portolan zone dump`: the whole zone, or nothing.
pub async fn dump(agent: Admin, format: Format) -> Exit {
    match agent.zone(format).await {
        Ok(zone) => print(|out| out.write_all(&zone).map(|()| Exit::Good)),
        Err(error) => {
            complain(&error);
            exit_of(&error)
        }
    }
}
