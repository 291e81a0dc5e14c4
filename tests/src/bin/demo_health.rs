//! `cargo xtask demo health`: replicas that die, come back, lose their VIP and lag, under clients that query all the
//! time. What is printed is the product's own output, and every claim is checked.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use jiff::Timestamp;
use lb::{
    api::types::{BackendState, BackendView},
    events::{Event, Kind},
};
use lb_tests::{
    agent::Agent,
    clock::{now, realtime},
    config::{Config, Service},
    lab::Lab,
    mariadb,
    proc::{self, Lifetime, Proc},
    scope::Scope,
    sql_load::{Broken, Refused, Seen as Met, SqlLoad},
    steps::Steps,
    supervise::{self, DemoArgs},
    topo::{Node, Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

const INSTANCE: &str = "lbdemo";
const SERVICE: &str = "mysql-read";
const CLIENTS: usize = 6;
/// So few that connections have the ports of earlier ones within the minute that a half-open entry lasts. A SYN on an
/// entry of a backend that is out goes to another one by `expire_nodest: reschedule`; it would go where the entry leads
/// otherwise, as with IPVS.
const PORTS: &str = "32768 34367";
/// A killed server, which refuses, is found within 0.9 s, one that hangs within 3.5 s (docs/operations.md, "Health checks").
const CHECK: &str = "checks: [{mysql: {user: root, password: \"123\", lag: [{from: 2s, weight: 50}, {from: 4s, weight: \
                     20}, {from: 1h, weight: 0}]}, interval: 500ms, fast_interval: 200ms, timeout: 1s, fall: 3, rise: 2}], \
                     slow_start: 3s, expire_nodest: reschedule";

/// MySQL replicas that die, come back and lag, behind an XDP director.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    demo: DemoArgs,
}

fn main() -> ExitCode {
    supervise::show(Args::parse().demo, demo)
}

/// In the order of their taking down.
struct Health {
    events: Events,
    agent: Arc<Agent>,
    /// slave1 and slave2, which the service has, and slave3, their primary.
    servers: Vec<Proc>,
    outages: Vec<Outage>,
    lab: Lab,
}

/// What has been done to a server, and for how long clients could notice. All are readings of one clock.
struct Outage {
    server: &'static str,
    what: &'static str,
    /// Just before it was done, and when it was done.
    from: Timestamp,
    done: Timestamp,
    /// When the director's maps had been changed (the event is said after that): from then on no new connection is sent there.
    out: Timestamp,
}

impl Outage {
    /// The query failed since its connection was open on that server as it happened.
    fn broke(&self, query: &Broken) -> bool {
        query.server == self.server && query.opened <= self.done && query.failed >= self.from
    }

    /// The attempt at a connection fell into the time in which the server was gone and the director did not know.
    fn refused(&self, attempt: &Refused) -> bool {
        attempt.began <= self.out && attempt.failed >= self.from
    }
}

fn demo(name: &str, keep: bool) -> Result<()> {
    let start = now();
    let lifetime = if keep { Lifetime::Kept } else { Lifetime::Guarded };
    let mut steps = Steps::default();
    let mut health = Health::up(Scope::named(name, lifetime)?, &mut steps)?;
    steps.end();
    let outcome = health.show(&mut steps);
    if outcome.is_ok() {
        health.lab.finish();
    }
    outcome?;
    if keep {
        println!("\nThe lab stays up. Look around with");
        println!("    cargo xtask lab shell client      (or director, slave1, slave2, slave3)");
        println!("    cargo xtask lab down");
    } else {
        steps.next("clean-up: lb detach, servers, namespaces");
        health.agent.detach()?;
        drop(health);
        steps.end();
    }
    println!("\ndone in {:.1} s: everything was as it should be", start.elapsed().as_secs_f32());
    Ok(())
}

impl Health {
    fn up(scope: Scope, steps: &mut Steps) -> Result<Self> {
        steps.next("network: client, director, slave1, slave2, slave3 on one switch");
        let lab = Lab::build(Topology::one_segment(3), scope)?;
        steps.next("MariaDB on all three; slave1 and slave2 replicate slave3");
        let servers = (1..=3).map(|n| {
            let options = options(n);
            mariadb::start_with(&lab.scope, node(&lab, n), &options.each_ref().map(String::as_str))
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        steps.next("slave1, slave2: lb realserver start 172.18.14.100; director: lb run");
        lab.start_realservers(&[VIP4])?;
        let backends = lab.net.backends[..2].iter().map(|backend| (backend.ipv4(), 100)).collect();
        let more = CHECK.to_owned();
        let service = Service { more, backends, scheduler: "wrr", ..Service::tcp(SERVICE, VIP4, 3306, []) };
        for n in [1, 2] {
            let primary = lab.net.backends[2].ipv4();
            sql(
                &lab,
                n,
                &format!(
                    "CHANGE MASTER TO MASTER_HOST='{primary}', MASTER_USER='root', MASTER_PASSWORD='123', \
                     MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE; SET GLOBAL read_only=1"
                ),
            )?;
        }
        let agent = lab.start_agent(&Config::on_eth0(INSTANCE, vec![service]))?;
        let events = Events::follow(&lab, &agent)?;
        Ok(Self { events, agent, servers, outages: Vec::new(), lab })
    }

    fn show(&mut self, steps: &mut Steps) -> Result<()> {
        steps.next(&format!("{CLIENTS} clients query all the time"));
        for n in [1, 2] {
            self.until(n, "healthy", |view| view.state == BackendState::Up && view.health_weight == 100)?;
        }
        self.lab.net.client().netns.sysctl("ipv4/ip_local_port_range", PORTS)?;
        let load = SqlLoad::start(self.lab.net.client(), VIP4, CLIENTS)?;
        self.more_queries(&load, 500)?;
        self.shown(&["backend", "list"])?;
        self.events.print()?;

        steps.next("slave1: kill -9 of mariadbd");
        let killed = realtime();
        self.servers[0].kill9()?;
        let dead = realtime();
        let down = self.events.wait(killed, Kind::BackendDown, &self.key(1))?;
        self.outage("kill -9 of slave1's mariadbd", killed, dead, down.time);
        let detected = milliseconds(killed, down.time);
        self.more_queries(&load, 500)?;
        self.events.print()?;
        self.shown(&["status"])?;
        println!("   detected and out of service {detected} ms after kill -9");

        steps.next("slave1: mariadbd is started again; it comes back with slow start");
        let begun = realtime();
        let options = options(1);
        self.servers[0] =
            mariadb::again(&self.lab.scope, node(&self.lab, 1), &options.each_ref().map(String::as_str))?;
        let ready = realtime();
        let up = self.events.wait(begun, Kind::BackendUp, &self.key(1))?;
        let whole = self.events.weighs(up.time, &self.key(1), |weight| weight == 100)?;
        self.events.print()?;
        println!(
            "   back in service {} ms after it was ready, with all of its weight {} ms later",
            milliseconds(ready, up.time).max(0),
            milliseconds(up.time, whole.time)
        );

        steps.next("slave1: the VIP is taken off lo; its own address goes on answering");
        let vip = format!("{VIP4}/32");
        let taken = realtime();
        node(&self.lab, 1).netns.ip(&format!("addr del {vip} dev lo"))?;
        let gone = realtime();
        let black = self.events.wait(taken, Kind::BackendDown, &self.key(1))?;
        self.outage("VIP taken off slave1's lo", taken, gone, black.time);
        sql(&self.lab, 1, "SELECT 1").context("its own address must answer")?;
        self.events.print()?;
        println!("   detected and out of service {} ms after the VIP went", milliseconds(taken, black.time));
        let told = self.doctor()?;
        println!("director> lb --instance {INSTANCE} doctor\n{}", told.trim_end());
        let address = self.lab.net.backends[0].ipv4().to_string();
        let is_named = |line: &str| line.contains("vip-missing") && line.contains(&address);
        ensure!(told.lines().any(is_named), "the doctor did not name it");
        node(&self.lab, 1).netns.ip(&format!("addr add {vip} dev lo"))?;
        let again = self.events.wait(black.time, Kind::BackendUp, &self.key(1))?;
        self.events.weighs(again.time, &self.key(1), |weight| weight == 100)?;
        println!("   put back on lo:");
        self.events.print()?;

        steps.next(
            "slave2: replication is put off (MASTER_DELAY), and writes go on: the weight falls with the lag",
        );
        let late = realtime();
        sql(&self.lab, 2, "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY=3000; START SLAVE")?;
        sql(&self.lab, 3, "CREATE DATABASE late")?;
        self.events.weighs(late, &self.key(2), |weight| weight == 50)?;
        let fifth = self.events.weighs(late, &self.key(2), |weight| weight == 20)?;
        self.events.print()?;
        self.shown(&["backend", "list"])?;
        self.balance(&load)?;

        steps.next("slave2: STOP SLAVE SQL_THREAD: nobody knows how far behind it is, so it is out");
        let stopped = realtime();
        sql(&self.lab, 2, "STOP SLAVE SQL_THREAD")?;
        let out = self.events.weighs(fifth.time, &self.key(2), |weight| weight == 0)?;
        self.events.print()?;
        println!("   out of service {} ms after STOP SLAVE SQL_THREAD", milliseconds(stopped, out.time));

        steps.next("slave2: replication goes on, and so does the replica");
        sql(&self.lab, 2, "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY=0; START SLAVE")?;
        self.events.weighs(out.time, &self.key(2), |weight| weight == 100)?;
        self.events.print()?;

        steps.next("what the clients have met");
        self.more_queries(&load, 500)?;
        self.judge(&load.finish()?)?;
        steps.end();
        Ok(())
    }

    /// How the queries of a moment are spread.
    fn balance(&self, load: &SqlLoad) -> Result<()> {
        // Connections that were opened before have ended when these have.
        self.more_queries(load, 300)?;
        let before = load.seen().answered;
        self.more_queries(load, 1000)?;
        let after = load.seen().answered;
        let spread: Vec<_> = after
            .iter()
            .map(|(server, count)| format!("{server} {}", count - before.get(server).copied().unwrap_or(0)))
            .collect();
        println!("   queries answered meanwhile: {}", spread.join(", "));
        Ok(())
    }

    fn outage(&mut self, what: &'static str, from: Timestamp, done: Timestamp, out: Timestamp) {
        self.outages.push(Outage { server: "slave1", what, from, done, out });
    }

    /// Nothing may have failed but what the outages explain: each query and each attempt is held against their times.
    fn judge(&self, met: &Met) -> Result<()> {
        println!("   queries in all                                              {:>7}", met.queries());
        for (server, answered) in &met.answered {
            println!("   answered by {server}                                          {answered:>7}");
        }
        for outage in &self.outages {
            let broken = met.broken.iter().filter(|query| outage.broke(query)).count();
            let refused = met.refused.iter().filter(|attempt| outage.refused(attempt)).count();
            let window = milliseconds(outage.from, outage.out);
            println!("   {}, out of service {window} ms later:", outage.what);
            println!("     queries failed whose connection was open on it then       {broken:>7}");
            println!("     attempts at a connection in these {window:>5} ms that it refused");
            println!("     or did not answer, each tried again by its client         {refused:>7}");
            ensure!(broken <= CLIENTS, "each client has one connection: {:?}", met.broken);
        }
        let broken = met.broken.iter().filter(|query| !self.outages.iter().any(|it| it.broke(query)));
        let refused = met.refused.iter().filter(|attempt| !self.outages.iter().any(|it| it.refused(attempt)));
        let (broken, refused): (Vec<_>, Vec<_>) = (broken.collect(), refused.collect());
        println!(
            "   queries failed otherwise                                    {:>7}",
            broken.len() + met.failed.len()
        );
        println!("   attempts failed otherwise                                   {:>7}", refused.len());
        ensure!(
            broken.is_empty(),
            "failed on connections that were not open on a server as it died: {broken:?}"
        );
        ensure!(met.failed.is_empty(), "no connection could be had: {:?}", met.failed);
        ensure!(
            refused.is_empty(),
            "refused while no server was gone without the director's knowing: {refused:?}"
        );
        Ok(())
    }

    fn more_queries(&self, load: &SqlLoad, count: u64) -> Result<()> {
        let goal = load.seen().queries() + count;
        eventually(PATIENCE, "queries to go on", || {
            let done = load.seen().queries();
            Ok(if done >= goal { Seen::Yes(()) } else { Seen::NotYet(format!("{done} of {goal}")) })
        })
    }

    /// `lb doctor`, which ends with another code than 0 if it finds something; told where this lab's things are.
    fn doctor(&self) -> Result<String> {
        let mut command = self.agent.lb_command(&["--instance", INSTANCE, "doctor", "--state-dir"])?;
        let state = self.agent.state();
        command.arg(state.parent().context("the state directory has a parent")?);
        command.arg("--bpffs").arg(self.agent.bpffs());
        Ok(proc::run(command)?.stdout)
    }

    fn key(&self, n: usize) -> String {
        format!("{}:3306", self.lab.net.backends[n - 1].ipv4())
    }

    fn until(&self, n: usize, what: &str, is: impl Fn(&BackendView) -> bool) -> Result<()> {
        eventually(PATIENCE, what, || {
            let view = self.agent.backend(SERVICE, &self.key(n))?;
            Ok(if is(&view) { Seen::Yes(()) } else { Seen::NotYet(format!("{view:?}")) })
        })
    }

    /// A command of the product with its prompt and its output.
    fn shown(&self, args: &[&str]) -> Result<()> {
        println!("director> lb {}\n{}", args.join(" "), self.agent.lb(args)?.ok()?.trim_end());
        Ok(())
    }
}

fn options(n: usize) -> [String; 2] {
    [format!("--server-id={n}"), "--log-bin=bin".to_owned()]
}

fn node(lab: &Lab, n: usize) -> &Node {
    &lab.net.backends[n - 1]
}

/// On one server itself, as its administrator.
fn sql(lab: &Lab, n: usize, statement: &str) -> Result<String> {
    let node = node(lab, n);
    mariadb::query(&node.netns, node.ipv4(), &["-N", "-B"], statement)?.ok()
}

fn milliseconds(from: Timestamp, to: Timestamp) -> i128 {
    to.duration_since(from).as_millis()
}

/// `lb events --follow`, once for people and once for the demo itself.
struct Events {
    shown: Proc,
    printed: usize,
    known: Proc,
}

impl Events {
    fn follow(lab: &Lab, agent: &Agent) -> Result<Self> {
        let follow = |more: &[&str], log: &str| {
            let arguments = [&["events", "--follow"], more].concat();
            let command = agent.lb_command(&arguments)?;
            Proc::spawn("lb events --follow", command, &lab.scope.dir().join(log), Lifetime::Guarded)
        };
        let (shown, known) = (follow(&[], "events.txt")?, follow(&["--output", "json"], "events.json")?);
        Ok(Self { shown, printed: 0, known })
    }

    /// Prints what `lb events --follow` has printed since the last time.
    fn print(&mut self) -> Result<()> {
        let wanted = self.all()?.len();
        let log = eventually(PATIENCE, "the other `lb events --follow`", || {
            let log = self.shown.log();
            let lines = log.lines().count();
            Ok(if lines >= wanted { Seen::Yes(log) } else { Seen::NotYet(format!("{lines} lines")) })
        })?;
        println!("director> lb events --follow");
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().skip(self.printed).for_each(|line| println!("{line}"));
        self.printed = whole.lines().count();
        Ok(())
    }

    fn all(&self) -> Result<Vec<Event>> {
        let log = self.known.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    }

    /// The first event since then of this kind, of this backend.
    fn wait(&self, since: Timestamp, kind: Kind, backend: &str) -> Result<Event> {
        self.first(&format!("the event {kind}"), |event| {
            event.time >= since && event.what.kind == kind && is_of(event, backend)
        })
    }

    /// The first event since then that gives this backend such a weight.
    fn weighs(&self, since: Timestamp, backend: &str, is: impl Fn(u16) -> bool) -> Result<Event> {
        self.first("another weight", |event| {
            event.time >= since && event.what.weight.is_some_and(|(_, now)| is(now)) && is_of(event, backend)
        })
    }

    fn first(&self, what: &str, is: impl Fn(&Event) -> bool) -> Result<Event> {
        eventually(PATIENCE, what, || {
            let events = self.all()?;
            Ok(match events.iter().find(|event| is(event)) {
                Some(event) => Seen::Yes(event.clone()),
                None => Seen::NotYet(format!("{:?}", events.last())),
            })
        })
    }
}

fn is_of(event: &Event, backend: &str) -> bool {
    event.what.backend.is_some_and(|key| key.to_string() == backend)
}
