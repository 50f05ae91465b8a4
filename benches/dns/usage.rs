//! What a server used, as `/proc` tells: the process and all its children.

use std::fs;
use std::io;
use std::time::Duration;

/// Run time of every thread so far, in the scheduler's nanoseconds. What the kernel does on a
/// thread's behalf counts, on loopback down to the peer's socket.
pub(crate) fn cpu(pid: u32) -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for process in tree(pid)? {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let path = thread?.path().join("schedstat");
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(path) else { continue };
            let run = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            nanoseconds += run.ok_or_else(|| io::Error::other("a schedstat without run time"))?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory, MiB.
pub(crate) fn rss_mib(pid: u32) -> io::Result<f64> {
    sum(pid, "status", "VmRSS:")
}

/// The same, of what is shared only the share, MiB.
pub(crate) fn pss_mib(pid: u32) -> io::Result<f64> {
    sum(pid, "smaps_rollup", "Pss:")
}

fn sum(pid: u32, file: &str, key: &str) -> io::Result<f64> {
    let mut kib = 0.0;
    for process in tree(pid)? {
        let text = fs::read_to_string(format!("/proc/{process}/{file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        kib += line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(kib / 1024.0)
}

/// The process and its descendants.
fn tree(pid: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        // The command's name, in parentheses, may hold anything.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parents.extend(parent.and_then(|n| n.parse::<u32>().ok()).map(|parent| (id, parent)));
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    Ok(found)
}
