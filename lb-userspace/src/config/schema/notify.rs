//! The keys of who is told.

use super::*;

pub static SECTION: Section = Section {
    path: "notify",
    doc: "Who is told of events (`lb events`), and how; the words are keepalived's. Mails, webhooks and the program \
          get the kinds that are marked in operations.md, or those of `events`. Mails and webhooks get what happens \
          within `delay` together, so a dead switch is one mail. All of it may be changed by reload.",
    keys: &[
        &ROUTER_ID,
        &EVENTS,
        &DELAY,
        &INTERVAL,
        &PROGRAM,
        &SCRIPT_USER,
        &SCRIPT_TIMEOUT,
        &WEBHOOKS,
        &EMAIL,
        &EMAIL_FROM,
        &SMTP_SERVER,
        &SMTP_CONNECT_TIMEOUT,
        &SMTP_HELO_NAME,
        &SMTP_TLS,
        &SMTP_VERIFY,
        &SMTP_CA,
        &SMTP_USER,
        &SMTP_PASSWORD,
        &SMTP_PASSWORD_FILE,
    ],
};
pub static ROUTER_ID: Key = key(
    "router_id",
    "1 to 64 printable characters",
    Words("the host's name"),
    "What this director is called in subjects of mails, in webhooks and in `LB_ROUTER_ID`.",
);
pub static EVENTS: Key = key(
    "events",
    "list of kinds of events",
    Words("those marked in operations.md"),
    "What mails, webhooks and the program get, instead of the usual; `[]` is nothing.",
);
pub static DELAY: Key = key(
    "delay",
    "short duration",
    Is("2s"),
    "So long after an event others are waited for, and told together with it.",
);
pub static INTERVAL: Key = key(
    "interval",
    "short duration",
    Is("30s"),
    "The least time between two mails, and between two posts to one URL. What happens meanwhile goes into the next \
     one: at most 1000 events by themselves, the others as counts of each kind.",
);
pub static PROGRAM: Key = key(
    "program",
    "list: absolute path, arguments",
    Words("none"),
    "Run for each event, without a shell. Its arguments are as written here; the event is in its environment: \
     LB_EVENT (the kind), LB_SEQ, LB_TIME (UTC, RFC 3339), LB_REASON, LB_TEXT (a sentence), LB_SERVICE, LB_BACKEND, \
     LB_ADDRESS and LB_PORT (empty where it is of none), LB_WEIGHT_BEFORE and LB_WEIGHT (of `weight`), LB_INSTANCE, \
     LB_ROUTER_ID, LB_TIMEOUT_MS, and PATH; nothing else. At `script_timeout` it is killed, with its process group. \
     Programs of one service run one after the other, those of eight at a time; of more than 1024 that wait the \
     newest are left out, and counted in an event `notify-failed`.",
)
.also(&["notify", "exec"]);
pub static SCRIPT_USER: Key = key(
    "script_user",
    "user name",
    Is("nobody"),
    "Whom programs run as, those of services too. `root` only if you write it. To become another user than root \
     the agent needs CAP_SETUID, CAP_SETGID and CAP_KILL.",
)
.also(&["user"]);
pub static SCRIPT_TIMEOUT: Key =
    key("script_timeout", "short duration", Is("10s"), "How long a program may run.");
pub static WEBHOOKS: Key =
    key("webhooks", "list of `notify.webhooks[]`", Words("none"), "URLs that events are posted to, as JSON.");
pub static EMAIL: Key = key(
    "notification_email",
    "list of mail addresses",
    Words("no mails"),
    "Who gets mails. Needs `notification_email_from` and `smtp_server`.",
);
pub static EMAIL_FROM: Key =
    key("notification_email_from", "mail address", Words("required for mails"), "Whom they are from.");
pub static SMTP_SERVER: Key = key(
    "smtp_server",
    "host or address, with or without :PORT",
    Words("required for mails"),
    "The mail server. Without a port: 25, and 465 with `smtp_tls: on`; 587 is usual for a login.",
);
pub static SMTP_CONNECT_TIMEOUT: Key = key(
    "smtp_connect_timeout",
    "short duration",
    Is("30s"),
    "How long each step of sending may take; all of it at most twice as long.",
);
pub static SMTP_HELO_NAME: Key =
    key("smtp_helo_name", "host name", Words("the host's name"), "What the director says to be.");
