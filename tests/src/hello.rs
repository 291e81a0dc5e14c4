//! A server that says its name and then echoes, and the client that asks it: TCP, or SCTP as a stream.
//!
//! On connect the server sends `NAME\n`; then it sends every byte back.

use std::{
    collections::{BTreeMap, HashMap},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{netns::Netns, topo::Node};

/// How long one answer may take before the client calls it a failure: TCP may have to retransmit several times.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How often the accepting thread looks whether it should end.
const POLL: Duration = Duration::from_millis(20);

/// A server in a backend's namespace; ends when dropped.
pub struct Hello {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    stop: AtomicBool,
    /// Clients accepted, in order.
    accepted: Mutex<Vec<SocketAddr>>,
    /// The open ones, which the end of the server ends.
    open: Mutex<HashMap<SocketAddr, Arc<TcpStream>>>,
}

impl Hello {
    /// Listens on every address of the node, both families.
    pub fn start(node: &Node, port: u16) -> Result<Self> {
        Self::start_on(node, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// Listens on this address alone.
    pub fn start_on(node: &Node, at: SocketAddr) -> Result<Self> {
        Self::serve_with(node, node.netns.enter(|| TcpListener::bind(at))??)
    }

    /// The same of SCTP. An address is a must: a server on every address tells clients all of them, for them to send to
    /// any (RFC 9260 section 3.3.3), around the director.
    pub fn start_sctp(node: &Node, at: SocketAddr) -> Result<Self> {
        let listener = node.netns.enter(|| -> Result<_> {
            let socket = sctp(at)?;
            socket.bind(&at.into()).with_context(|| format!("bind to {at}"))?;
            socket.listen(128)?;
            Ok(socket.into())
        })??;
        Self::serve_with(node, listener)
    }

    fn serve_with(node: &Node, listener: TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            name: node.role.clone(),
            stop: AtomicBool::new(false),
            accepted: Mutex::default(),
            open: Mutex::default(),
        });
        let server = Arc::clone(&shared);
        Ok(Self { shared, acceptor: Some(thread::spawn(move || server.accept(&listener))) })
    }

    /// Clients whose connections were accepted so far.
    pub fn accepted(&self) -> Vec<SocketAddr> {
        self.shared.accepted().clone()
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic of the thread has been printed; the client has seen the failure.
            let _ = acceptor.join();
        }
        for stream in self.shared.open().values() {
            // Gone already: as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.stopping() {
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.accepted().push(peer);
                    let stream = Arc::new(stream);
                    self.open().insert(peer, Arc::clone(&stream));
                    let server = Arc::clone(self);
                    thread::spawn(move || {
                        server.serve(&stream);
                        let mut open = server.open();
                        // The client's port may have come back meanwhile.
                        if open.get(&peer).is_some_and(|there| Arc::ptr_eq(there, &stream)) {
                            open.remove(&peer);
                        }
                    });
                }
                Err(_) => wait_readable(listener),
            }
        }
        // Closing would not do: a process that another test starts has a copy of it until it is another program, and
        // who listens there next finds the address in use.
        let _ = SockRef::from(listener).shutdown(Shutdown::Both);
    }

    /// Ends with the connection: an error here is the client's to notice.
    fn serve(&self, mut stream: &TcpStream) {
        if stream.write_all(format!("{}\n", self.name).as_bytes()).is_err() {
            return;
        }
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn accepted(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<TcpStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's open connection.
pub struct Session {
    stream: TcpStream,
    /// The backend that answered.
    pub server: String,
}

impl Session {
    /// Connects from inside `netns` and reads the server's name.
    pub fn open(netns: &Netns, to: SocketAddr) -> Result<Self> {
        netns.enter(|| Self::open_here(to))?
    }

    /// [`Session::open`] for a thread that is inside already.
    pub fn open_here(to: SocketAddr) -> Result<Self> {
        Self::greet(
            TcpStream::connect_timeout(&to, ANSWER_LIMIT).with_context(|| format!("connect to {to}"))?,
        )
    }

    /// An SCTP association, from inside `netns`; from the port `from`, or any with 0.
    pub fn open_sctp(netns: &Netns, from: u16, to: SocketAddr) -> Result<Self> {
        let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let stream = netns.enter(|| -> Result<_> {
            let socket = sctp(to)?;
            socket.bind(&SocketAddr::new(any, from).into())?;
            let connected = socket.connect_timeout(&to.into(), ANSWER_LIMIT);
            connected.with_context(|| format!("SCTP to {to}"))?;
            Ok(socket.into())
        })??;
        Self::said(stream)
    }

    /// Reads the name on a connection just made.
    pub fn greet(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Self::said(stream)
    }

    fn said(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let mut session = Self { stream, server: String::new() };
        loop {
            let mut byte = [0];
            session.stream.read_exact(&mut byte).context("read the server's name")?;
            if byte == *b"\n" {
                return Ok(session);
            }
            session.server.push(char::from(byte[0]));
        }
    }

    /// Longer patience, for tests that interrupt the path on purpose.
    pub fn set_limit(&self, limit: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        Ok(self.stream.set_write_timeout(Some(limit))?)
    }

    /// The client's side.
    pub fn client(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Ends an association with an ABORT.
    pub fn abort(self) -> Result<()> {
        Ok(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?)
    }

    /// Ends a TCP connection with a reset before it returns, so that another may have its four numbers. Closing waits
    /// for the last copy of the descriptor: a process that another test starts has one until it is another program.
    pub fn reset(self) -> Result<()> {
        rustix::net::connect_unspec(&self.stream).context("disconnect")
    }

    /// Ends a TCP connection with a FIN before it returns; closing may wait, see [`Session::reset`].
    pub fn end(self) -> String {
        // Reset by the other side meanwhile: as good.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.server
    }

    /// Sends without waiting for an answer.
    pub fn send(&mut self, data: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(data)?)
    }

    /// Whether something has come back that was not read yet.
    pub fn has_answer(&self) -> Result<bool> {
        self.stream.set_nonblocking(true)?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        match peeked {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends `data`, and checks that the same bytes come back. At most what fits the socket buffers, 64 KiB.
    pub fn echo(&mut self, data: &[u8]) -> Result<()> {
        let whom = || format!("echo through {}", self.server);
        self.stream.write_all(data).with_context(whom)?;
        let mut back = vec![0; data.len()];
        self.stream.read_exact(&mut back).with_context(whom)?;
        ensure!(back == data, "{} sent back other bytes than it was sent", self.server);
        Ok(())
    }
}

/// Opens `count` connections one after the other (each closed before the next) and counts who answered.
pub fn spread(netns: &Netns, to: SocketAddr, count: usize) -> Result<BTreeMap<String, usize>> {
    netns.enter(|| {
        let mut answered = BTreeMap::new();
        for n in 0..count {
            let session = Session::open_here(to).with_context(|| format!("connection {n} of {count}"))?;
            *answered.entry(session.end()).or_default() += 1;
        }
        Ok(answered)
    })?
}

/// std's streams take it as it is: an association with one stream is used like a connection.
fn sctp(family: SocketAddr) -> Result<Socket> {
    Socket::new(Domain::for_address(family), Type::STREAM, Some(Protocol::SCTP)).context("no SCTP sockets")
}

fn wait_readable(listener: &TcpListener) {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(POLL).unwrap_or(PollTimeout::ZERO);
    // Readable, timed out or interrupted: the loop looks again in each case.
    let _ = poll(&mut fds, limit);
}
