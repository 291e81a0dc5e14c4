//! An agent for tests: answers from fixed data and remembers what it was asked.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    server::{AgentHandle, Failure, Feed, Request, bind, serve},
    types::{
        BackendState, BackendView, CheckStats, ConnList, ConnView, Counters, Done, Health, InterfaceView,
        LateCount, Rate, Reloaded, ServiceStats, ServiceView, Stats, Status, TableStats, VerdictCount,
    },
};
use crate::{
    api::types::BackendStats,
    events::{Draft, Kind, Ring},
    model::{Endpoint, Protocol, Scheduler, ServiceName, ServiceOptions, Timeouts},
    trace::{Counts, Packet, Report, Reports},
};

/// A served socket in a temporary directory.
pub(crate) struct FakeAgent {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl FakeAgent {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = bind(&directory.path().join("lb.sock"), None).await.unwrap();
        let (handle, mut requests) = AgentHandle::channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        tokio::spawn(async move {
            let mut memory = Memory::default();
            while let Some(request) = requests.recv().await {
                log.lock().unwrap().push(without_reply(&request));
                answer(request, &mut memory);
            }
        });
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, handle, async {
            let _ = stopped.await;
        }));
        Self { directory, asked, stop: Some(stop), server }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    /// The last request, as its `Debug` text without the reply channel.
    pub(crate) fn last(&self) -> String {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }

    pub(crate) async fn stop(mut self) -> std::io::Result<()> {
        let _ = self.stop.take().unwrap().send(());
        self.server.await.unwrap()
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("lb.sock")
}

fn without_reply(request: &Request) -> String {
    let text = format!("{request:?}");
    let end = text.find(", reply").or_else(|| text.find(" { reply")).unwrap_or(text.len());
    text[..end].to_owned()
}

/// What changes from one answer to the next.
#[derive(Default)]
struct Memory {
    /// Readings of the statistics.
    readings: u64,
    /// Since a backend was drained, its service was shown so often: its connections are gone the second time.
    shown_drained: Option<u64>,
}

impl Memory {
    fn service(&mut self, name: &ServiceName) -> Result<ServiceView, Failure> {
        let mut view = find(name)?;
        if let Some(shown) = &mut self.shown_drained {
            *shown += 1;
            for backend in view
                .backends
                .iter_mut()
                .filter(|backend| *shown > 1 && backend.state == BackendState::Drained)
            {
                (backend.active, backend.inactive) = (0, 0);
            }
        }
        Ok(view)
    }
}

fn answer(request: Request, memory: &mut Memory) {
    let done = || Ok(Done::default());
    let warned = || Ok(Done { warnings: vec!["the MAC address is not known yet".to_owned()] });
    match request {
        Request::Status { reply } => drop(reply.send(Ok(status()))),
        Request::Services { reply } => drop(reply.send(Ok(services()))),
        Request::Service { name, reply } => drop(reply.send(memory.service(&name))),
        Request::ServiceAdd { add, reply } => {
            let taken = services().iter().any(|s| Some(&s.name) == add.name.as_ref());
            drop(reply.send(if taken {
                Err(Failure::conflict("service mysql exists already")
                    .hint("change it with `lb service edit`"))
            } else {
                done()
            }))
        }
        Request::ServiceEdit { name, reply, .. } | Request::ServiceDelete { name, reply } => {
            drop(reply.send(find(&name).map(|_| Done::default())))
        }
        Request::BackendAdd { reply, .. } => drop(reply.send(warned())),
        Request::BackendEdit { reply, .. }
        | Request::BackendDelete { reply, .. }
        | Request::BackendUndrain { reply, .. }
        | Request::BackendMaintain { reply, .. }
        | Request::BackendMaintenanceEnd { reply, .. }
        | Request::ConnsFlush { reply, .. }
        | Request::TimeoutsEdit { reply, .. }
        | Request::Detach { reply } => drop(reply.send(done())),
        Request::BackendDrain { reply, .. } => {
            memory.shown_drained = Some(0);
            drop(reply.send(done()))
        }
        Request::Trace { reply, .. } => drop(reply.send(Ok(reports()))),
        Request::Timeouts { reply } => drop(reply.send(Ok(Timeouts::default()))),
        Request::Events { reply } => drop(reply.send(Ok(feed()))),
        Request::Config { reply } => drop(reply.send(Ok("services: []\n".to_owned()))),
        Request::Conns { reply, .. } => drop(reply.send(Ok(conns()))),
        Request::Reload { reply, .. } => drop(reply.send(Ok(Reloaded {
            changes: vec!["service mysql: scheduler rr -> wrr".to_owned()],
            discarded: vec!["backend 10.0.0.9:3306 of mysql".to_owned()],
            warnings: vec![],
        }))),
        Request::Stats { reply } => {
            memory.readings += 1;
            drop(reply.send(Ok(stats(memory.readings))))
        }
    }
}

