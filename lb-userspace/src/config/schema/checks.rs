//! The keys of health checks.

mod protocols;

pub use protocols::{dns_check, file_check, ping_check, postgres_check, redis_check, smtp_check, udp_check};

pub mod check {
    use super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[]",
        doc: "One health check: what it does (exactly one of the kinds, here the first keys), and when. `- tcp` is \
              short for `- {tcp: {}}`. A backend that fails any of its checks gets no new connections, those of \
              persistent clients included; its established ones go on. `lb backend list` says why it is down, and \
              the log has every change.",
        keys: &[
            &TCP,
            &HTTP,
            &HTTPS,
            &MYSQL,
            &REDIS,
            &POSTGRES,
            &UDP,
            &DNS,
            &SMTP,
            &PING,
            &FILE,
            &EXEC,
            &ADDRESS,
            &PORT,
            &SOURCE,
            &INTERFACE,
            &VIA,
            &INTERVAL,
            &FAST_INTERVAL,
            &TIMEOUT,
            &CONNECT_TIMEOUT,
            &RISE,
            &FALL,
            &RETRIES,
            &RETRY_DELAY,
            &WARMUP,
            &INITIAL,
        ],
    };
    /// Those that say what the check does.
    pub static KINDS: &[&Key] =
        &[&TCP, &HTTP, &HTTPS, &MYSQL, &REDIS, &POSTGRES, &UDP, &DNS, &SMTP, &PING, &FILE, &EXEC];
    pub static TCP: Key =
        key("tcp", "`services[].checks[].tcp`", Words("another kind"), "A TCP connection can be opened.");
    pub static HTTP: Key = key(
        "http",
        "`services[].checks[].http`",
        Words("another kind"),
        "A request is answered with the right status, and body.",
    )
    .also(&["HTTP_GET"]);
    pub static HTTPS: Key =
        key("https", "`services[].checks[].https`", Words("another kind"), "The same over TLS.")
            .also(&["SSL_GET"]);
    pub static MYSQL: Key = key(
        "mysql",
        "`services[].checks[].mysql`",
        Words("another kind"),
        "A MySQL or MariaDB server greets, or lets a user in; its role and its replication are as they should be.",
    );
    pub static REDIS: Key = key(
        "redis",
        "`services[].checks[].redis`",
        Words("another kind"),
        "A Redis server answers PING, lets a user in, has the right role.",
    );
    pub static POSTGRES: Key = key(
        "postgres",
        "`services[].checks[].postgres`",
        Words("another kind"),
        "A PostgreSQL server answers, or lets a user in; its role and a query's result are as they should be.",
    )
    .also(&["postgresql", "pgsql"]);
    pub static UDP: Key = key(
        "udp",
        "`services[].checks[].udp`",
        Words("another kind"),
        "A datagram is answered, or at least not refused.",
    )
    .also(&["UDP_CHECK"]);
    pub static DNS: Key = key(
        "dns",
        "`services[].checks[].dns`",
        Words("another kind"),
        "A DNS server answers a question as it should.",
    )
    .also(&["DNS_CHECK"]);
    pub static SMTP: Key = key(
        "smtp",
        "`services[].checks[].smtp`",
        Words("another kind"),
        "A mail server greets and hears us, with STARTTLS if wanted.",
    )
    .also(&["SMTP_CHECK"]);
    pub static PING: Key =
        key("ping", "`services[].checks[].ping`", Words("another kind"), "An ICMP echo request is answered.")
            .also(&["PING_CHECK", "icmp"]);
    pub static FILE: Key =
        key("file", "`services[].checks[].file`", Words("another kind"), "A file says the weight.")
            .also(&["FILE_CHECK"]);
    pub static EXEC: Key =
        key("exec", "`services[].checks[].exec`", Words("another kind"), "A program ends with exit code 0.")
            .also(&["MISC_CHECK"]);
    pub static ADDRESS: Key =
        key("address", "IPv4 or IPv6 address", Words("the backend's"), "Where the check goes to.")
            .also(&["connect_ip"]);
    pub static PORT: Key = key(
        "port",
        "1 to 65535",
        Words("the service's"),
        "Where the check goes to. A service of every port has to say it.",
    )
    .also(&["connect_port"]);
    pub static SOURCE: Key = key(
        "source",
        "IPv4 or IPv6 address",
        Words("the kernel's choice"),
        "The director's address that the check comes from.",
    )
    .also(&["bindto"]);
    pub static INTERFACE: Key = key(
        "interface",
        "interface name",
        Words("as the routes say"),
        "The director's interface that the check leaves by (SO_BINDTODEVICE), a VRF too; not the one through the VIP, \
         which goes the way of clients' packets.",
    )
    .also(&["bind_if"]);
    pub static VIA: Key = key(
        "via",
        "`rip`, `vip` or `both`",
        Words("`both` where clients are served, else `rip`"),
        "`rip`: the check goes to the backend's own address. `vip`: it goes the way of a client's packets, to the \
         VIP, delivered to the backend's MAC by the data path's records, and the VIP must answer: so the backend has \
         the VIP on lo, takes such packets in (rp_filter), and its server listens there. `both`: it is made both \
         ways, as two checks that must pass. It is the default unless the check has an `address`, or goes to a port \
         that the service does not have. A `ping` goes to every VIP of the service. `file` and `exec` checks have no \
         way through the VIP.",
    );
    pub static INTERVAL: Key =
        key("interval", "short duration", Is("2s"), "From the begin of one check to that of the next.")
            .also(&["inter", "delay_loop"]);
    pub static FAST_INTERVAL: Key = key(
        "fast_interval",
        "short duration",
        Words("`interval`"),
        "The same between results that contradict the present state, and until the state is known.",
    )
    .also(&["fastinter"]);
    pub static TIMEOUT: Key =
        key("timeout", "short duration", Words("`interval`"), "A check that takes longer has failed.");
    pub static CONNECT_TIMEOUT: Key = key(
        "connect_timeout",
        "short duration",
        Words("`timeout`"),
        "A check that takes longer to connect has failed.",
    );
    pub static RISE: Key = key("rise", "1 to 1000", Is("2"), "So many passes in a row bring a backend back.");
    pub static FALL: Key = key("fall", "1 to 1000", Is("3"), "So many failures in a row take a backend out.");
    pub static RETRIES: Key = key(
        "retries",
        "0 to 1000",
        Is("0"),
        "A healthy backend's check that fails is tried again so often, before it counts as one failure.",
    )
    .also(&["retry"]);
    pub static RETRY_DELAY: Key = key("retry_delay", "short duration", Is("1s"), "Before each of `retries`.")
        .also(&["delay_before_retry"]);
    pub static WARMUP: Key = key(
        "warmup",
        "short duration",
        Words("a tenth of `interval`, at most 1s"),
        "The first check begins at a random time within it. The later ones are spread over the whole interval.",
    );
    pub static INITIAL: Key = key(
        "initial",
        "`down` or `up`",
        Is("down"),
        "What a backend that is new to the configuration counts as until its first result, which decides alone. A \
         restarted agent goes on with what was known; a check that is added to a backend that serves takes it out \
         only by `fall` failures.",
    );
}

