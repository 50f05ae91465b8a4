//! The process between two TUN devices, its standard input and output: packets go from one to the
//! other late, at a limited rate with a bounded queue, and some not at all.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use portolan::clock;
use rustix::process::getppid;

/// The longest that a packet waits for those before it; then the queue is full.
const LONGEST_QUEUE: Duration = Duration::from_millis(40);
/// On their way at a time: what the rate lets pass in both delays, many times over.
const MOST_PACKETS: usize = 1 << 16;
const LONGEST_PACKET: usize = 65_536;
/// Between looks at whether packets are lost now.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Milliseconds there and back.
    #[arg(long)]
    round_trip: f64,
    /// Megabits a second each way.
    #[arg(long)]
    rate: u32,
    /// The share of packets that is lost each way...
    #[arg(long)]
    loss: f64,
    /// ...while this file exists.
    #[arg(long)]
    lossy_while: PathBuf,
}

type Packet = (Instant, Vec<u8>);

/// Carries packets both ways until it is ended, or whoever started it is gone.
pub(crate) fn carry(options: &Options) -> io::Result<()> {
    let starter = getppid();
    let lossy = Arc::new(AtomicBool::new(false));
    let near = io::stdin().as_fd().try_clone_to_owned()?;
    let far = io::stdout().as_fd().try_clone_to_owned()?;
    let ways = [(near.try_clone()?, far.try_clone()?, 1), (far, near, 2)];
    for (from, to, seed) in ways {
        let (sender, receiver) = sync_channel(MOST_PACKETS);
        let way = Way {
            options: options.clone(),
            lossy: Arc::clone(&lossy),
            chance: seed,
            free: clock::now(),
        };
        // They wait in the kernel for packets, and end with the process.
        thread::spawn(move || way.take(from.as_fd(), &sender));
        thread::spawn(move || deliver(to.as_fd(), &receiver));
    }
    while getppid() == starter {
        lossy.store(options.lossy_while.exists(), Ordering::Relaxed);
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

struct Way {
    options: Options,
    lossy: Arc<AtomicBool>,
    /// State of the generator that says which packets are lost.
    chance: u64,
    /// When the last packet taken has left the queue.
    free: Instant,
}

impl Way {
    /// Reads what one side sends, and says when the other gets it.
    fn take(mut self, from: BorrowedFd<'_>, on: &SyncSender<Packet>) {
        let one_way = Duration::from_secs_f64(self.options.round_trip / 2_000.0);
        let mut buffer = vec![0; LONGEST_PACKET];
        while let Ok(count) = rustix::io::read(from, &mut buffer) {
            let now = clock::now();
            let begins = self.free.max(now);
            if begins - now > LONGEST_QUEUE || self.is_lost() {
                continue;
            }
            let bits = u32::try_from(8 * count).expect("a packet");
            self.free = begins
                + Duration::from_secs_f64(f64::from(bits) / (f64::from(self.options.rate) * 1e6));
            if on.send((self.free + one_way, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    }

    /// By a linear congruential generator: the same packets in every run.
    fn is_lost(&mut self) -> bool {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let drawn =
            f64::from(u32::try_from(self.chance >> 32).expect("32 bits")) / f64::from(u32::MAX);
        self.lossy.load(Ordering::Relaxed) && drawn < self.options.loss
    }
}

fn deliver(to: BorrowedFd<'_>, packets: &Receiver<Packet>) {
    for (due, packet) in packets {
        thread::sleep(due.saturating_duration_since(clock::now()));
        // The device's queue is full: a router would drop it too.
        let _dropped = rustix::io::write(to, &packet);
    }
}
