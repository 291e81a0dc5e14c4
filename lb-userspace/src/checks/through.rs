//! The checks through the VIP: on a thread of their own in a network namespace of its own. On the director the VIP is
//! local, so the kernel would connect a check to the director itself, and discard what comes from the VIP.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::{
    ports::{Ports, Target},
    queue::{Maker, Queue},
};
use crate::{
    clock::monotonic,
    health::{Failure, Outcome, Pass, Probe, Wanted, Way},
    model::check::ProbePorts,
    net::{Netlink, NewAddress, ethtool, host_prefix, namespace},
};

/// The namespace's device.
const INNER: &str = "probe";

/// How backends are reached, by their address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    pub ports: ProbePorts,
    pub backends: BTreeMap<IpAddr, Reached>,
    /// All addresses that checks come from.
    pub sources: BTreeSet<IpAddr>,
}

/// How one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The director itself: the VIP is its own.
    Local,
    /// By its record in `HOSTS`.
    By { host: u32, source: IpAddr },
    /// Its MAC address is not known.
    Unresolved,
    /// Nothing to come from.
    NoSource,
}

/// The thread. When this is dropped it ends, and its namespace with it.
#[derive(Debug)]
pub struct Through {
    orders: UnboundedSender<Order>,
    /// MAC of the namespace's device.
    pub mac: [u8; 6],
}

#[derive(Debug)]
enum Order {
    Attempt(Vec<Wanted>),
    Follow(Arc<Ways>),
}

impl Through {
    /// Makes the namespace, with a pair of devices into it whose outer end is called `outer`. `on_inner` is called in
    /// it with the name of the inner one; what it returns lives as long as the thread.
    ///
    /// # Errors
    /// The kernel or the capabilities do not allow it.
    pub async fn start<K: 'static>(
        outer: String,
        maker: Maker,
        on_inner: impl FnOnce(&str) -> Result<K> + Send + 'static,
    ) -> Result<Self> {
        let (orders, wanted) = unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        thread::Builder::new().name("checks-vip".to_owned()).spawn(move || {
            let made = make(&outer, on_inner);
            let (runtime, inside, kept) = match made {
                Ok(made) => made,
                // If nobody listens, nobody wants to know.
                Err(error) => return drop(ready.send(Err(error))),
            };
            drop(ready.send(Ok(inside.mac)));
            runtime.block_on(inside.run(wanted, maker));
            drop(kept);
        })?;
        let mac = is_ready.await.context("the thread of the checks through the VIP ended")??;
        Ok(Self { orders, mac })
    }

    pub(super) fn attempt(&self, wanted: Vec<Wanted>) {
        // The thread ends only after us.
        let _ = self.orders.send(Order::Attempt(wanted));
    }

    /// From now on backends are reached so.
    pub fn follow(&self, ways: Arc<Ways>) {
        // As above.
        let _ = self.orders.send(Order::Follow(ways));
    }
}

/// The namespace as the thread sees it.
struct Inside {
    netlink: Netlink,
    index: u32,
    mac: [u8; 6],
    ways: Arc<Ways>,
    ports: Ports,
}

fn make<K>(
    outer: &str,
    on_inner: impl FnOnce(&str) -> Result<K>,
) -> Result<(tokio::runtime::Runtime, Inside, K)> {
    let outside = namespace::enter_new().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "a network namespace takes CAP_SYS_ADMIN, which lb has not (CapabilityBoundingSet= of its unit)"
        ),
        _ => anyhow::Error::from(error).context("making a network namespace"),
    })?;
    // After that: its descriptors are of the namespace that they are made in.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.block_on(Inside::make(outer, outside))?;
    let kept = on_inner(INNER)?;
    Ok((runtime, inside, kept))
}

impl Inside {
    async fn make(outer: &str, outside: File) -> Result<Self> {
        let netlink = Netlink::connect()?;
        netlink.add_veth(INNER, outer, outside.as_fd()).await?;
        let links = netlink.links().await?;
        if let Some(lo) = links.iter().find(|link| link.loopback) {
            netlink.set_up(lo.index).await?;
        }
        let link = links.iter().find(|link| link.name == INNER).context("the device is not there")?;
        // A frame that XDP redirects arrives only where NAPI runs (`veth_xdp_xmit` in drivers/net/veth.c).
        ethtool::set_feature(INNER, "rx-gro", true)?;
        netlink.set_up_without_arp(link.index).await?;
        netlink.add_default_route(link.index, Ipv4Addr::UNSPECIFIED.into()).await?;
        if let Err(error) = netlink.add_default_route(link.index, Ipv6Addr::UNSPECIFIED.into()).await {
            tracing::debug!("no checks through IPv6 VIPs: {error}");
        }
        Ok(Self { netlink, index: link.index, mac: link.mac, ways: Arc::default(), ports: Ports::default() })
    }