/// A backend that went and came.
fn feed() -> Feed {
    let feed = Feed::new(Ring::default());
    let key = services()[0].backends[0].key;
    let down = Draft::new(Kind::BackendDown)
        .of(&name("mysql"))
        .at(key)
        .because("tcp: connection refused after 0.3 ms");
    let up = Draft::new(Kind::BackendUp).of(&name("mysql")).at(key).because("tcp: connected in 0.2 ms");
    let time = "2026-11-28T14:00:00Z".parse().unwrap();
    feed.publish(&feed.number(time, [down, up, Draft::new(Kind::AgentStop)]));
    feed
}

/// Two packets, and then the agent ends.
fn reports() -> Reports {
    let (sender, reports) = tokio::sync::mpsc::channel(8);
    let counts = Counts { reported: 2, over_rate: 3, ring_full: 2, client_slow: 1 };
    let lines = [
        Report::Counts(Counts::default()),
        Report::Packet(Box::new(packet("forwarded-tx", Some("172.18.14.11:3306")))),
        Report::Packet(Box::new(packet("dropped-no-backend", None))),
        Report::Counts(counts),
    ];
    for line in lines {
        let text = serde_json::to_string(&line).unwrap() + "\n";
        sender.try_send(text.into()).unwrap();
    }
    reports
}

pub(crate) fn packet(verdict: &str, backend: Option<&str>) -> Packet {
    Packet {
        time: "2026-11-28T14:00:00.123456Z".parse().unwrap(),
        interface: "eth0".to_owned(),
        protocol: Some("tcp".to_owned()),
        source: Some("10.1.2.3:40000".to_owned()),
        destination: Some("172.18.14.100:3306".to_owned()),
        flags: Some("SYN".to_owned()),
        ethernet: None,
        fragment: false,
        length: 74,
        service: Some("mysql".to_owned()),
        backend: backend.map(|backend| backend.parse().unwrap()),
        verdict: verdict.to_owned(),
        cause: "rr decides".to_owned(),
        steps: vec!["scheduler: rr decides".to_owned()],
        frame: Some("0200000000090200000000010800".to_owned()),
    }
}

fn find(name: &ServiceName) -> Result<ServiceView, Failure> {
    services().into_iter().find(|s| s.name == *name).ok_or_else(|| {
        Failure::not_found(format!("there is no service {name}")).hint("the nearest name is mysql")
    })
}

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn counters(connections: u64, packets: u64, bytes: u64) -> Counters {
    Counters { connections, packets, bytes }
}

fn backend(key: &str, state: BackendState) -> BackendView {
    let resolved = state != BackendState::Unresolved;
    BackendView {
        key: key.parse().unwrap(),
        weight: 1,
        health_weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        state,
        maintenance: None,
        checks: Vec::new(),
        detail: (!resolved).then(|| "no answer to ARP on eth1".to_owned()),
        mac: resolved.then(|| "02:00:00:00:00:0a".to_owned()),
        interface: resolved.then(|| "eth1".to_owned()),
        active: 3,
        inactive: 1,
        counters: counters(1_234_567, 98_765_432, 123_456_789_012),
    }
}

/// One IPv4 service with a name, one IPv6 service called after its endpoint.
pub(crate) fn services() -> Vec<ServiceView> {
    let v6 = Endpoint::new("2001:db8::53".parse().unwrap(), 53, Protocol::Udp);
    vec![
        ServiceView {
            name: name("mysql"),
            endpoint: Endpoint::new("172.18.14.100".parse().unwrap(), 3306, Protocol::Tcp),
            group: [].into(),
            scheduler: Scheduler::Rr,
            options: ServiceOptions::default(),
            sources: Default::default(),
            guarded: false,
            checks: Vec::new(),
            counters: counters(2_469_134, 197_530_864, 246_913_578_024),
            backends: vec![
                backend("172.18.14.11:3306", BackendState::Up),
                backend("172.18.14.12:3306", BackendState::Drained),
            ],
        },
        ServiceView {
            name: v6.default_name(),
            endpoint: v6,
            group: [].into(),
            scheduler: Scheduler::Wrr,
            options: ServiceOptions::default(),
            sources: Default::default(),
            guarded: false,
            checks: Vec::new(),
            counters: counters(7, 7, 539),
            backends: vec![backend("[2001:db8::a]:53", BackendState::Unresolved)],
        },
    ]
}

