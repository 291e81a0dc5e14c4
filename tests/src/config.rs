//! Writing a configuration file for `lb run`.

use std::{fmt::Write as _, net::IpAddr, path::Path};

/// The file, as far as the labs need it.
#[derive(Clone, Debug)]
pub struct Config {
    pub instance: String,
    /// Device and mode (`auto`, `native`, `generic`).
    pub interfaces: Vec<(String, String)>,
    /// What to do about offloads of every interface: `check` or `set`.
    pub offloads: &'static str,
    /// Who gets the VIPs, if not somebody else sees to that.
    pub add_to: Option<String>,
    /// Seconds a connection is kept after the client's FIN; 0 for the default.
    pub tcp_fin: u32,
    pub services: Vec<Service>,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    pub scheduler: &'static str,
    /// Address and weight.
    pub backends: Vec<(IpAddr, u16)>,
    /// More keys of the backends, in their order, as YAML between braces: `backup: true`.
    pub more_of: Vec<&'static str>,
    /// More keys of the service, as YAML between braces: `checks: [tcp], persistence: 60`.
    pub more: String,
}

impl Config {
    /// An instance attached to eth0 alone.
    pub fn on_eth0(instance: &str, services: Vec<Service>) -> Self {
        Self {
            instance: instance.to_owned(),
            interfaces: vec![("eth0".to_owned(), "native".to_owned())],
            offloads: "check",
            add_to: Some("eth0".to_owned()),
            tcp_fin: 0,
            services,
        }
    }

    /// The file's text.
    pub fn to_yaml(&self, socket: &Path) -> String {
        let Self { instance, interfaces, offloads, add_to, tcp_fin, services } = self;
        let interfaces: Vec<_> = interfaces
            .iter()
            .map(|(n, m)| format!("{{name: {n}, mode: {m}, offloads: {offloads}}}"))
            .collect();
        let vips = add_to.as_ref().map_or_else(String::new, |name| format!("vips: {{add_to: {name}}}\n"));
        let timeouts =
            if *tcp_fin == 0 { String::new() } else { format!("timeouts: {{tcp_fin: {tcp_fin}}}\n") };
        let mut text = format!(
            "instance: {instance}\n\
             interfaces: [{}]\n\
             {vips}{timeouts}\
             flows: {{ipv4: 64k, wide: 16k}}\n\
             control: {{socket: {}}}\n\
             services:\n",
            interfaces.join(", "),
            socket.display(),
        );
        services.iter().for_each(|service| service.write(&mut text));
        text
    }
}

impl Service {
    /// TCP by rr with weights 1.
    pub fn tcp(name: &str, address: IpAddr, port: u16, backends: impl IntoIterator<Item = IpAddr>) -> Self {
        let backends = backends.into_iter().map(|address| (address, 1)).collect();
        Self {
            name: name.to_owned(),
            address,
            port,
            protocol: "tcp",
            scheduler: "rr",
            backends,
            more_of: Vec::new(),
            more: String::new(),
        }
    }

    fn write(&self, text: &mut String) {
        let Self { name, address, port, protocol, scheduler, backends, more_of, more } = self;
        let persistence = if more.contains("persistence") { "" } else { ", persistence: 0" };
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let backends: Vec<_> = backends
            .iter()
            .enumerate()
            .map(|(n, (a, w))| {
                let more = more_of.get(n).map(|more| format!(", {more}")).unwrap_or_default();
                format!("{{address: \"{a}\", weight: {w}{more}}}")
            })
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  - {{name: {name}, address: \"{address}\", port: {port}, protocol: {protocol}, \
             scheduler: {scheduler}{more}{persistence},\n     backends: [{}]}}",
            backends.join(",\n                "),
        );
    }
}