    async fn run(mut self, mut orders: UnboundedReceiver<Order>, maker: Maker) {
        let mut queue = Queue::default();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Follow(ways)) => self.follow(ways).await,
                    Some(Order::Attempt(wanted)) => queue.extend(wanted),
                    None => return queue.end(&maker),
                },
                () = queue.next_due() => {
                    for wanted in queue.take_due(monotonic()) {
                        self.begin(wanted, maker.clone());
                    }
                }
            }
        }
    }

    fn begin(&mut self, Wanted { due, id, probe }: Wanted, maker: Maker) {
        match self.way(&probe) {
            Ok((mut probe, mut way, target)) => {
                let owed = maker.owe(id);
                tokio::spawn(async move {
                    let taken = target.take().await;
                    way.turn = taken.turn;
                    probe.way = Some(way);
                    owed.make(due, &probe).await;
                });
            }
            Err(result) => maker.tell(id, Outcome { took: Duration::ZERO, result }),
        }
    }

    async fn follow(&mut self, ways: Arc<Ways>) {
        for gone in self.ways.sources.difference(&ways.sources) {
            if let Err(error) = self.netlink.delete_address(self.index, *gone, host_prefix(*gone)).await {
                tracing::warn!("checks through the VIP: {error}");
            }
        }
        for new in ways.sources.difference(&self.ways.sources) {
            if let Err(error) = self.netlink.add_address(NewAddress::source(self.index, *new)) {
                tracing::warn!("checks through the VIP: {error}");
            }
        }
        self.ports.follow(ways.ports);
        self.ways = ways;
    }

    /// The attempt as it is to be made once it has a port, or its result if it is not to be made.
    fn way(&mut self, probe: &Probe) -> Result<(Probe, Way, Arc<Target>), Result<Pass, Failure>> {
        let (host, source) = self.ways.to(probe.backend.address)?;
        let way = Way { mark: host, ports: self.ways.ports, turn: 0 };
        let probe = Probe { source: probe.source.or(Some(source)), ..probe.clone() };
        let target = self.ports.of(probe.target);
        Ok((probe, way, target))
    }
}

impl Ways {
    /// The record of a backend in `HOSTS` and what its checks come from, or the result of one that cannot be made.
    fn to(&self, backend: IpAddr) -> Result<(u32, IpAddr), Result<Pass, Failure>> {
        match self.backends.get(&backend) {
            Some(Reached::By { host, source }) => Ok((*host, *source)),
            Some(Reached::Local) => Err(Ok(Pass::not_made("the backend is the director itself"))),
            Some(Reached::NoSource) => Err(Ok(Pass::not_made("no address to come from"))),
            Some(Reached::Unresolved) => Err(Err(Failure { why: "its MAC address is not known".to_owned() })),
            // The way is new, and the agent has not said yet who is where: it tries again if that failed.
            None => Err(Ok(Pass::not_made("its way is not known yet"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mac_address_that_is_not_there_is_a_failure() {
        let [by, unresolved, local, unknown] = [1, 2, 3, 4].map(|n| IpAddr::from([10, 0, 0, n]));
        let source = IpAddr::from([10, 0, 0, 9]);
        let reached = [
            (by, Reached::By { host: 7, source }),
            (unresolved, Reached::Unresolved),
            (local, Reached::Local),
        ];
        let ways = Ways { backends: reached.into(), ..Ways::default() };
        assert_eq!(ways.to(by), Ok((7, source)));
        assert_eq!(ways.to(local), Err(Ok(Pass::not_made("the backend is the director itself"))));
        assert!(ways.to(unresolved).is_err_and(|result| result.is_err()));
        // Of a way that was just made nothing is known: that is no reason to take all backends out.
        for address in [by, unresolved, local, unknown] {
            assert!(Ways::default().to(address).is_err_and(|result| result.is_ok()));
        }
    }
}
