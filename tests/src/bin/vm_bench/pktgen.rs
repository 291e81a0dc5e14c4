//! The kernel's packet generator (Documentation/networking/pktgen.rst), which is told by files what to do.

use std::{fs, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use lb_tests::{netns::Netns, packet::Mac};

use crate::lab::{PORT, text};

/// The VM has one CPU; every network namespace has a thread of its own there.
const THREAD: &str = "kpktgend_0";
/// 60 bytes and the frame check sequence: the shortest frame.
const FRAME: u32 = 60;
const CLIENT_PORT: u16 = 40000;

/// One device to send by.
pub struct Pktgen<'a> {
    netns: &'a Netns,
    device: &'static str,
}

/// Where packets go.
#[derive(Clone, Copy)]
pub struct Target {
    pub mac: Mac,
    pub address: Ipv4Addr,
}

/// Clients: so many addresses in turn.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    pub first: u32,
    pub number: u32,
}

impl<'a> Pktgen<'a> {
    pub fn new(netns: &'a Netns, device: &'static str) -> Result<Self> {
        let pktgen = Self { netns, device };
        pktgen.tell(THREAD, &["rem_device_all", &format!("add_device {device}")])?;
        Ok(pktgen)
    }

    /// Sends so many packets; guest ns that it took, which are instructions.
    pub fn send(&self, to: Target, clients: Clients, packets: u32) -> Result<u64> {
        let Clients { first, number } = clients;
        let last = Ipv4Addr::from(first + number - 1);
        self.tell(
            self.device,
            &[
                &format!("count {packets}"),
                "clone_skb 0",
                &format!("pkt_size {FRAME}"),
                "delay 0",
                "flag NO_TIMESTAMP",
                &format!("dst_mac {}", text(to.mac)),
                &format!("dst_min {0}", to.address),
                &format!("dst_max {0}", to.address),
                &format!("src_min {}", Ipv4Addr::from(first)),
                &format!("src_max {last}"),
                &format!("udp_src_min {CLIENT_PORT}"),
                &format!("udp_src_max {CLIENT_PORT}"),
                &format!("udp_dst_min {PORT}"),
                &format!("udp_dst_max {PORT}"),
            ],
        )?;
        // Ends when all is sent.
        self.tell("pgctrl", &["start"])?;
        let report = self.netns.enter(|| fs::read_to_string(path(self.device)))??;
        let Outcome { nanoseconds, sent, refused } =
            outcome(&report).with_context(|| format!("pktgen says:\n{report}"))?;
        ensure!(sent == u64::from(packets), "pktgen sent {sent} of {packets} packets; it says:\n{report}");
        // For each it sends one more: the count is right, but a client was left out, and another one sends twice.
        ensure!(
            refused == 0,
            "{device} refused {refused} packets, for nobody took them off its ring of 256 in time; pktgen says:\n{report}",
            device = self.device
        );
        Ok(nanoseconds)
    }

    fn tell(&self, file: &str, commands: &[&str]) -> Result<()> {
        self.netns.enter(|| {
            commands.iter().try_for_each(|command| {
                fs::write(path(file), format!("{command}\n"))
                    .with_context(|| format!("pktgen refused `{command}` for {file}"))
            })
        })?
    }
}

/// Of the thread's network namespace.
fn path(file: &str) -> PathBuf {
    PathBuf::from("/proc/thread-self/net/pktgen").join(file)
}

struct Outcome {
    nanoseconds: u64,
    sent: u64,
    refused: u64,
}

/// Of `Result: OK: 363400(c363000+d400) usec, 30000 (60byte,0frags)`, and a line `82553pps 39Mb/sec (..) errors: 0`.
fn outcome(report: &str) -> Option<Outcome> {
    let (_, ok) = report.split_once("Result: OK: ")?;
    let (microseconds, rest) = ok.split_once('(')?;
    let (_, rest) = rest.split_once("usec, ")?;
    let (sent, rest) = rest.split_once(' ')?;
    let (_, refused) = rest.split_once("errors: ")?;
    Some(Outcome {
        nanoseconds: microseconds.parse::<u64>().ok()? * 1000,
        sent: sent.parse().ok()?,
        refused: refused.trim().parse().ok()?,
    })
}