pub mod tcp_check {
    use super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].tcp",
        doc: "A TCP connection can be opened; it is closed by a reset at once, so that neither side keeps it in \
              TIME_WAIT. It proves that something listens, not that it answers.",
        keys: &[&HALF_OPEN],
    };
    pub static HALF_OPEN: Key = key(
        "half_open",
        "true, false",
        Is("false"),
        "A SYN with ACK is answered by the reset: the server's kernel never gives the connection to the server, which so \
         has nothing to log or to count.",
    );
}

pub mod http_check {
    use super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].http",
        doc: "A request by HTTP/1.1, or HTTP/2, over a connection of its own. Redirects are not followed. `{}` asks \
              for `/`. Without `body` or `digest` the body is not read: who breaks off or hangs in it passes.",
        keys: &[&METHOD, &PATH, &HOST, &HEADERS, &STATUS, &EXPECT_HEADERS, &BODY, &DIGEST, &HTTP2],
    };
    pub static METHOD: Key = key("method", "HTTP method", Is("GET"), "What is asked.");
    pub static PATH: Key =
        key("path", "path, and query", Is("/"), "What is asked for.").also(&["uri", "url"]);
    pub static HOST: Key = key(
        "host",
        "name, or name and port",
        Words("the backend's address and port"),
        "The Host header; of https the server name as well.",
    )
    .also(&["virtualhost"]);
    pub static HEADERS: Key =
        key("headers", "list of `Name: value`, in quotes", Words("none"), "More headers of the request.");
    pub static STATUS: Key = key(
        "status",
        "list of statuses and ranges",
        Words("`[200-299]`"),
        "The answer must have one of them.",
    )
    .also(&["status_code"]);
    pub static BODY: Key = key(
        "body",
        "regular expression",
        Words("not looked at"),
        "The body, of at most 1 MiB, must match it somewhere; plain text matches itself. \
         Syntax: <https://docs.rs/regex/latest/regex/#syntax>.",
    )
    .also(&["regex"]);
    pub static EXPECT_HEADERS: Key = key(
        "expect_headers",
        "list of `Name: regular expression`, in quotes",
        Words("not looked at"),
        "The answer must have each of these headers, with a value that matches somewhere.",
    );
    pub static DIGEST: Key = key(
        "digest",
        "SHA-256 or MD5 in hexadecimal",
        Words("not looked at"),
        "What the body, of at most 1 MiB, must hash to. MD5 is what keepalived's `genhash` prints.",
    );
    pub static HTTP2: Key = key(
        "http2",
        "`true` or `false`",
        Is("false"),
        "By HTTP/2. With TLS the server must agree to it (ALPN `h2`); without, it is spoken at once (prior knowledge).",
    );
}

