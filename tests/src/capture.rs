//! What went over the wires of a lab, for the report of a failure.
//!
//! A tcpdump in each namespace writes the heads of all packets into two files that take turns: cheap enough to be
//! always on, and what matters is the end.

use std::{fs, io, net::UdpSocket, path::PathBuf};

use anyhow::Result;

use crate::{
    netns::Netns,
    proc::{self, Proc, tail},
    scope::Scope,
    wait::{PATIENCE, Seen, eventually},
};

/// Set to 0 to record nothing.
const FLAG: &str = "LB_CAPTURE";
/// Packets of each node that a report shows.
const SHOWN: usize = 60;
/// In the last packet of a recording.
const END: &[u8] = b"end of the recording";

/// A running recording of one namespace.
pub struct Capture {
    tcpdump: Proc,
    files: PathBuf,
    role: String,
}

impl Capture {
    /// Whether labs record: unless they shall not, or cannot (the VM has no tcpdump).
    pub fn wanted() -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::var(FLAG).map_or(true, |value| value != "0")
            && std::env::split_paths(&path).any(|dir| dir.join("tcpdump").is_file())
    }

    /// Records a namespace until this is dropped.
    pub fn start(scope: &Scope, netns: &Netns, role: &str) -> Result<Self> {
        let dir = scope.dir().join("packets").join(role);
        fs::create_dir_all(&dir)?;
        let files = dir.join("pcap");
        let mut command = netns.command("tcpdump")?;
        // 96 bytes: both tags, IPv6, TCP without options. Two files of 1 MB in turn; -U: written as they come.
        command.args(["-i", "any", "-s", "96", "-B", "512", "-U", "-C", "1", "-W", "2", "-Z", "root", "-w"]);
        command.arg(&files);
        let tcpdump = Proc::spawn("tcpdump", command, &dir.join("log"), scope.lifetime())?;
        Ok(Self { tcpdump, files, role: role.to_owned() })
    }

    /// The end of it, as text.
    pub fn describe(&mut self, netns: &Netns, into: &mut String) {
        let packets = self.packets(netns).unwrap_or_else(|error| format!("{error:#}"));
        into.push_str(&format!("--- {}: the last {SHOWN} packets\n{}\n", self.role, tail(&packets, SHOWN)));
    }

    fn packets(&mut self, netns: &Netns) -> Result<String> {
        self.complete(netns)?;
        let mut text = String::new();
        for file in self.files()? {
            // Inside, where the numbers of the interfaces have names.
            let mut command = netns.command("tcpdump")?;
            command.args(["-nn", "-e", "-Z", "root", "-r"]).arg(file);
            // A file that ends in the middle of a packet is told as an error, behind what could be read.
            text += &proc::run(command)?.stdout;
        }
        Ok(text)
    }

    /// Waits until what was sent before this call is written, by a packet to look for.
    fn complete(&mut self, netns: &Netns) -> Result<()> {
        netns.enter(|| UdpSocket::bind("127.0.0.1:0")?.send_to(END, "127.0.0.1:9"))??;
        // It hands on what it has at least once a second (libpcap's `to_ms`).
        eventually(PATIENCE, "tcpdump to write its last packet", || {
            self.tcpdump.check_alive()?;
            for file in self.files()? {
                if fs::read(file)?.windows(END.len()).any(|bytes| bytes == END) {
                    return Ok(Seen::Yes(()));
                }
            }
            Ok(Seen::NotYet("not there".to_owned()))
        })
    }

    /// The older one first.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let numbered = |n: u8| self.files.with_file_name(format!("pcap{n}"));
        let mut found = Vec::new();
        for file in [0, 1].map(numbered) {
            match fs::metadata(&file) {
                Ok(there) => found.push((there.modified()?, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, file)| file).collect())
    }
}
