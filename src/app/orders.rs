//! What people order at run time, and what load demands: drains, kept on disk, and pressure.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::planner::Start;
use super::saved;
use crate::admin::json;
use crate::admin::order::{Change, DrainTaken, Order};
use crate::gateway::Gateway;
use crate::model::{Drain, ReplicaId, ServiceKey};
use crate::routes::{By, Drained, Drains, Orders, Pressure, RouteTable, SharedTable, Steered};
use crate::store::Store;
use crate::{catalog, clock, drain};

/// The length of a window of answers.
const WINDOW: Duration = Duration::from_secs(1);
/// Most drains that are kept; more are refused.
const MOST_DRAINS: usize = 1024;

/// Takes orders, keeps them, and hands them to the planner.
pub(super) struct Desk {
    replica: ReplicaId,
    store: Arc<Store>,
    table: SharedTable,
    gateway: Gateway,
    orders: watch::Sender<Arc<Orders>>,
}

/// A desk that goes on from the drains of an earlier run, and what it says.
pub(super) fn desk(
    start: &Start,
    replica: ReplicaId,
    store: &Arc<Store>,
    table: &SharedTable,
    gateway: &Gateway,
) -> (Desk, watch::Receiver<Arc<Orders>>) {
    let first = Orders { drains: Arc::clone(&start.drains), pressure: Pressure::default() };
    let (orders, said) = watch::channel(Arc::new(first));
    let (store, table, gateway) = (Arc::clone(store), table.clone(), gateway.clone());
    (Desk { replica, store, table, gateway, orders }, said)
}

impl Desk {
    /// Runs until shutdown is forced.
    pub(super) async fn run(
        self,
        mut asked: mpsc::Receiver<Order>,
        mut drain: drain::Watch,
    ) -> anyhow::Result<()> {
        let mut window_ends = None;
        loop {
            let window = async {
                match window_ends {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(order) = asked.recv() => {
                    let answer = self.carry_out(order.of, order.change).await;
                    // Who asked may have gone; the order stands.
                    let _gone = order.answer.send(answer);
                }
                () = self.gateway.overloaded(), if window_ends.is_none() => {
                    window_ends = Some((clock::now() + WINDOW).into());
                }
                () = window => {
                    let goes_on = self.take_window();
                    window_ends = goes_on.then(|| (clock::now() + WINDOW).into());
                }
                () = drain.reached(drain::Phase::Forced) => return Ok(()),
            }
        }
    }

    /// Takes in a window of answers; whether another is to follow.
    fn take_window(&self) -> bool {
        let mut pressure = self.orders.borrow().pressure.clone();
        let table = self.table.load_full();
        let share = |key: &ServiceKey| {
            table.local_export(key).map(|local| local.export.settings.share).unwrap_or_default()
        };
        pressure.window(&self.gateway.take_answers(), share);
        let goes_on = !pressure.is_none();
        self.orders.send_if_modified(|orders| {
            let changed = orders.pressure != pressure;
            if changed {
                *orders = Arc::new(Orders { drains: Arc::clone(&orders.drains), pressure });
            }
            changed
        });
        goes_on
    }

    async fn carry_out(&self, of: Drained, change: Change) -> Result<DrainTaken, String> {
        let table = self.table.load_full();
        let mut drains = Drains::clone(&self.orders.borrow().drains);
        let mut note = None;
        let ordered = match change {
            Change::Drain(over) => {
                exists(&table, &of)?;
                if drains.len() >= MOST_DRAINS && !drains.contains_key(&of) {
                    return Err(format!(
                        "{MOST_DRAINS} drains are kept; take one back with --undo"
                    ));
                }
                let drain = Drain::beginning(clock::wall_ms(), over);
                let drain = drain.map_err(|error| error.to_string())?;
                drains.insert(of.clone(), drain);
                Some(drain)
            }
            Change::Undo => {
                if drains.remove(&of).is_none() {
                    note = Some(format!("{of} was not drained by command"));
                }
                None
            }
        };
        tracing::info!(%of, drain = ordered.map(tracing::field::display), "drain ordered");
        let drains = Arc::new(drains);
        self.orders.send_modify(|orders| {
            let (drains, pressure) = (Arc::clone(&drains), orders.pressure.clone());
            *orders = Arc::new(Orders { drains, pressure });
        });
        // In force first: a disk that hangs must not hold up a drain.
        let kept = self.keep(&drains).await;
        if !kept {
            note = Some("the state folder refused it, so a restart will forget it".to_owned());
        }
        let annotated =
            table.drains.iter().find(|known| known.of == of && known.by == By::Annotation);
        if annotated.is_some() {
            note = Some("its annotation portolan.dev/drain wins; change that".to_owned());
        }
        let begun = |drain| Steered {
            of: of.clone(),
            by: By::Command,
            drain,
            share: match drain.over() {
                Duration::ZERO => catalog::Share::NONE,
                _ => catalog::Share::FULL,
            },
        };
        let in_force = annotated.cloned().or_else(|| ordered.map(begun));
        let shown = |of: &Steered| json::drain(of, self.gateway.connections(&of.of));
        Ok(DrainTaken {
            cluster: table.cluster.clone(),
            replica: self.replica.to_string(),
            drain: in_force.as_ref().map(shown),
            kept,
            note,
        })
    }

    /// Writes the drains down; whether the disk took them.
    async fn keep(&self, drains: &Drains) -> bool {
        let (store, drains) = (Arc::clone(&self.store), drains.clone());
        let written =
            tokio::task::spawn_blocking(move || saved::save_drains(&store, &drains)).await;
        match written {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "drains could not be written down; a restart forgets them");
                false
            }
            Err(_) => false,
        }
    }
}

/// Whether there is such a thing to be drained here.
fn exists(table: &RouteTable, of: &Drained) -> Result<(), String> {
    match of {
        Drained::Cluster(cluster) => {
            if *cluster == table.cluster || table.peers.contains_key(cluster) {
                return Ok(());
            }
            let peers: Vec<_> = table.peers.keys().map(|peer| peer.as_str()).collect();
            Err(format!(
                "{cluster} is neither this cluster ({}) nor a peer ({})",
                table.cluster,
                peers.join(", ")
            ))
        }
        Drained::Service(key) => match table.local_export(key) {
            Some(_) => Ok(()),
            None => Err(format!(
                "cluster {} does not export {of}; drain it at the cluster that does",
                table.cluster
            )),
        },
    }
}
