use std::net::UdpSocket;

use tokio::task::JoinSet;

use super::*;
use crate::drain;

fn socket() -> Arc<Socket> {
    Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap().into())
}

/// Waits in the kernel as a lane does, until it is asked to end.
fn wait(socket: &Socket, stop: &AtomicBool) {
    let mut batch = Batch::new();
    while !stop.load(Ordering::Acquire) {
        batch.receive(socket.as_fd(), Wait::ForOne).unwrap();
    }
}

/// A panic of a lane's thread ends the task that waits for it, and is what it says.
#[tokio::test]
async fn a_panic_of_a_thread_is_the_tasks_own() {
    let (_trigger, watch) = drain::channel();
    let thread =
        Thread::start(socket(), |_| assert!(std::hint::black_box(false), "on purpose")).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(thread.until(watch));
    let error = tasks.join_next().await.unwrap().unwrap_err();
    let panic = error.into_panic();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "on purpose");
}

#[tokio::test]
async fn a_thread_that_ends_by_itself_ends_its_task() {
    let (_trigger, watch) = drain::channel();
    Thread::start(socket(), |_| {}).unwrap().until(watch).await;
}

/// However long nothing comes, the drain wakes the thread.
#[tokio::test]
async fn the_drain_wakes_a_thread_that_waits() {
    let (trigger, watch) = drain::channel();
    let own = socket();
    let lane = Arc::clone(&own);
    let thread = Thread::start(own, move |stop| wait(&lane, stop)).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(thread.until(watch));
    assert!(tasks.try_join_next().is_none());
    trigger.advance(Phase::Draining);
    tasks.join_next().await.unwrap().unwrap();
}

/// Neither a task that was never looked at nor one that was cut leaves its thread behind.
#[tokio::test]
async fn a_task_that_is_dropped_takes_its_thread_along() {
    for polled in [false, true] {
        let (_trigger, watch) = drain::channel();
        let own = socket();
        let lane = Arc::clone(&own);
        let (alive, ended) = oneshot::channel::<()>();
        let thread = Thread::start(own, move |stop| {
            let _alive = alive;
            wait(&lane, stop);
        });
        let task = thread.unwrap().until(watch);
        if polled {
            tokio::select! {
                biased;
                () = task => unreachable!("nothing ends it"),
                () = std::future::ready(()) => {}
            }
        } else {
            drop(task);
        }
        ended.await.expect_err("its end was dropped with it");
    }
}
