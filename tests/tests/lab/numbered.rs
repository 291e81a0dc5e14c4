//! Numbered packets through the director, and which backend each came to. They are sent and taken in as frames: no
//! kernel sends one again, so one that is lost is missing.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use lb_common::tcp::flag::{ACK, SYN};
use lb_tests::{
    netns::Netns,
    packet::{Mac, Packet},
    raw::packet_socket,
    topo::{Network, Node, Segment, VIP4, VIP6, port},
    wait::{PATIENCE, Seen, eventually},
};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            MsgFlags, recv, send, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::TimeVal,
    },
};

use crate::setup::PORT;

/// Connections over IPv4, datagrams, connections over IPv6, in turn.
const KINDS: u64 = 3;
/// Flows that go on from the beginning to the end.
const KNOWN: u64 = 32 * KINDS;
/// So many packets of known flows of a kind, then two of a new one: too few for the guard against floods.
const NEW_EVERY: u64 = 16;
const PAUSE: Duration = Duration::from_millis(1);
/// Packets under way, a quarter of what the ring of a veth holds (`VETH_RING_SIZE` in drivers/net/veth.c), which drops
/// what is more: what is lost, the director has lost.
const WINDOW: usize = 64;
/// Packets of a stretch: each known flow has one or more, new ones are among them.
const STRETCH: usize = 4 * KNOWN as usize;
/// How often who waits for a frame looks whether there are more to come.
const POLL: TimeVal = TimeVal::new(0, 20_000);
/// The payload is this, the packet's number and its flow's.
const MARK: [u8; 8] = *b"numbered";
const PAYLOAD: usize = 24;

/// A stream that runs; ends when dropped.
pub struct Numbered {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Result<Result<()>>>>,
    /// What was done meanwhile, and the packets that were sent from before to after.
    phases: Vec<(String, Range<usize>)>,
    /// Flows that must not come to a backend.
    forbidden: Vec<(Range<u64>, usize)>,
}

#[derive(Default)]
struct Shared {
    /// Nothing more is sent; and nothing more is waited for.
    stop: AtomicBool,
    over: AtomicBool,
    /// Flows that have been opened.
    opened: AtomicU64,
    /// The flow of each packet, by its number.
    sent: Mutex<Vec<u64>>,
    arrived: Mutex<Vec<Arrival>>,
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u64,
    flow: u64,
    backend: usize,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub sent: usize,
    pub flows: usize,
    pub lost: usize,
    pub twice: usize,
    /// Came to another backend than the first packet of their flow, or to one that takes no new flows.
    pub wrong: usize,
}

impl Numbered {
    /// To the VIPs of both families, on the port of the services.
    pub fn start(net: &Network) -> Result<Self> {
        own_rings(net)?;
        let shared = Arc::<Shared>::default();
        let mut numbered = Self {
            shared: Arc::clone(&shared),
            workers: Vec::new(),
            phases: Vec::new(),
            forbidden: Vec::new(),
        };
        for (number, node) in net.backends.iter().enumerate() {
            let (shared, mac) = (Arc::clone(&shared), node.links[0].mac_bytes()?);
            let socket = socket_of(node)?;
            setsockopt(&socket, ReceiveTimeout, &POLL)?;
            // A frame that XDP sent is in a page of its own: by default there is room for 63 of them.
            setsockopt(&socket, RcvBufForce, &(WINDOW * 2 * 4096))?;
            numbered.workers.push(node.netns.spawn(move || shared.take_in(&socket, mac, number))?);
        }
        let socket = socket_of(net.client())?;
        let to = net.director.link(Segment::Front).mac_bytes()?;
        let from = net.client().links[0].mac_bytes()?;
        numbered.workers.push(net.client().netns.spawn(move || shared.send(&socket, to, from))?);
        numbered.go_on("at the beginning")?;
        Ok(numbered)
    }

    /// Does something to the director while packets come, some before it and some after.
    pub fn during(&mut self, what: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.go_on(&format!("before: {what}"))?;
        let first = self.sent();
        work(self).context(what.to_owned())?;
        self.go_on(&format!("after: {what}"))?;
        self.phases.push((what.to_owned(), first..self.sent()));
        Ok(())
    }

    /// Waits for another stretch.
    pub fn go_on(&mut self, when: &str) -> Result<()> {
        let goal = self.sent() + STRETCH;
        // A hundred and more turns of a thread, which a machine with thirty that want to run gives it slowly.
        eventually(PATIENCE * 3, &format!("packets to come {when}"), || {
            if let Some(ended) = self.workers.iter().position(JoinHandle::is_finished) {
                let worker = self.workers.swap_remove(ended);
                joined(worker).with_context(|| format!("{when}; {:?}", self.tally(0..self.sent())))?;
            }
            let sent = self.sent();
            Ok(if sent >= goal { Seen::Yes(()) } else { Seen::NotYet(format!("{sent} of {goal}")) })
        })
    }

