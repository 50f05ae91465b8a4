//! The addresses and node ports of Services.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::object::Key;
use crate::catalog::IpFamily;

const V4_BASE: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const V6_BASE: u128 = 0xfd00_0096 << 96;
/// As many of each family: `10.96.0.0/16`, and as much of `fd00:96::/108`.
const SIZE: u32 = 1 << 16;
/// Low addresses are for those who ask for one by name, as with the real server.
const FIRST_FREE: u32 = 256;
const FIRST_NODE_PORT: u16 = 30_000;

/// What is taken and by whom.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Those of the cluster, the default first.
    pub(super) families: Vec<IpFamily>,
    taken: HashMap<IpAddr, (usize, Key)>,
    of: HashMap<(usize, Key), Vec<IpAddr>>,
    next: [u32; 2],
    next_node_port: u16,
}

impl Addresses {
    pub(super) fn new(families: Vec<IpFamily>) -> Self {
        Self {
            families,
            taken: HashMap::new(),
            of: HashMap::new(),
            next: [FIRST_FREE; 2],
            next_node_port: FIRST_NODE_PORT,
        }
    }

    /// A free address; those given back are handed out again last.
    pub(super) fn pick(&mut self, family: IpFamily) -> Option<IpAddr> {
        let next = &mut self.next[usize::from(family == IpFamily::V6)];
        for _ in FIRST_FREE..SIZE - 1 {
            let address = nth(family, *next);
            *next = if *next + 2 < SIZE { *next + 1 } else { FIRST_FREE };
            if !self.taken.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }

    /// Why `holder` may not have `address`, in the words of the real server.
    pub(super) fn refuses(&self, holder: &(usize, Key), address: IpAddr) -> Option<&'static str> {
        if !in_range(address) {
            return Some("the provided network does not match the current range");
        }
        match self.taken.get(&address) {
            Some(other) if other != holder => Some("provided IP is already allocated"),
            _ => None,
        }
    }

    /// From now on these, and only these, are the holder's.
    pub(super) fn set(&mut self, holder: (usize, Key), addresses: Vec<IpAddr>) {
        self.release(holder.0, &holder.1);
        for &address in &addresses {
            self.taken.insert(address, holder.clone());
        }
        self.of.insert(holder, addresses);
    }

    pub(super) fn release(&mut self, table: usize, key: &Key) {
        for address in self.of.remove(&(table, key.clone())).unwrap_or_default() {
            self.taken.remove(&address);
        }
    }

    pub(super) fn node_port(&mut self) -> u16 {
        let port = self.next_node_port;
        self.next_node_port = port.checked_add(1).unwrap_or(FIRST_NODE_PORT);
        port
    }
}

fn nth(family: IpFamily, number: u32) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::from_bits(V4_BASE + number).into(),
        IpFamily::V6 => Ipv6Addr::from_bits(V6_BASE + u128::from(number)).into(),
    }
}

fn in_range(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.to_bits() >> 16 == V4_BASE >> 16,
        IpAddr::V6(v6) => v6.to_bits() >> 20 == V6_BASE >> 20,
    }
}
