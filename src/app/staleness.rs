//! When answers count as out of date: told to DNS as soon as it is so, and when it is over.

use tokio::sync::watch;

use super::status::SourceStatus;
use crate::{clock, dns};

/// Follows the source for ever.
pub(super) async fn follow(mut source: watch::Receiver<SourceStatus>, staleness: dns::Staleness) {
    let mut told = false;
    loop {
        let from = source.borrow_and_update().stale_from();
        let stale = from.is_some_and(|from| from <= clock::now());
        if stale != told {
            told = stale;
            staleness.set(stale);
            match stale {
                true => tracing::warn!("the source is away; answers go on and are marked as stale"),
                false => tracing::info!("the source is back; answers are current"),
            }
        }
        let due = from.filter(|_| !stale);
        let turn = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = source.changed() => if changed.is_err() {
                // Nobody tells of the source any more: the agent ends.
                std::future::pending::<()>().await;
            },
            () = turn => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::DnsName;
    use crate::testing::table::Tables;

    /// Time is paused: it moves only when everything waits.
    #[tokio::test(start_paused = true)]
    async fn a_hiccup_is_no_matter_and_the_end_is_told_at_once() {
        let zone = DnsName::parse("clusterset.local").unwrap();
        let (_compiler, answers) = dns::SharedAnswers::new(&Tables::new("paris").build(), &zone);
        let (source, watched) = watch::channel(SourceStatus::new(false));
        let following = follow(watched, answers.staleness());
        tokio::pin!(following);
        let mut after = async |seconds: u64| {
            let due = tokio::time::sleep(Duration::from_secs(seconds));
            tokio::select! { biased; () = &mut following => {}, () = due => {} }
            answers.staleness().get()
        };
        assert!(after(0).await, "what an earlier run knew");
        source.send_modify(SourceStatus::synced);
        assert!(!after(1).await);
        source.send_modify(|status| status.failed("a bad file".into(), false));
        assert!(!after(60).await, "refused, not away");
        for _ in 0..3 {
            source.send_modify(|status| status.failed("no answer".into(), true));
            assert!(!after(8).await);
            source.send_modify(SourceStatus::recovered);
            assert!(!after(4).await, "each is short");
        }
        source.send_modify(|status| status.failed("no answer".into(), true));
        assert!(!after(6).await);
        source.send_modify(|status| status.failed("no answer, otherwise".into(), true));
        assert!(!after(3).await);
        assert!(after(2).await, "10 s since it went");
        source.send_modify(|status| status.failed("a bad file".into(), false));
        assert!(!after(0).await, "back, though not all is well");
    }
}