    /// Flows that are opened in another stretch may not come to this backend, the first of which is 0.
    pub fn none_new_to(&mut self, backend: usize) -> Result<()> {
        let opened = |of: &Self| of.shared.opened.load(Ordering::SeqCst);
        let first = opened(self);
        self.go_on("that are not for one backend")?;
        self.forbidden.push((first..opened(self), backend));
        // What is under way has passed the director by then.
        self.go_on("that are for all again")
    }

    /// Ends the stream, prints what became of the packets of each phase, and says what of all.
    pub fn finish(mut self) -> Result<Tally> {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Who sends, the last that was started, may be about to send some more.
        let sender = self.workers.pop().map_or(Ok(()), joined);
        // If some are lost, the tally says how many.
        let _ = eventually(PATIENCE, "the last packets to arrive", || {
            let (sent, arrived) = (self.sent(), lock(&self.shared.arrived).len());
            Ok(if arrived >= sent { Seen::Yes(()) } else { Seen::NotYet(format!("{arrived} of {sent}")) })
        });
        self.shared.over.store(true, Ordering::SeqCst);
        let ended: Vec<_> = self.workers.drain(..).map(joined).chain([sender]).collect();
        println!("{:<52}{:>8}{:>7}{:>6}{:>6}{:>6}", "while", "packets", "flows", "lost", "twice", "wrong");
        let all = 0..self.sent();
        for (what, range) in self.phases.iter().chain([&("all".to_owned(), all.clone())]) {
            let Tally { sent, flows, lost, twice, wrong } = self.tally(range.clone());
            println!("{what:<52}{sent:>8}{flows:>7}{lost:>6}{twice:>6}{wrong:>6}");
        }
        for (number, flow) in self.lost(all.clone()) {
            println!("packet {number}, of flow {flow}, is lost");
        }
        ended.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(self.tally(all))
    }

    /// Numbers and flows of those of these numbers that did not arrive.
    fn lost(&self, range: Range<usize>) -> Vec<(usize, u64)> {
        let arrived: HashSet<_> = lock(&self.shared.arrived).iter().map(|it| it.number as usize).collect();
        let sent = lock(&self.shared.sent);
        range.filter(|number| !arrived.contains(number)).map(|number| (number, sent[number])).collect()
    }

    fn sent(&self) -> usize {
        lock(&self.shared.sent).len()
    }

    /// What became of the packets of these numbers.
    fn tally(&self, range: Range<usize>) -> Tally {
        let lost = self.lost(range.clone()).len();
        let (sent, arrived) = (lock(&self.shared.sent), lock(&self.shared.arrived));
        let mut times = vec![0usize; sent.len()];
        let mut homes = HashMap::new();
        let mut wrong = 0;
        for Arrival { number, flow, backend } in arrived.iter().copied() {
            let number = number as usize;
            times[number] += 1;
            let home = *homes.entry(flow).or_insert(backend);
            let forbidden = self.forbidden.iter().any(|(flows, at)| flows.contains(&flow) && *at == backend);
            if range.contains(&number) && (home != backend || forbidden) {
                wrong += 1;
            }
        }
        let mut flows = sent[range.clone()].to_vec();
        flows.sort_unstable();
        flows.dedup();
        let times = &times[range.clone()];
        Tally {
            sent: range.len(),
            flows: flows.len(),
            lost,
            twice: times.iter().map(|times| times.saturating_sub(1)).sum(),
            wrong,
        }
    }
}

