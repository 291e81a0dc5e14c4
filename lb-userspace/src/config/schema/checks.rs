//! The keys of health checks.

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
            &ADDRESS,
            &PORT,
            &SOURCE,
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
    pub static KINDS: &[&Key] = &[&TCP];
    pub static TCP: Key =
        key("tcp", "`services[].checks[].tcp`", Words("another kind"), "A TCP connection can be opened.");
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
        doc: "A TCP connection can be opened; it is closed by a reset at once, so that neither side keeps it. It \
              proves that something listens, not that it answers.",
        keys: &[],
    };
}
