//! What a process used, as `/proc` tells.

use std::fs;
use std::time::Duration;

/// CPU time of a process so far, user and system, to 10 ms.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a gateway lives");
    let after = stat.rsplit_once(')').expect("a command name").1;
    let ticks = after.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|n| n.parse::<u64>().expect("a number of ticks")).sum();
    // USER_HZ is 100 on every Linux that Rust supports.
    Duration::from_millis(ticks * 10)
}

/// Memory of a process in KiB: its own, and its share of what it shares.
pub(crate) fn pss_kib(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(path).expect("a gateway lives");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a Pss line");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number of KiB")
}
