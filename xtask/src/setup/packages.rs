//! The Debian packages that lb's development uses, each with its reason.
//!
//! A package counts as there if what we use of it is there, wherever it came from: so the check
//! holds on every distribution. LLVM is not in the table, its version follows rustc's: `rust.rs`.

use std::path::Path;

use crate::repo;
use crate::setup::Group;

/// A package that may be needed.
pub struct Package {
    /// Debian's and Ubuntu's name.
    pub name: &'static str,
    group: Group,
    /// The command that we run of it, or the path of what else we use.
    command: &'static str,
    pub why: &'static str,
}

/// Servers come as their `-core` or `-base` package where there is one: these start no service.
const TABLE: &[Package] = &[
    lab("iproute2", "ip", "namespaces, links, addresses and routes of the labs"),
    lab(
        "ethtool",
        "ethtool",
        "switches off veth's checksum and VLAN offloads, which native XDP does not carry over",
    ),
    lab("tcpdump", "tcpdump", "captures of what went over the wires of a failed lab"),
    lab("mariadb-server-core", "mariadbd", "the real servers behind the director"),
    lab("galera-4", "/usr/lib/galera/libgalera_smm.so", "makes nodes of a Galera cluster of these servers"),
    lab("mariadb-client-core", "mysql", "the client of the demo's transcript"),
    lab("dnsmasq-base", "dnsmasq", "a real DNS server for UDP services"),
    lab("nginx-light", "nginx", "a real web server, with TLS, for http and https checks"),
    lab("openssl", "openssl", "the certificate of that web server"),
    lab("postgresql", "postgres", "a real PostgreSQL server for postgres checks"),
    lab("redis-server", "redis-server", "a real Redis server for redis checks"),
    lab("python3-aiosmtpd", "aiosmtpd", "a real mail server, with STARTTLS and login, that keeps the mails"),
    lab("nftables", "nft", "firewalls on backends and the director, which `lb doctor` has to name"),
    lab("iptables", "iptables-legacy", "rules of the older kind, which `lb doctor` has to name too"),
    lab("keepalived", "keepalived", "runs beside the director with blocks that `lb doctor` has to find"),
    lab("jq", "jq", "the demo reads `--output json` with it"),
    vm(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "runs the oldest supported kernel, 6.1 (and IPVS, to compare with)",
    ),
    vm("busybox-static", "busybox", "the VM's user space, and depmod for its modules"),
    vm("dpkg", "dpkg-deb", "unpacks Debian's kernel package"),
    vm("tar", "tar", "unpacks Debian's kernel package"),
    vm("ipvsadm", "ipvsadm", "configures the IPVS that `vm ipvs-diff` compares with"),
    vm("util-linux", "chrt", "lets ksoftirqd run before pktgen in `bench --vm`"),
    vm("libc-bin", "ldd", "names the libraries that a program takes along into the VM"),
];

/// What is missing of these groups.
pub fn missing(groups: &[Group]) -> Vec<&'static Package> {
    let wanted = TABLE.iter().filter(|package| groups.contains(&package.group));
    wanted.filter(|package| !package.is_there()).collect()
}

impl Package {
    fn is_there(&self) -> bool {
        match self.command.starts_with('/') {
            true => Path::new(self.command).exists(),
            false => repo::find_command(self.command).is_some(),
        }
    }
}

const fn lab(name: &'static str, command: &'static str, why: &'static str) -> Package {
    Package { name, group: Group::Lab, command, why }
}

const fn vm(name: &'static str, command: &'static str, why: &'static str) -> Package {
    Package { name, group: Group::Vm, command, why }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_package_is_there_once_with_its_reason() {
        let names: BTreeSet<_> = TABLE.iter().map(|package| package.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for Package { name, command, why, .. } in TABLE {
            assert!(!command.contains(' ') && why.len() > 10, "{name}: {why}");
        }
    }

    #[test]
    fn only_the_asked_for_groups_are_looked_at() {
        for group in [Group::Lab, Group::Vm] {
            assert!(missing(&[group]).iter().all(|package| package.group == group));
        }
        assert!(missing(&[Group::Build, Group::Ci]).is_empty(), "their tools are not packages");
    }
}