pub static SMTP_TLS: Key = key(
    "smtp_tls",
    "`off`, `starttls` or `on`",
    Is("starttls"),
    "`starttls`: the connection is encrypted after the greeting, and there is no mail if the server cannot; `on`: from \
     the beginning; `off`: clear text, for a server on this host.",
);
pub static SMTP_VERIFY: Key =
    key("smtp_verify", "`true` or `false`", Is("true"), "Whether the server's certificate is verified.");
pub static SMTP_CA: Key = key(
    "smtp_ca",
    "absolute path",
    Words("the system's CAs"),
    "A file with the certificate (PEM) of the CA that signed the server's, or the server's own.",
);
pub static SMTP_USER: Key = key("smtp_user", "user name", Words("no login"), "Who logs in.");
pub static SMTP_PASSWORD: Key = key(
    "smtp_password",
    "password",
    Words("none"),
    "Its password. `lb save` writes it; listings and the log do not show it.",
);
pub static SMTP_PASSWORD_FILE: Key = key(
    "smtp_password_file",
    "absolute path",
    Words("none"),
    "A file with the password, read for each mail, in the place of `smtp_password`.",
);

pub mod webhook {
    use super::super::*;
    pub static SECTION: Section = Section {
        path: "notify.webhooks[]",
        doc: "One URL. It gets `{router_id, instance, count, events, more, lost}`: `events` are objects as `lb events \
              --output json` prints them, `more` are counts by kind of those that were too many, `lost` how many could \
              not be delivered before, `count` is the sum. A status of 200 to 299 is success; a connection that fails \
              and the statuses 408, 429 and 500 to 599 are tried again.",
        keys: &[&URL, &TIMEOUT, &RETRIES, &HEADER, &SECRET, &SECRET_FILE, &VERIFY, &CA],
    };
    pub static URL: Key =
        key("url", "http or https URL", Required, "Where to. The log and listings show its host only.");
    pub static TIMEOUT: Key = key("timeout", "short duration", Is("5s"), "For one attempt.");
    pub static RETRIES: Key = key(
        "retries",
        "0 to 100",
        Is("5"),
        "How often it is tried again: after a second, and after twice as long each time, at most a minute.",
    )
    .also(&["retry"]);
    pub static HEADER: Key =
        key("header", "name of a header", Is("Authorization"), "The header that carries the secret.");
    pub static SECRET: Key = key(
        "secret",
        "text",
        Words("none"),
        "The header's value, for example `Bearer abc`. `lb save` writes it; listings and the log do not show it.",
    );
    pub static SECRET_FILE: Key = key(
        "secret_file",
        "absolute path",
        Words("none"),
        "A file with the header's value, read for each post, in the place of `secret`.",
    );
    pub static VERIFY: Key =
        key("verify", "`true` or `false`", Is("true"), "Whether an https server's certificate is verified.");
    pub static CA: Key = key("ca", "absolute path", Words("the system's CAs"), "The CA's certificate (PEM).");
}

/// Of services.
pub mod hooks {
    use super::super::*;
    pub static NOTIFY_UP: Key = key(
        "notify_up",
        "list: absolute path, arguments",
        Words("none"),
        "A program that is run when a backend comes up (`backend-up`), as `notify.program` is, and as \
         `notify.script_user`.",
    );
    pub static NOTIFY_DOWN: Key = key(
        "notify_down",
        "list: absolute path, arguments",
        Words("none"),
        "The same when a backend goes down (`backend-down`).",
    );
    pub static QUORUM_UP: Key = key(
        "quorum_up",
        "list: absolute path, arguments",
        Words("none"),
        "The same when the service has its quorum again (`quorum-up`).",
    );
    pub static QUORUM_DOWN: Key = key(
        "quorum_down",
        "list: absolute path, arguments",
        Words("none"),
        "The same when it has lost it (`quorum-down`).",
    );
}
