//! A network namespace that lives as long as the thread that runs in it.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use lb::net::{Event, Events, Netlink};
use nix::sched::{CloneFlags, unshare};

use crate::link::event;

/// No test waits longer than this for anything.
const BOUND: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce() + Send>;

/// A new namespace, and the thread in it. It has no name, so there is nothing to clean up: the kernel
/// frees it, devices and all, when the thread has ended.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    /// The thread's id, by which `ip link set DEV netns ID` finds the namespace.
    id: String,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, id) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root to make network namespaces");
            let me = fs::read_link("/proc/thread-self").expect("procfs is mounted");
            ready.send(me.file_name().expect("a thread id").to_string_lossy().into_owned()).expect("awaited");
            queue.into_iter().for_each(|job| job());
        });
        let id = id.recv().expect("these tests need root to make network namespaces");
        Self { jobs: Some(jobs), thread: Some(thread), id }
    }

    /// Runs `f` in the namespace.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || done.send(catch_unwind(AssertUnwindSafe(f))).expect("awaited");
        self.jobs.as_ref().expect("open").send(Box::new(job)).expect("the thread lives");
        match result.recv().expect("the thread lives") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Runs a future in the namespace, on a runtime of its own.
    pub fn run_async<T, F>(&self, f: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.run(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { tokio::time::timeout(BOUND, f()).await.expect("done in time") })
        })
    }

    /// Runs iproute2 in the namespace; each line is one command after `ip`.
    pub fn ip(&self, script: impl Into<String>) {
        let script = script.into();
        self.run(move || {
            for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let output = Command::new("ip").args(line.split_whitespace()).output().expect("iproute2");
                assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
            }
        });
    }

    /// Waits until eth0 transmits. Between `up` and that, the kernel's link watch has to come by (up to a
    /// second, `net/core/link_watch.c`), and what is sent before is dropped.
    fn await_running(&self) {
        self.run_async(|| async {
            let mut events = Events::subscribe().expect("subscribes");
            let links = Netlink::connect().expect("connects").links().await.expect("lists");
            if links.iter().any(|link| link.name == "eth0" && link.running) {
                return;
            }
            let running =
                |e: &Event| matches!(e, Event::Link(l) if l.name == "eth0" && l.running).then_some(());
            event(&mut events, running).await;
        });
    }

    /// Writes a value below `/proc/sys/net`.
    pub fn sysctl(&self, path: &str, value: i64) {
        let path = format!("/proc/sys/net/{path}");
        self.run(move || fs::write(&path, value.to_string()).unwrap_or_else(|e| panic!("{path}: {e}")));
    }

    /// Reads a value below `/proc/sys/net`.
    pub fn sysctl_value(&self, path: &str) -> i64 {
        let path = format!("/proc/sys/net/{path}");
        self.run(move || fs::read_to_string(path).expect("reads").trim().parse().expect("a number"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic in a job was already handed to its caller.
            let _ = thread.join();
        }
    }
}

/// Two namespaces with a veth pair between them: `eth0` at both ends, 10.0.0.1 and fd00::1 here, 10.0.0.2
/// and fd00::2 there.
pub struct Pair {
    pub here: Namespace,
    pub there: Namespace,
}

pub const HERE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const THERE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Pair {
    pub fn new() -> Self {
        let (here, there) = (Namespace::new(), Namespace::new());
        here.ip(format!("link add eth0 type veth peer name eth0 netns {}", there.id));
        for (namespace, number) in [(&here, 1), (&there, 2)] {
            // The link-local address, from which the kernel solicits, is usable at once.
            namespace.sysctl("ipv6/conf/eth0/accept_dad", 0);
            namespace.ip(format!(
                "link set lo up
                 link set eth0 address 02:00:00:00:00:0{number}
                 link set eth0 up
                 address add 10.0.0.{number}/24 dev eth0
                 address add fd00::{number}/64 dev eth0 nodad"
            ));
            // Neighbours that do not answer are given up in a third of a second, not in three.
            namespace.sysctl("ipv4/neigh/eth0/retrans_time_ms", 100);
            namespace.sysctl("ipv6/neigh/eth0/retrans_time_ms", 100);
        }
        let pair = Self { here, there };
        pair.here.await_running();
        pair.there.await_running();
        pair
    }
}
