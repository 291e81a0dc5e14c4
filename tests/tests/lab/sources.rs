//! Who may open connections, and how many: one client is denied and limited, another one is served.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    config::Config,
    hello::Session,
    lab::Lab,
    netns::Netns,
    topo::{Topology, VIP4, VIP6},
};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket},
};

use crate::setup::{HelloLab, PORT, SERVICE, said, service, until_verdict, verdict};

/// Begins a connection from `source`, without waiting for it.
fn begin(netns: &Netns, source: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    netns.enter(|| {
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, SockProtocol::Tcp)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(fd)),
            Err(error) => Err(error.into()),
        }
    })?
}

/// A client's session from `source`.
fn open(netns: &Netns, source: IpAddr, to: SocketAddr) -> Result<Session> {
    let stream = begin(netns, source, to)?;
    nix::poll::poll(
        &mut [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&stream), nix::poll::PollFlags::POLLOUT)],
        nix::poll::PollTimeout::try_from(lb_tests::hello::ANSWER_LIMIT)?,
    )?;
    stream.peer_addr().context("connecting")?;
    stream.set_nonblocking(false)?;
    Session::greet(stream)
}

struct Clients<'lab> {
    hello: HelloLab<'lab>,
    to: SocketAddr,
    /// The one that rules are about, and the other.
    ruled: IpAddr,
    free: IpAddr,
}

impl Clients<'_> {
    fn open(&self, source: IpAddr) -> Result<Session> {
        open(self.hello.client(), source, self.to)
    }

    /// A connection of the ruled client is not opened, and one more packet is counted under `why`.
    fn is_refused(&self, why: &str) -> Result<()> {
        let before = verdict(&self.hello.agent.stats()?, why)?;
        let stream = begin(self.hello.client(), self.ruled, self.to)?;
        until_verdict(&self.hello.agent, why, before + 1)?;
        let error = stream.peer_addr().err().context("it is connected")?;
        ensure!(error.kind() == ErrorKind::NotConnected, "{error}");
        Ok(())
    }

    fn edit(&self, args: &[&str]) -> Result<()> {
        self.hello.agent.lb(&[&["service", "edit", SERVICE], args].concat())?.ok()?;
        Ok(())
    }
}

/// A second address of the client's, and a service whose file has a rule about neither.
fn clients(lab: &Lab, vip: IpAddr) -> Result<Clients<'_>> {
    let (free, ruled, length) = match vip {
        IpAddr::V4(_) => (lab.net.client().ipv4(), "172.18.14.201".parse()?, 24),
        IpAddr::V6(_) => (lab.net.client().ipv6(), "fd00:18:14::201".parse()?, 64),
    };
    lab.net.client().netns.ip(&format!("addr add {ruled}/{length} dev eth0"))?;
    let other = if vip.is_ipv4() { "10.99.0.0/16" } else { "2001:db8::/32" };
    let backends =
        lab.net.backends.iter().map(|backend| if vip.is_ipv4() { backend.ipv4() } else { backend.ipv6() });
    let mut service = service(vip, backends);
    service.more = format!("sources: [{{prefix: \"{other}\", action: deny}}]");
    let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service]))?;
    Ok(Clients { hello, to: SocketAddr::new(vip, PORT), ruled, free })
}

#[test]
fn one_client_is_denied_and_another_is_served() {
    for vip in [VIP4, VIP6] {
        Lab::test(Topology::one_segment(2), |lab| {
            let clients = clients(lab, vip)?;
            let (agent, ruled) = (&clients.hello.agent, clients.ruled);
            let mut established = clients.open(ruled)?;
            clients.edit(&["--source", &format!("{ruled} deny")])?;
            clients.is_refused("dropped-denied")?;
            established.echo(b"what is established goes on")?;
            clients.open(clients.free)?.echo(b"the other one is served")?;
            said(&agent.lb(&["service", "show", SERVICE])?.ok()?, &[&format!("source: {ruled}"), "deny"])?;
            // Neither another agent nor a reload of the file lets the client in, and both rules are saved.
            agent.kill9()?;
            agent.start()?;
            clients.is_refused("dropped-denied")?;
            established.echo(b"across the restart")?;
            said(&agent.lb(&["save"])?.ok()?, &["sources:", &ruled.to_string(), "action: deny"])?;
            clients.edit(&["--del-source", &ruled.to_string()])?;
            clients.open(ruled)?.echo(b"it may again")?;
            Ok(())
        });
    }
}

#[test]
fn one_client_is_limited_and_another_is_served() {
    for vip in [VIP4, VIP6] {
        Lab::test(Topology::one_segment(2), |lab| {
            let clients = clients(lab, vip)?;
            let (all, each) = if vip.is_ipv4() { ("0.0.0.0/0", "32") } else { ("::/0", "128") };
            // One a minute: within the test nobody gets more than the burst.
            clients.edit(&["--source", &format!("{all} limit 1/m burst 5 per {each}")])?;
            let mut sessions = (0..5).map(|_| clients.open(clients.ruled)).collect::<Result<Vec<_>>>()?;
            clients.is_refused("dropped-limited")?;
            let mut others = (0..5).map(|_| clients.open(clients.free)).collect::<Result<Vec<_>>>()?;
            for session in sessions.iter_mut().chain(&mut others) {
                session.echo(&[7; 10_000])?;
            }
            // Another agent gives it no room, another rule does.
            clients.hello.agent.kill9()?;
            clients.hello.agent.start()?;
            clients.is_refused("dropped-limited")?;
            clients.edit(&["--source", &format!("{} allow", clients.ruled)])?;
            for _ in 0..10 {
                clients.open(clients.ruled)?.echo(b"no limit")?;
            }
            sessions.iter_mut().try_for_each(|session| session.echo(b"all of them go on"))
        });
    }
}
