//! Real mail servers: one that keeps what it gets, by STARTTLS and a login, or no mail; and one that checks greet.

use std::{fs, net::TcpStream, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    nginx::Nginx,
    proc::{self, Proc},
    scope::Scope,
    stores::listens,
    topo::Node,
    wait::{PATIENCE, until_ok},
};

/// Of message submission (RFC 6409).
pub const PORT: u16 = 587;
pub const USER: &str = "lb";
pub const PASSWORD: &str = "correct horse";

/// Of relays (RFC 5321).
pub const GREETER: u16 = 25;

/// aiosmtpd on every address of the node, with the certificate of the node's nginx. It drops mails.
pub fn greeter(scope: &Scope, node: &Node, web: &Nginx) -> Result<Proc> {
    let mut command = node.netns.command("aiosmtpd")?;
    command.arg("-n").arg("-l").arg(format!("0.0.0.0:{GREETER}"));
    command.args(["-c", "aiosmtpd.handlers.Sink", "--no-requiretls", "--tlscert"]);
    command.arg(&web.ca).arg("--tlskey").arg(web.ca.with_file_name("key.pem"));
    let log = scope.dir().join(format!("aiosmtpd-{}.log", node.role));
    let mut proc = Proc::spawn("aiosmtpd", command, &log, scope.lifetime())?;
    until_ok(PATIENCE, "aiosmtpd to listen", || {
        proc.check_alive()?;
        listens(node, GREETER)
    })?;
    Ok(proc)
}

/// A running server.
pub struct MailServer {
    _proc: Proc,
    dir: PathBuf,
    /// Its certificate, which is its own CA.
    pub ca: PathBuf,
}

impl MailServer {
    /// On the node's IPv4 address.
    pub fn start(scope: &Scope, node: &Node) -> Result<Self> {
        let dir = scope.dir().join(format!("mail-{}", node.role));
        fs::create_dir_all(&dir)?;
        let (ca, key, program) = (dir.join("cert.pem"), dir.join("key.pem"), dir.join("sink.py"));
        let address = node.ipv4().to_string();
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
        openssl.args(["-config", "/dev/null", "-subj", "/CN=mail.lab"]);
        openssl.arg("-addext").arg(format!("subjectAltName=IP:{address}"));
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&ca);
        proc::run(openssl)?.ok()?;
        fs::write(&program, include_str!("smtp_sink.py"))?;
        // Debian's own, for which the package is.
        let mut command = node.netns.command("/usr/bin/python3")?;
        command.arg(program).arg(&address).arg(PORT.to_string()).arg(&dir).arg(&ca).arg(&key);
        command.args([USER, PASSWORD]);
        let mut proc = Proc::spawn("the mail server", command, &dir.join("log"), scope.lifetime())?;
        let at = std::net::SocketAddr::new(node.ipv4(), PORT);
        until_ok(PATIENCE, "the mail server to listen", || {
            proc.check_alive()?;
            Ok(node.netns.enter(|| TcpStream::connect(at))??)
        })?;
        Ok(Self { _proc: proc, dir, ca })
    }

    /// The mails so far, whole, in the order of their coming. The first line is the server's own: `X-Sink`.
    pub fn mails(&self) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "eml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())).collect()
    }
}
