//! Who takes posts: keeps each request, and answers as it is told.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};

use crate::topo::Node;

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    /// `POST /hook?x=1 HTTP/1.1`
    pub line: String,
    /// As they came, in small letters up to the colon.
    pub headers: Vec<String>,
    pub body: serde_json::Value,
    /// The status that it was answered with.
    pub answered: u16,
}

/// A listening server; its thread ends with the process.
pub struct Receiver {
    pub at: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    posts: Vec<Posted>,
    /// Answers to the next requests; then 204.
    statuses: Vec<u16>,
}

impl Receiver {
    /// On a port of the node's own choice; the first requests are answered with these statuses.
    pub fn start(node: &Node, statuses: &[u16]) -> Result<Self> {
        let address = node.ipv4();
        let listener = node.netns.enter(|| TcpListener::bind((address, 0)))??;
        let at = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { statuses: statuses.to_vec(), ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who breaks off has not posted anything.
                let _ = answer(stream, &shared);
            }
        });
        Ok(Self { at, state })
    }

    pub fn posts(&self) -> Vec<Posted> {
        lock(&self.state).posts.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut posted = Posted::default();
    reader.read_line(&mut posted.line)?;
    posted.line.truncate(posted.line.trim_end().len());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            length = value.parse().context("a length")?;
        }
        posted.headers.push(format!("{name}: {value}"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    posted.body = serde_json::from_slice(&body)?;
    let mut shared = lock(state);
    posted.answered = if shared.statuses.is_empty() { 204 } else { shared.statuses.remove(0) };
    let status = posted.answered;
    shared.posts.push(posted);
    drop(shared);
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(())
}
