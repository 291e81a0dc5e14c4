//! A proxy in front of a real server, which breaks off the server's answer after so many bytes: what no server does on
//! request.
//!
//! Each of its ports takes one connection at a time, with a fault of its own. What the client sends goes to the server
//! as it comes, its end too: a client that resets resets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::{sleep, timeout},
};

use crate::{topo::Node, wait::PATIENCE};

/// What becomes of the server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It passes.
    None,
    /// It ends after so many bytes, in order (FIN).
    Closes(usize),
    /// The same with a reset. Of more than ten segments some may be lost by it (RFC 6928).
    Resets(usize),
    /// After so many bytes nothing more comes, and the connection stays.
    Hangs(usize),
    /// It comes in pieces of so many bytes, each so long after the one before.
    Drips(usize, Duration),
    /// It is held back once for so long after `at` bytes, and for ever after so many bytes.
    Pauses { at: usize, pause: Duration, hangs: usize },
    /// The byte of this number has its bits turned round.
    Lies(usize),
}

/// What the client got.
#[derive(Debug, Default)]
pub struct Passed {
    pub bytes: Vec<u8>,
}

/// One port of the proxy.
#[derive(Debug)]
pub struct Port {
    pub at: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    ended: UnboundedReceiver<Result<Passed>>,
}

/// Its thread, in the node's namespace; ends when dropped, and connections under way with it.
#[derive(Debug)]
pub struct Proxy {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Proxy {
    /// With so many ports, to a server on the same node.
    pub fn start(node: &Node, server: u16, ports: usize) -> Result<(Self, Vec<Port>)> {
        let (stop, stopped) = oneshot::channel();
        let (at, server) = (SocketAddr::new(node.ipv4(), 0), SocketAddr::new(node.ipv4(), server));
        let (mut outside, mut inside) = (Vec::new(), Vec::new());
        for _ in 0..ports {
            let listener = node.netns.enter(|| TcpListener::bind(at))??;
            listener.set_nonblocking(true)?;
            let fault = Arc::new(Mutex::new(Fault::None));
            let (ends, ended) = unbounded_channel();
            outside.push(Port { at: listener.local_addr()?, fault: Arc::clone(&fault), ended });
            inside.push((listener, fault, ends));
        }
        let thread = node.netns.spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for (listener, fault, ends) in inside {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    tokio::spawn(take(listener, server, fault, ends));
                }
                // It is sent, or the sender is gone.
                let _ = stopped.await;
                Ok(())
            })
        })?;
        Ok((Self { stop: Some(stop), thread: Some(thread) }, outside))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Ok(Err(error)))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the proxy: {error:#}");
        }
    }
}

impl Port {
    /// What becomes of the next connection.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Waits for its end.
    pub async fn passed(&mut self) -> Result<Passed> {
        let ended = timeout(PATIENCE, self.ended.recv()).await.context("the client does not end")?;
        ended.ok_or_else(|| anyhow!("the proxy has ended"))?
    }
}

async fn take(
    listener: tokio::net::TcpListener,
    server: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    ends: UnboundedSender<Result<Passed>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let fault = *fault.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = carry(client, server, fault).await.context("the proxy");
        if ends.send(passed).is_err() {
            return;
        }
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, fault: Fault) -> Result<Passed> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut passed = Passed::default();
    let (to_reset, is_client_gone) = {
        let (from_client, mut to_client) = client.split();
        let (mut from_server, to_server) = server.split();
        let mut asking = pin!(ask(from_client, to_server));
        tokio::select! {
            asked = &mut asking => (asked?, true),
            () = answer(&mut from_server, &mut to_client, fault, &mut passed.bytes) => match fault {
                Fault::Resets(after) if passed.bytes.len() == after => (true, false),
                _ => (asking.await?, true),
            },
        }
    };
    if to_reset {
        let other = if is_client_gone { &server } else { &client };
        SockRef::from(other).set_linger(Some(Duration::ZERO))?;
    }
    Ok(passed)
}

/// What the client says, until its end; whether that is a reset.
async fn ask(mut client: ReadHalf<'_>, mut server: WriteHalf<'_>) -> Result<bool> {
    let mut bytes = [0; 4096];
    loop {
        match client.read(&mut bytes).await {
            Ok(0) => return Ok(false),
            // The server may be gone: what else the client says is nobody's.
            Ok(length) => drop(server.write_all(&bytes[..length]).await),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the server says, as far as it passes. A client that is gone shows in [`ask`].
async fn answer(server: &mut ReadHalf<'_>, client: &mut WriteHalf<'_>, fault: Fault, passed: &mut Vec<u8>) {
    let most = match fault {
        Fault::Closes(most) | Fault::Resets(most) | Fault::Hangs(most) => most,
        Fault::Pauses { hangs, .. } => hangs,
        Fault::None | Fault::Drips(..) | Fault::Lies(_) => usize::MAX,
    };
    let mut bytes = [0; 4096];
    while passed.len() < most {
        let room = match fault {
            Fault::Pauses { at, .. } if passed.len() < at => at - passed.len(),
            _ => most - passed.len(),
        };
        let room = bytes.len().min(room);
        let length = match server.read(&mut bytes[..room]).await {
            Ok(length) if length > 0 => length,
            // Its end, in order or not.
            _ => return drop(client.shutdown().await),
        };
        let bytes = &mut bytes[..length];
        if let Fault::Lies(at) = fault
            && let Some(byte) = at.checked_sub(passed.len()).and_then(|at| bytes.get_mut(at))
        {
            *byte = !*byte;
        }
        passed.extend_from_slice(bytes);
        match fault {
            Fault::Drips(piece, pause) => {
                for piece in bytes.chunks(piece) {
                    sleep(pause).await;
                    drop(client.write_all(piece).await);
                }
            }
            Fault::Pauses { at, pause, .. } if passed.len() == at => {
                drop(client.write_all(bytes).await);
                sleep(pause).await;
            }
            _ => drop(client.write_all(bytes).await),
        }
    }
    if matches!(fault, Fault::Closes(_)) {
        drop(client.shutdown().await);
    }
}
