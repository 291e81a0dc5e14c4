//! The checks of a service or backend.

use super::{
    super::{
        check::{
            INITIALS, VIAS,
            kinds::{DEFAULT_USER, FALLBACKS, GALERA, ROLES},
        },
        schema::{self, Key},
    },
    Out, name_of, quoted,
};
use crate::model::check::{
    Check, CheckKind, Digest, DnsCheck, ExecCheck, HttpCheck, MysqlCheck, PostgresCheck, RedisCheck, Role,
    SmtpCheck, Timing, TlsCheck, UdpCheck,
};

impl Out {
    pub(super) fn checks(&mut self, key: &Key, checks: &[Check]) {
        use schema::check::*;
        self.list(key, checks, |out, check| {
            let Check { kind, address, port, source, interface, via, timing } = check;
            out.kind(kind);
            out.line_if(&ADDRESS, address);
            out.line_if(&PORT, port);
            out.line_if(&SOURCE, source);
            out.line_if(&INTERFACE, interface);
            out.line_if(&VIA, &via.map(|via| name_of(via, &VIAS)));
            let default = Timing::default();
            out.line_unless(&INTERVAL, &timing.interval, &default.interval);
            out.line_if(&FAST_INTERVAL, &timing.fast_interval);
            out.line_if(&TIMEOUT, &timing.timeout);
            out.line_if(&CONNECT_TIMEOUT, &timing.connect_timeout);
            out.line_unless(&RISE, &timing.rise, &default.rise);
            out.line_unless(&FALL, &timing.fall, &default.fall);
            out.line_unless(&RETRIES, &timing.retries, &default.retries);
            out.line_unless(&RETRY_DELAY, &timing.retry_delay, &default.retry_delay);
            out.line_if(&WARMUP, &timing.warmup);
            let initial = |it| name_of(it, &INITIALS);
            out.line_unless(&INITIAL, &initial(timing.initial), &initial(default.initial));
        });
    }

    fn kind(&mut self, kind: &CheckKind) {
        use schema::check::*;
        match kind {
            CheckKind::Tcp => self.raw(&format!("{}: {{}}", TCP.name)),
            CheckKind::HalfOpen => {
                self.whole_section(&TCP, |out| out.line(&schema::tcp_check::HALF_OPEN, true));
            }
            CheckKind::Http(http) => {
                let key = if http.tls.is_some() { &HTTPS } else { &HTTP };
                self.whole_section(key, |out| out.http(http));
            }
            CheckKind::Mysql(mysql) => self.whole_section(&MYSQL, |out| out.mysql(mysql)),
            CheckKind::Redis(redis) => self.whole_section(&REDIS, |out| out.redis(redis)),
            CheckKind::Postgres(postgres) => self.whole_section(&POSTGRES, |out| out.postgres(postgres)),
            CheckKind::Udp(udp) => self.whole_section(&UDP, |out| out.udp(udp)),
            CheckKind::Dns(dns) => self.whole_section(&DNS, |out| out.dns(dns)),
            CheckKind::Smtp(smtp) => self.whole_section(&SMTP, |out| out.smtp(smtp)),
            CheckKind::Ping => self.raw(&format!("{}: {{}}", PING.name)),
            CheckKind::File(file) => self.whole_section(&FILE, |out| {
                out.line(&schema::file_check::PATH, file.path.display());
            }),
            CheckKind::Exec(exec) => self.whole_section(&EXEC, |out| out.exec(exec)),
        }
    }

    fn http(&mut self, http: &HttpCheck) {
        use schema::http_check::*;
        let HttpCheck { method, path, host, headers, status, body, digest, expect_headers, http2, tls } =
            http;
        let default = HttpCheck::default();
        self.line_unless(&METHOD, method, &default.method);
        self.line_unless(&PATH, path, &default.path);
        self.line_if(&HOST, host);
        if !headers.is_empty() {
            self.list(&HEADERS, headers, |out, header| out.raw(&quoted(header)));
        }
        if *status != default.status {
            self.list(&STATUS, status, |out, range| out.raw(&quoted(&range.to_string())));
        }
        if !expect_headers.is_empty() {
            self.list(&EXPECT_HEADERS, expect_headers, |out, header| out.raw(&quoted(header)));
        }
        self.line_if(&BODY, body);
        self.line_if(&DIGEST, &digest.as_ref().map(Digest::hex));
        self.line_unless(&HTTP2, http2, &false);
        if let Some(tls) = tls {
            self.tls(tls);
        }
    }