pub mod https_check {
    use super::{super::*, http_check::*};
    pub static SECTION: Section = Section {
        path: "services[].checks[].https",
        doc: "A request as by `http`, over TLS 1.2 or 1.3.",
        keys: &[
            &METHOD,
            &PATH,
            &HOST,
            &HEADERS,
            &STATUS,
            &EXPECT_HEADERS,
            &BODY,
            &DIGEST,
            &HTTP2,
            &SNI,
            &VERIFY,
            &CA,
        ],
    };
    pub static SNI: Key = key(
        "sni",
        "name",
        Words("`host`; where there is none, the address"),
        "The server name of the handshake, and the one that the certificate is verified for.",
    )
    .also(&["sni_name"]);
    pub static VERIFY: Key = key(
        "verify",
        "`true` or `false`",
        Is("false"),
        "The certificate must be good for the server name. As with keepalived, a check asks by default only \
         whether the server works.",
    );
    pub static CA: Key = key(
        "ca",
        "absolute path",
        Words("the system's"),
        "A PEM file with the CAs that `verify: true` trusts. It is read at each check.",
    );
}

pub mod mysql_check {
    use super::super::*;
    pub use super::https_check::{CA, SNI, VERIFY};
    pub static SECTION: Section = Section {
        path: "services[].checks[].mysql",
        doc: "`{}`: the server greets, and refuses a user without a name, or lets it in. With `user` alone: it lets in this \
              user, who has no password, as with HAProxy's `mysql-check`. With any of the other keys: the user logs in \
              (native and caching_sha2 passwords). In each case the check leaves in order: who hangs up at the greeting, \
              as a tcp check may, is counted, and after `max_connect_errors` (100) the server blocks the director.",
        keys: &[
            &USER,
            &PASSWORD,
            &PASSWORD_FILE,
            &TLS,
            &SNI,
            &VERIFY,
            &CA,
            &QUERY,
            &ROLE,
            &FALLBACK,
            &GALERA_KEY,
            &LAG,
        ],
    };
    pub static USER: Key = key("user", "name", Words("none"), "Who logs in.");
    pub static PASSWORD: Key = key(
        "password",
        "password",
        Words("none"),
        "Its password. `lb save` writes it; listings and the log do not show it.",
    );
    pub static PASSWORD_FILE: Key = key(
        "password_file",
        "absolute path",
        Words("none"),
        "A file with the password, read at each check, in the place of `password`.",
    );
    pub static TLS: Key = key(
        "tls",
        "`off` or `on`",
        Is("off"),
        "`on`: the login is over TLS; `sni`, `verify` and `ca` are about that. A certificate that names nothing in \
         its subjectAltName, as MySQL makes one for itself, is good for no name.",
    );
    pub static QUERY: Key = key(
        "query",
        "SQL",
        Words("none"),
        "It must succeed and give at least one row, whatever is in it: `NULL` and `0` pass, too.",
    );
    pub static ROLE: Key = key(
        "role",
        "`any`, `primary` or `replica`",
        Is("any"),
        "`primary`: `read_only` is off; `replica`: it is on. Any other server fails the check.",
    );
    pub static FALLBACK: Key = key(
        "fallback",
        "`none` or `primary`",
        Is("none"),
        "`primary`, with `role: replica`: the primary does not fail the check, it stands by (state `standby`). It \
         serves, alone, while the weights of the replicas are below the service's `quorum`, with its `hysteresis`, \
         and before those that are only behind, and before any `backup`.",
    );
    pub static GALERA_KEY: Key = key(
        "galera",
        "`off`, `synced` or `donor`",
        Is("off"),
        "The server must be a node of a Galera cluster's primary component that is ready and in state 4 (Synced); with \
         `donor`, state 2 (Donor/Desynced) passes too.",
    );
    pub static LAG: Key = key(
        "lag",
        "list of `services[].checks[].mysql.lag[]`",
        Words("not asked for"),
        "What replication lag does to the weight. Replication that is stopped, or does not answer, counts as the \
         last tier; a server that replicates nothing has no lag. Of several sources the worst counts. A session whose question is not answered in time is \
         kept, one for each way (own address, VIP), and nobody asks anew until it is answered or ends: so they do not \
         pile up in the server. If all backends are out by lag alone, the \
         primary serves by `fallback`; without it, those that are least behind stay in. The user needs REPLICA MONITOR (MySQL: REPLICATION CLIENT).",
    );
}

