//! What this cluster exports, with what stays at home.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::assembly::NotExported;
use super::export::Export;
use super::guidance::Guidance;
use super::object::SliceObject;
use super::settings::{CallerRules, ClusterRules, Share, Steer};
use crate::model::{HostLabel, PortKey, ServiceKey};

/// One local endpoint behind one port: where inbound and local traffic is dialled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// The endpoint's address and target port.
    pub address: SocketAddr,
    /// The pod's hostname.
    pub hostname: Option<HostLabel>,
}

/// Something an export's owner should know; it never stops the export unless it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportProblem {
    /// The field or annotation, e.g. `portolan.dev/policy`.
    pub field: Box<str>,
    /// What is wrong and what is used instead.
    pub message: Box<str>,
}

/// One service this cluster exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalExport {
    /// What travels.
    pub export: Arc<Export>,
    /// Who may import.
    pub clusters: ClusterRules,
    /// Who may call.
    pub allow: CallerRules,
    /// Most streams at a time through one gateway replica, 1 or more; `None`: as many as that
    /// replica carries at all.
    pub most_streams: Option<u32>,
    /// How callers are to be led, as far as its annotations really say so.
    pub guidance: Guidance,
    /// What its annotations ask about its share.
    pub steer: Steer,
    /// What it takes of the connections that pass no gateway: as its share, but for the pressure
    /// on gateways.
    pub direct_share: Share,
    /// Ready backends by Service port, ascending and without duplicates.
    pub backends: BTreeMap<PortKey, Vec<Backend>>,
    /// The slices behind it, by name: what the own cluster's objects are copied from.
    pub slices: Vec<Arc<SliceObject>>,
    /// What its owner should know.
    pub problems: Vec<ExportProblem>,
}

/// Everything this cluster exports, as published to peers: one immutable value per change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalCatalog {
    /// Rises with every change.
    pub revision: u64,
    /// False until the own source is synced: subscribers then keep what they have.
    pub synced: bool,
    /// By name.
    pub exports: BTreeMap<ServiceKey, Arc<LocalExport>>,
    /// The ServiceExports that export nothing, and why.
    pub refused: BTreeMap<ServiceKey, NotExported>,
}