impl Shared {
    fn send(&self, socket: &impl AsRawFd, to: Mac, from: Mac) -> Result<()> {
        let transmit = |flow: u64, flags: u8| -> Result<()> {
            self.wait_for_room()?;
            let number = {
                let mut sent = lock(&self.sent);
                sent.push(flow);
                sent.len() as u64 - 1
            };
            let payload = [MARK, number.to_be_bytes(), flow.to_be_bytes()].concat();
            let frame = packet(flow, flags).with(|p| (p.to, p.from, p.payload) = (to, from, payload)).bytes();
            let length =
                send(socket.as_raw_fd(), &frame, MsgFlags::empty()).context("cannot send a frame")?;
            ensure!(length == frame.len(), "a frame was sent in part");
            Ok(())
        };
        let open = || {
            let flow = self.opened.fetch_add(1, Ordering::SeqCst);
            [SYN, ACK].into_iter().try_for_each(|flags| transmit(flow, flags))
        };
        (0..KNOWN).try_for_each(|_| open())?;
        let mut turn = 0;
        while !self.stop.load(Ordering::SeqCst) {
            for kind in 0..KINDS {
                transmit((KINDS * turn + kind) % KNOWN, ACK)?;
            }
            turn += 1;
            if turn.is_multiple_of(NEW_EVERY) {
                (0..KINDS).try_for_each(|_| open())?;
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn wait_for_room(&self) -> Result<()> {
        eventually(PATIENCE, "packets under way to arrive", || {
            let under_way = lock(&self.sent).len().saturating_sub(lock(&self.arrived).len());
            Ok(if under_way < WINDOW { Seen::Yes(()) } else { Seen::NotYet(format!("{under_way} missing")) })
        })
    }

    fn take_in(&self, socket: &impl AsRawFd, mac: Mac, backend: usize) -> Result<()> {
        let mut frame = [0; 2048];
        while !self.over.load(Ordering::SeqCst) {
            let length = match recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error).context("cannot receive a frame"),
            };
            // A switch may flood what is another one's.
            if let Some((number, flow)) = numbers(&frame[..length]).filter(|_| frame.starts_with(&mac)) {
                lock(&self.arrived).push(Arrival { number, flow, backend });
            }
        }
        Ok(())
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        // After a failure; the workers end by themselves.
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

/// Number and flow, if it is one of ours.
fn numbers(frame: &[u8]) -> Option<(u64, u64)> {
    let payload = frame.len().checked_sub(PAYLOAD).and_then(|at| frame.get(at..))?.strip_prefix(&MARK)?;
    let (number, flow) = payload.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(flow.try_into().ok()?)))
}

/// Each flow has a client of its own, of which there is no more than this.
fn packet(flow: u64, flags: u8) -> Packet {
    let client4 = SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + flow as u32).into(), 40_000);
    let client6 = Ipv6Addr::new(0xfd00, 0xaa, 0, 0, 0, 0, (flow >> 16) as u16, flow as u16);
    let (vip4, vip6) = (SocketAddr::new(VIP4, PORT), SocketAddr::new(VIP6, PORT));
    match flow % KINDS {
        0 => Packet::tcp(client4, vip4, flags),
        1 => Packet::udp(client4, vip4),
        _ => Packet::tcp(SocketAddr::new(client6.into(), 40_000), vip6, flags),
    }
}

/// Gives every device that receives on the way a ring of its own, which a veth has with an XDP program, or with GRO if
/// its peer has no TSO (`veth_skb_is_eligible_for_gro`). Without, frames wait in the backlog of a CPU, which is the whole
/// machine's: when other namespaces fill it (`net.core.netdev_max_backlog`), the kernel drops ours. GRO merges none of
/// them: each has the sequence number of the one before.
fn own_rings(net: &Network) -> Result<()> {
    let own_ring =
        |netns: &Netns, device: &str| netns.run("ethtool", &["-K", device, "tso", "off", "gro", "on"])?.ok();
    for node in net.nodes() {
        for link in &node.links {
            own_ring(&node.netns, &link.device)?;
            own_ring(&net.switch, &port(&node.role, link))?;
        }
    }
    Ok(())
}

fn socket_of(node: &Node) -> Result<std::os::fd::OwnedFd> {
    node.netns.enter(|| packet_socket(&node.links[0].device))?
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn joined(worker: JoinHandle<Result<Result<()>>>) -> Result<()> {
    worker.join().map_err(|_| anyhow!("a worker panicked"))?.context("in its namespace")?
}

/// Whoever counts nothing finds nothing.
#[test]
fn each_kind_of_fault_is_counted() {
    let arrived = |number, flow, backend| Arrival { number, flow, backend };
    let shared = Shared {
        sent: Mutex::new(vec![0, 1, 0, 1, 2, 3]),
        // 2 is lost, 3 comes twice, once to another backend than 1 did; 4 is where no new flow may be.
        arrived: Mutex::new(vec![
            arrived(0, 0, 0),
            arrived(1, 1, 1),
            arrived(3, 1, 1),
            arrived(3, 1, 0),
            arrived(4, 2, 2),
            arrived(5, 3, 1),
        ]),
        ..Shared::default()
    };
    let (shared, forbidden) = (Arc::new(shared), vec![(2..3, 2)]);
    let numbered = Numbered { shared, workers: Vec::new(), phases: Vec::new(), forbidden };
    assert_eq!(numbered.tally(0..6), Tally { sent: 6, flows: 4, lost: 1, twice: 1, wrong: 2 });
    assert_eq!(numbered.tally(0..2), Tally { sent: 2, flows: 2, lost: 0, twice: 0, wrong: 0 });
    assert_eq!(numbered.tally(2..4), Tally { sent: 2, flows: 2, lost: 1, twice: 1, wrong: 1 });
}
