//! A real web server, with and without TLS.

use std::{fs, path::PathBuf};

use anyhow::Result;

use crate::{
    certificate::Certificate,
    proc::Proc,
    scope::Scope,
    topo::Node,
    wait::{PATIENCE, until_ok},
};

/// Port of plain HTTP.
pub const HTTP: u16 = 80;
/// Port of TLS; the certificate is its own CA, for the name `www.lab`.
pub const HTTPS: u16 = 443;

/// Ports of HTTP/2, by prior knowledge and over TLS.
pub const HTTP2: u16 = 8080;
pub const HTTPS2: u16 = 8443;

/// Where the server demands the method OPTIONS, the header `X-Check: deep`, the host `app.lab` and, over TLS, the server name
/// `www.lab`: it answers with this status, which is outside 200 to 299, and with another one if something is missing.
pub const PICKY: &str = "/picky";
pub const TEAPOT: u16 = 418;

/// What is answered if it is not as it has to be.
const DEMANDS: [(&str, &str, u16); 4] = [
    ("$request_method", "OPTIONS", 405),
    ("$http_x_check", "deep", 403),
    ("$http_host", "app.lab", 404),
    ("$named", "(http|httpswww[.]lab)", 421),
];

/// A running server, whose answers can be changed.
pub struct Nginx {
    pub proc: Proc,
    /// What `/health` answers with status 200; without the file it is 404.
    pub page: PathBuf,
    /// The certificate.
    pub ca: PathBuf,
}

impl Nginx {
    /// One process on every address of the node. `/health` is the page.
    pub fn start(scope: &Scope, node: &Node) -> Result<Self> {
        let dir = scope.dir().join(format!("nginx-{}", node.role));
        fs::create_dir_all(dir.join("html"))?;
        let Certificate { certificate: ca, key } = Certificate::make(&dir, "www.lab")?;
        let page = dir.join("html/health");
        fs::write(&page, "all is well\n")?;
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {}/{what};", dir.display()));
        let picky = DEMANDS.map(|(what, is, status)| format!("if ({what} !~ ^{is}$) {{ return {status}; }}"));
        let config = format!(
            "daemon off; master_process off; user root; pid {dir}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; root {dir}/html; {}\n\
             server {{ listen {HTTP}; listen [::]:{HTTP}; listen {HTTPS} ssl; listen [::]:{HTTPS} ssl;\n\
             listen {HTTP2} http2; listen {HTTPS2} ssl http2;\n\
             location = {PICKY} {{ set $named $scheme$ssl_server_name; {} return {TEAPOT}; }}\n\
             ssl_certificate {}; ssl_certificate_key {}; }} }}\n",
            temporary.join(" "),
            picky.join(" "),
            ca.display(),
            key.display(),
            dir = dir.display(),
        );
        fs::write(dir.join("nginx.conf"), config)?;
        let mut command = node.netns.command("nginx")?;
        command.arg("-e").arg("stderr").arg("-c").arg(dir.join("nginx.conf"));
        let mut proc = Proc::spawn("nginx", command, &dir.join("log"), scope.lifetime())?;
        until_ok(PATIENCE, &format!("nginx on {} to listen", node.role), || {
            proc.check_alive()?;
            let at = std::net::SocketAddr::new(node.ipv4(), HTTP);
            Ok(node.netns.enter(|| std::net::TcpStream::connect(at))??)
        })?;
        Ok(Self { proc, page, ca })
    }
}