pub mod lag_tier {
    use super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].mysql.lag[]",
        doc: "A tier of replication lag, in rising order. A part of a weight is rounded up, so give weights of 10 or \
              100 to make it felt.",
        keys: &[&FROM, &WEIGHT],
    };
    pub static FROM: Key =
        key("from", "duration", Required, "The tier begins when the replica is so far behind.");
    pub static WEIGHT: Key = key(
        "weight",
        "0 to 100",
        Required,
        "Percent of the backend's weight that it has there; 0 takes it out.",
    );
}

pub mod exec_check {
    use super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].exec",
        doc: "Runs a program, without a shell. Exit code 0 passes. It finds LB_SERVICE, LB_BACKEND (address and \
              port), LB_ADDRESS and LB_PORT (where the check goes to) and LB_TIMEOUT_MS in its environment, and \
              nothing else but PATH. At its `timeout` it is killed, with all of its process group. To become \
              another user than root the agent needs CAP_SETUID, CAP_SETGID and CAP_KILL.",
        keys: &[&COMMAND, &USER, &DYNAMIC],
    };
    pub static COMMAND: Key = key(
        "command",
        "list: absolute path, arguments",
        Required,
        "The program, for example `[/usr/local/bin/check, --fast]`.",
    )
    .also(&["misc_path"]);
    pub static USER: Key = key("user", "user name", Is("nobody"), "Whom it runs as.").also(&["script_user"]);
    pub static DYNAMIC: Key = key(
        "dynamic",
        "`true` or `false`",
        Is("false"),
        "Exit codes 2 to 255 pass too, and set the weight to the code minus 2, as keepalived's `misc_dynamic`; 0 is \
         the configured weight, 1 fails.",
    )
    .also(&["misc_dynamic"]);
}
