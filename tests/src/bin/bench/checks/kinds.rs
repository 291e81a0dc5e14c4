//! What one check of each kind costs the agent, against real servers where there are any.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::Result;
use lb_tests::{
    config::{Config, Service},
    dns, mail, mariadb,
    nginx::{HTTP, HTTPS, HTTPS2, Nginx},
    stores::{Postgres, REDIS_PORT, redis},
};
use serde::Serialize;

use super::{
    measure::Measured,
    world::{PORT, World, vip},
};
use crate::report::Report;

const MEASURED: Duration = Duration::from_secs(8);
const SETTLED: Duration = Duration::from_secs(2);
const MYSQL: u16 = 3306;
/// Nobody else's in the lab.
const ECHO: u16 = 7200;

/// Name, the check's own keys, its way, its interval in milliseconds, and what answers.
type Kind = (&'static str, String, &'static str, u32, &'static str);

/// What the run showed.
#[derive(Serialize)]
pub struct Kinds {
    /// What the agent takes without a check.
    pub idle_of_a_cpu: f64,
    #[serde(flatten)]
    pub report: Report<Figure>,
}

#[derive(Serialize)]
pub struct Figure {
    check: &'static str,
    per_second: f64,
    us_of_cpu: f64,
    against: &'static str,
    failed: u64,
}

/// Prints the table; the agent's share of a CPU without a check, and each kind's figures.
pub fn kinds(world: &mut World) -> Result<(f64, Vec<Figure>)> {
    let lab = &world.lab;
    let node = &lab.net.backends[0];
    let web = Nginx::start(&lab.scope, node)?;
    let _smtp = mail::greeter(&lab.scope, node, &web)?;
    let _mariadb = mariadb::start(&lab.scope, node)?;
    let _redis = redis(&lab.scope, node, &[])?;
    let _postgres = Postgres::start(&lab.scope, node, false)?;
    let _dns = dns::start(&lab.scope, node, &world.addresses)?;
    // It answers from the address that was asked: all ask the first.
    let first = world.addresses[0];
    let echo = node.netns.enter(|| UdpSocket::bind(SocketAddr::new(first, ECHO)))??;
    // It ends with this program.
    thread::spawn(move || -> Result<()> {
        let mut datagram = [0; 64];
        loop {
            let (length, from) = echo.recv_from(&mut datagram)?;
            echo.send_to(&datagram[..length], from)?;
        }
    });
    let weight = lab.scope.dir().join("weight");
    fs::write(&weight, "1\n")?;
    let kinds: [Kind; 22] = [
        ("tcp", format!("tcp: , port: {PORT}"), "rip", 200, "this program"),
        ("tcp through the VIP", format!("tcp: , port: {PORT}"), "vip", 200, "this program"),
        ("tcp, half-open", format!("tcp: {{half_open: true}}, port: {PORT}"), "rip", 200, "this program"),
        ("http", format!("http: {{path: /health}}, port: {HTTP}"), "rip", 200, "nginx"),
        ("http through the VIP", format!("http: {{path: /health}}, port: {HTTP}"), "vip", 200, "nginx"),
        ("https", format!("https: {{path: /health}}, port: {HTTPS}"), "rip", 1000, "nginx"),
        (
            "https, HTTP/2",
            format!("https: {{path: /health, http2: true}}, port: {HTTPS2}"),
            "rip",
            1000,
            "nginx",
        ),
        ("mysql, greeting", format!("mysql: , port: {MYSQL}"), "rip", 1000, "MariaDB"),
        (
            "mysql, login",
            format!("mysql: {{user: root, password: '123'}}, port: {MYSQL}"),
            "rip",
            1000,
            "MariaDB",
        ),
        (
            "mysql, login and query",
            format!("mysql: {{user: root, password: '123', query: SELECT 1}}, port: {MYSQL}"),
            "rip",
            1000,
            "MariaDB",
        ),
        ("mysql through the VIP", format!("mysql: , port: {MYSQL}"), "vip", 1000, "MariaDB"),
        (
            "postgres, greeting",
            format!("postgres: {{user: check}}, port: {}", Postgres::PORT),
            "rip",
            1000,
            "PostgreSQL",
        ),
        (
            "postgres, login",
            format!("postgres: {{user: check, password: secret}}, port: {}", Postgres::PORT),
            "rip",
            1000,
            "PostgreSQL",
        ),
        ("smtp", format!("smtp: , port: {}", mail::GREETER), "rip", 1000, "aiosmtpd"),
        (
            "smtp, STARTTLS",
            format!("smtp: {{starttls: true}}, port: {}", mail::GREETER),
            "rip",
            1000,
            "aiosmtpd",
        ),
        ("redis", format!("redis: , port: {REDIS_PORT}"), "rip", 200, "Redis"),
        (
            "udp",
            format!("udp: {{send: ping, require_reply: true}}, address: {first}, port: {ECHO}"),
            "rip",
            200,
            "this program",
        ),
        ("dns", format!("dns: {{name: {}, type: A}}, port: 53", dns::NAME), "rip", 200, "dnsmasq"),
        ("ping", "ping: ".to_owned(), "rip", 200, "the kernel"),
        ("file", format!("file: {{path: {}}}", weight.display()), "rip", 200, "a file in memory"),
        ("exec", "exec: {command: [/bin/true]}".to_owned(), "rip", 1000, "/bin/true"),
        ("none", String::new(), "rip", 1000, ""),
    ];
    let config = |kind: &Kind| {
        let (_, check, via, interval, _) = kind;
        let via = if ["file", "exec", "ping"].iter().any(|it| check.starts_with(it)) {
            String::new()
        } else {
            format!(", via: {via}")
        };
        let checks = match check.is_empty() {
            true => "checks: []".to_owned(),
            false => format!("checks: [{{{check}, interval: {interval}ms, timeout: 5s{via}}}]"),
        };
        let service =
            Service { more: checks, ..Service::tcp("kinds", vip(0), PORT, world.addresses.iter().copied()) };
        Config { add_to: None, ..Config::on_eth0("lab", vec![service]) }
    };
    let [.., none] = &kinds;
    let (idle, all) = (config(none), kinds.iter().map(|kind| (kind, config(kind))).collect::<Vec<_>>());
    world.start(&[vip(0)], &idle)?;
    let idle = over(world)?.cpu();
    println!(
        "{:<24}{:>12}{:>14}  {:<16} (100 backends; without a check the agent takes {:.1} % of a CPU)",
        "check",
        "a second",
        "us of CPU",
        "against",
        idle * 100.0
    );
    let mut figures = Vec::new();
    for ((check, .., against), config) in all.iter().filter(|((_, check, ..), _)| !check.is_empty()) {
        world.reload(config)?;
        let figure = Figure::of(check, against, &over(world)?, idle);
        figure.print();
        figures.push(figure);
    }
    world.stop()?;
    Ok((idle, figures))
}

impl Figure {
    fn of(check: &'static str, against: &'static str, measured: &Measured, idle: f64) -> Self {
        let us_of_cpu = (measured.cpu() - idle) * 1e6 / measured.rate();
        Self { check, per_second: measured.rate(), us_of_cpu, against, failed: measured.failed() }
    }

    fn print(&self) {
        let Self { check, per_second, us_of_cpu, against, failed } = self;
        let failed = if *failed == 0 { String::new() } else { format!("{failed} failed") };
        println!("{check:<24}{per_second:>12.0}{us_of_cpu:>14.0}  {against:<16} {failed}");
    }
}

fn over(world: &World) -> Result<Measured> {
    // What a reload asks for first is over.
    thread::sleep(SETTLED);
    Measured::over(world, || {
        thread::sleep(MEASURED);
        Ok(())
    })
}