pub(crate) fn conns() -> ConnList {
    ConnList {
        total: 2,
        conns: vec![
            ConnView {
                protocol: Protocol::Tcp,
                client: "10.1.2.3:40000".parse().unwrap(),
                virtual_address: "172.18.14.100:3306".parse().unwrap(),
                service: name("mysql"),
                backend: "172.18.14.11:3306".parse().unwrap(),
                template: false,
                state: "ESTABLISHED".to_owned(),
                expires: 899,
            },
            ConnView {
                protocol: Protocol::Udp,
                client: "[2001:db8::c]:5353".parse().unwrap(),
                virtual_address: "[2001:db8::53]:53".parse().unwrap(),
                service: name("udp/[2001:db8::53]:53"),
                backend: "[2001:db8::a]:53".parse().unwrap(),
                template: false,
                state: "UDP".to_owned(),
                expires: 7,
            },
        ],
    }
}

/// What the agent estimates the service's rates to be.
pub(crate) const RATE: Rate = Rate { connections: 47.5, packets: 1900.0, bytes: 3_000_000.0 };

/// Half of them began within 1 ms, the latest after 7.3.
fn checks(made: u64) -> CheckStats {
    let class = |up_to_us, checks| LateCount { up_to_us, checks };
    CheckStats {
        kind: "tcp".to_owned(),
        via_vip: true,
        begun: made + 3,
        ended: made,
        failed: 7,
        late: vec![class(Some(1000), made / 2 + 3), class(Some(10_000), made / 2), class(None, 0)],
        latest_us: 7312,
    }
}

/// The `n`th reading, two seconds after the one before.
pub(crate) fn stats(n: u64) -> Stats {
    let verdict = |name: &str, meaning: &str, packets| VerdictCount {
        name: name.to_owned(),
        meaning: meaning.to_owned(),
        packets,
        rate: if packets > 12 { 1900.0 } else { 0.0 },
    };
    Stats {
        monotonic_ns: n * 2_000_000_000,
        total: counters(100 * n, 4000 * n, 6_000_000 * n),
        total_rate: RATE,
        services: vec![ServiceStats {
            name: name("mysql"),
            endpoint: services()[0].endpoint,
            counters: counters(100 * n, 4000 * n, 6_000_000 * n),
            rate: RATE,
            backends: vec![BackendStats {
                key: "172.18.14.11:3306".parse().unwrap(),
                counters: counters(50 * n, 2000 * n, 3_000_000 * n),
                rate: Rate { connections: 0.5, packets: 950.0, bytes: 1_500_000.0 },
                health: Health {
                    incomplete_handshakes: 3 * n,
                    syn_retransmissions: 15 * n,
                    client_resets: n,
                },
            }],
        }],
        verdicts: vec![
            verdict("forwarded", "sent on to a backend", 4000 * n),
            verdict("passed-not-a-vip", "not ours, left to the host's stack", 12),
            verdict("dropped-no-backend", "no backend could take the connection", 0),
        ],
        flows: vec![TableStats {
            table: "ipv4".to_owned(),
            used: 524_288,
            rated: 1_048_576,
            pressed: false,
            pruned: 0,
            memory_bytes: 64 << 20,
        }],
        checks: vec![checks(1000 * n)],
    }
}

pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        instance: "default".to_owned(),
        pid: 4242,
        uptime: 93_784,
        config_file: "/etc/lb/lb.yaml".to_owned(),
        bpf_pin_dir: "/sys/fs/bpf/lb/default".to_owned(),
        schema_version: 1,
        interfaces: vec![InterfaceView {
            name: "eth0.100".to_owned(),
            attached_to: "eth0".to_owned(),
            ifindex: 2,
            vlan: 100,
            mode: "native".to_owned(),
            program_id: 77,
            mac: "02:00:00:00:00:01".to_owned(),
            mtu: 1500,
        }],
        services: 2,
        backends: 3,
        unresolved_backends: 1,
        unhealthy_backends: 0,
        overlay: vec!["backend 172.18.14.12:3306 of mysql is drained".to_owned()],
        warnings: vec!["eth0: LRO is on; `ethtool -K eth0 lro off`".to_owned()],
    }
}
