//! The real thing: IPVS in a network namespace, configured by `ipvsadm`, read from /proc.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, Write},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use lb_common::counters::Counters;
use lb_tests::{
    netns::Netns,
    packet::Packet,
    proc::{self, Lifetime, Proc},
    scope::Scope,
    wait::{PATIENCE, Seen, eventually},
};

use crate::{
    lab::{self, BACKENDS, CLIENT_MAC, DIRECTOR_MAC, DIRECTOR4, DIRECTOR6, ROUTER4, ROUTER6},
    listing,
    rates::Counted,
    script::{Config, Step, Sysctl},
    view::{Answer, View},
    wire::Wire,
};

/// Our end of the director's wire.
const WIRE: &str = "diff-wire";
/// A service of nobody: its backend's weight says how many commands were carried out, and as long as there is a
/// service IPVS looks at packets.
const COUNTER: &str = "172.18.14.99:9";
const COUNTER_BACKEND: &str = "172.18.14.98:9";
/// Until the kernel has dropped the connections of removed backends.
const FLUSH: Duration = Duration::from_secs(30);

pub struct Ipvs {
    wire: Wire,
    ipvsadm: Ipvsadm,
    services: File,
    connections: File,
    stats: File,
    totals: File,
    director: Netns,
}

/// One `ipvsadm -R` that carries out every line it reads: a process for each command would take most of the time.
struct Ipvsadm {
    process: Proc,
    stdin: ChildStdin,
    done: u16,
}

impl Ipvs {
    pub fn new(scope: &Scope) -> Result<Self> {
        let director = Netns::create(&scope.netns_name("ipvs"), Lifetime::Guarded)?;
        connect(&director)?;
        let (services, connections, stats, totals) = director.enter(|| -> Result<_> {
            let open = |name| File::open(format!("/proc/thread-self/net/{name}"));
            Ok((
                open("ip_vs").context("this kernel has no IPVS")?,
                open("ip_vs_conn").context("this kernel has no IPVS")?,
                open("ip_vs_stats_percpu").context("this kernel has no IPVS")?,
                open("ip_vs_stats").context("this kernel has no IPVS")?,
            ))
        })??;
        let ipvsadm = Ipvsadm::start(&director, scope)?;
        let mut ipvs =
            Self { wire: Wire::open(WIRE)?, ipvsadm, services, connections, stats, totals, director };
        ipvs.ipvsadm.write(&format!("-A -t {COUNTER} -s rr"))?;
        ipvs.ipvsadm.write(&format!("-a -t {COUNTER} -r {COUNTER_BACKEND} -g -w 0"))?;
        ipvs.carry_out(&[])?;
        Ok(ipvs)
    }

    /// Makes the change of a step that changes the configuration.
    pub fn configure(&mut self, step: Step) -> Result<()> {
        if let Step::Set(sysctl) = step {
            return self.set(sysctl, true);
        }
        let command = step.ipvsadm().context("not a step of configuration")?;
        self.carry_out(&[command])
    }

    fn set(&self, sysctl: Sysctl, on: bool) -> Result<()> {
        self.director.sysctl(&format!("ipv4/vs/{}", sysctl.name()), if on { "1" } else { "0" })
    }

    pub fn send(&self, packet: &Packet) -> Result<Answer> {
        self.wire.send(&packet.bytes())
    }

    pub fn view(&mut self) -> Result<View> {
        // In this order: a connection that is listed no more is counted no more.
        let flows = listing::connections(&read(&mut self.connections)?)?;
        let services = listing::services(&read(&mut self.services)?)?;
        let mut view = View { services, flows };
        let counter: std::net::SocketAddr = COUNTER.parse()?;
        view.services.retain(|endpoint, _| endpoint.address != counter.ip());
        Ok(view)
    }

    /// Of all services since the start, deleted ones too.
    pub fn counters(&mut self) -> Result<Counters> {
        Ok(listing::counters(&read(&mut self.stats)?))
    }

    /// Counters and rates of all together, as text that changes when they are taken.
    pub fn totals(&mut self) -> Result<String> {
        read(&mut self.totals)
    }

    /// What `ipvsadm --rate` shows: connections, packets and bytes a second.
    pub fn rates(&self) -> Result<BTreeMap<Counted, [u64; 3]>> {
        self.columns("--rate")
    }

    /// What `ipvsadm --stats` shows: connections, packets and bytes until they were taken last.
    pub fn statistics(&self) -> Result<BTreeMap<Counted, [u64; 3]>> {
        self.columns("--stats")
    }

    fn columns(&self, option: &str) -> Result<BTreeMap<Counted, [u64; 3]>> {
        let text = self.director.run("ipvsadm", &["-L", "-n", option, "--exact"])?.ok()?;
        listing::columns(&text)
    }