    fn tls(&mut self, tls: &TlsCheck) {
        use schema::https_check::*;
        let TlsCheck { sni, verify, ca } = tls;
        self.line_if(&SNI, sni);
        self.line_unless(&VERIFY, verify, &false);
        self.line_if(&CA, &ca.as_ref().map(|path| path.display()));
    }

    fn optional_tls(&mut self, tls: Option<&TlsCheck>) {
        if let Some(tls) = tls {
            self.line(&schema::mysql_check::TLS, "on");
            self.tls(tls);
        }
    }

    /// Each kind describes its `role` in words of its own.
    fn role(&mut self, key: &Key, role: Role, fallback: bool) {
        self.line_unless(key, &name_of(role, &ROLES), &"any");
        self.line_unless(&schema::mysql_check::FALLBACK, &name_of(fallback, &FALLBACKS), &"none");
    }

    fn mysql(&mut self, mysql: &MysqlCheck) {
        use schema::mysql_check::*;
        let MysqlCheck { user, password, password_file, tls, query, role, fallback, galera, lag } = mysql;
        self.line_if(&USER, user);
        self.line_if(&PASSWORD, &password.as_ref().map(|secret| &secret.0));
        self.line_if(&PASSWORD_FILE, &password_file.as_ref().map(|path| path.display()));
        self.optional_tls(tls.as_ref());
        self.line_if(&QUERY, query);
        self.role(&ROLE, *role, *fallback);
        self.line_unless(&GALERA_KEY, &name_of(*galera, &GALERA), &"off");
        if !lag.is_empty() {
            self.list(&LAG, lag, |out, tier| {
                out.line(&schema::lag_tier::FROM, tier.from);
                out.line(&schema::lag_tier::WEIGHT, tier.weight);
            });
        }
    }

    fn redis(&mut self, redis: &RedisCheck) {
        use schema::redis_check::*;
        let RedisCheck { user, password, password_file, role, fallback } = redis;
        self.line_if(&USER, user);
        self.line_if(&PASSWORD, &password.as_ref().map(|secret| &secret.0));
        self.line_if(&PASSWORD_FILE, &password_file.as_ref().map(|path| path.display()));
        self.role(&ROLE, *role, *fallback);
    }

    fn postgres(&mut self, postgres: &PostgresCheck) {
        use schema::postgres_check::*;
        let PostgresCheck { user, database, password, password_file, tls, query, role, fallback } = postgres;
        self.line(&USER, user);
        self.line_if(&DATABASE, database);
        self.line_if(&PASSWORD, &password.as_ref().map(|secret| &secret.0));
        self.line_if(&PASSWORD_FILE, &password_file.as_ref().map(|path| path.display()));
        self.optional_tls(tls.as_ref());
        self.line_if(&QUERY, query);
        self.role(&ROLE, *role, *fallback);
    }

    fn udp(&mut self, udp: &UdpCheck) {
        use schema::udp_check::*;
        let UdpCheck { send, expect, require_reply } = udp;
        match std::str::from_utf8(send) {
            Ok("") => {}
            Ok(text) => self.line(&SEND, text),
            Err(_) => {
                let hex: String = send.iter().map(|byte| format!("{byte:02x}")).collect();
                self.line(&SEND_HEX, hex);
            }
        }
        self.line_if(&EXPECT, expect);
        self.line_unless(&REQUIRE_REPLY, require_reply, &expect.is_some());
    }

    fn dns(&mut self, dns: &DnsCheck) {
        use schema::dns_check::*;
        let DnsCheck { name, kind, rcode, answer } = dns;
        let default = DnsCheck::default();
        self.line_unless(&NAME, name, &default.name);
        self.line_unless(&TYPE, kind, &default.kind);
        if *rcode != default.rcode {
            self.list(&RCODE, rcode, |out, code| out.raw(&code.to_string()));
        }
        self.line_if(&ANSWER, answer);
    }

    fn smtp(&mut self, smtp: &SmtpCheck) {
        use schema::smtp_check::*;
        self.line_unless(&HELO, &smtp.helo, &SmtpCheck::default().helo);
        if let Some(tls) = &smtp.starttls {
            self.line(&STARTTLS, true);
            self.tls(tls);
        }
    }

    fn exec(&mut self, exec: &ExecCheck) {
        use schema::exec_check::*;
        self.list(&COMMAND, &exec.command, |out, word| out.raw(&quoted(word)));
        self.line_unless(&USER, &exec.user, &DEFAULT_USER.to_owned());
        self.line_unless(&DYNAMIC, &exec.dynamic, &false);
    }
}