    /// Forgets every service and connection: a backend whose removal ends its connections.
    pub fn clear(&mut self, config: &Config) -> Result<()> {
        self.set(Sysctl::ExpireNodest, true)?;
        let mut commands = Vec::new();
        for service in &config.services {
            let remove = |(number, _): &(u8, _)| Step::RemoveBackend(service.endpoint, *number).ipvsadm();
            commands.extend(service.backends.iter().filter_map(remove));
            commands.extend(Step::DeleteService(service.endpoint).ipvsadm());
        }
        // Whoever is removed sets the flushing off, which takes connections of services deleted before along.
        commands.push(format!("-a -t {COUNTER} -r 172.18.14.97:9 -g"));
        commands.push(format!("-d -t {COUNTER} -r 172.18.14.97:9"));
        let timeouts = lb::model::Timeouts::default();
        commands.push(format!("--set {} {} {}", timeouts.tcp, timeouts.tcp_fin, timeouts.udp));
        self.carry_out(&commands)?;
        eventually(FLUSH, "the end of the connections of removed backends", || {
            let left = listing::connections(&read(&mut self.connections)?)?.len();
            Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} connections")) })
        })?;
        Sysctl::ALL.into_iter().try_for_each(|sysctl| self.set(sysctl, false))
    }

    /// Runs commands and waits until they are done.
    fn carry_out(&mut self, commands: &[String]) -> Result<()> {
        commands.iter().try_for_each(|command| self.ipvsadm.write(command))?;
        self.ipvsadm.done = self.ipvsadm.done.wrapping_add(1);
        let done = self.ipvsadm.done;
        self.ipvsadm.write(&format!("-e -t {COUNTER} -r {COUNTER_BACKEND} -g -w {done}"))?;
        let counter = format!("{:08X}:0009", u32::from_be_bytes([172, 18, 14, 98]));
        eventually(PATIENCE, "ipvsadm", || {
            self.ipvsadm.check()?;
            let text = read(&mut self.services)?;
            let line = text.lines().find(|line| line.contains(&counter)).unwrap_or_default();
            let weight = line.split_whitespace().nth(3).and_then(|word| word.parse().ok());
            Ok(if weight == Some(done) { Seen::Yes(()) } else { Seen::NotYet(text) })
        })
        .with_context(|| format!("ipvsadm {commands:?}"))?;
        self.ipvsadm.check()
    }
}

impl Ipvsadm {
    fn start(director: &Netns, scope: &Scope) -> Result<Self> {
        let mut command = director.command("ipvsadm")?;
        command.arg("-R").stdin(Stdio::piped());
        let log = scope.dir().join("ipvsadm.log");
        let mut process = Proc::spawn("ipvsadm", command, &log, Lifetime::Guarded)?;
        let stdin = process.stdin().context("ipvsadm has no standard input")?;
        Ok(Self { process, stdin, done: 0 })
    }

    fn write(&mut self, command: &str) -> Result<()> {
        self.stdin.write_all(format!("{command}\n").as_bytes()).with_context(|| {
            format!("cannot give `{command}` to ipvsadm, which printed:\n{}", self.process.log())
        })
    }

    /// It prints nothing unless a command failed.
    fn check(&mut self) -> Result<()> {
        self.process.check_alive()?;
        match self.process.log() {
            log if log.is_empty() => Ok(()),
            log => bail!("ipvsadm printed:\n{log}"),
        }
    }
}

/// A file of /proc from its beginning.
fn read(file: &mut File) -> Result<String> {
    // At once if possible: for each further part the kernel looks for the place in its table again.
    let mut text = String::with_capacity(1 << 14);
    file.rewind()?;
    file.read_to_string(&mut text).context("cannot read a list of IPVS")?;
    Ok(text)
}

/// One interface, the VIPs on `lo`, and a neighbour entry for everybody.
fn connect(director: &Netns) -> Result<()> {
    // Nothing but answers to our frames is to come out of it.
    for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/default/accept_dad"] {
        director.sysctl(key, "0")?;
    }
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let (router, own, name) = (mac(CLIENT_MAC), mac(DIRECTOR_MAC), director.name());
    let mut make = Command::new("ip");
    make.args(["-batch", "-"]);
    let batch = format!(
        "link add {WIRE} address {router} type veth peer name eth0 address {own} netns {name}\nlink set {WIRE} up\n"
    );
    proc::run_with(make, &batch, PATIENCE)?.ok()?;
    let mut batch = format!(
        "link set eth0 up\naddr add {DIRECTOR4}/24 dev eth0\naddr add {DIRECTOR6}/64 dev eth0 nodad\n\
         neigh replace {ROUTER4} lladdr {router} nud permanent dev eth0\n\
         neigh replace {ROUTER6} lladdr {router} nud permanent dev eth0\n\
         route add default via {ROUTER4}\nroute add default via {ROUTER6}\n"
    );
    for vip in lab::vips() {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        batch += &format!("addr add {vip}/{length} dev lo\n");
        for number in 1..=BACKENDS {
            let (address, mac) = (lab::backend(vip, number), mac(lab::backend_mac(number)));
            batch += &format!("neigh replace {address} lladdr {mac} nud permanent dev eth0\n");
        }
    }
    director.ip(&batch)?;
    let settings = [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        // An ICMP error for every packet that deserves one.
        ("ipv4/icmp_ratemask", "0"),
        ("ipv6/icmp/ratelimit", "0"),
    ];
    settings.iter().try_for_each(|(key, value)| director.sysctl(key, value))
}
