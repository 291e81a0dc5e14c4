//! The keys of backends.

use super::*;

pub static SECTION: Section = Section {
    path: "services[].backends[]",
    doc: "One real server. It owns the VIP on its loopback (`lb realserver start VIP`) and stands one L2 hop \
          away.",
    keys: &[&ADDRESS, &PORT, &WEIGHT, &UPPER_THRESHOLD, &LOWER_THRESHOLD, &DRAINED, &CHECKS, &BACKUP],
};
pub static ADDRESS: Key =
    key("address", "IPv4 or IPv6 address", Required, "The real server's own address, of the VIP's family.")
        .also(&["ip"]);
pub static PORT: Key = key(
    "port",
    "the service's port",
    Words("the service's port"),
    "May be written, but must equal the service's (of its first endpoint): Direct Routing cannot translate ports.",
);
pub static WEIGHT: Key = key(
    "weight",
    "0 to 65535",
    Is("1"),
    "Share of new connections. 0 takes none and keeps those there are (quiesced).",
);
pub static UPPER_THRESHOLD: Key = key(
    "upper_threshold",
    "count",
    Is("0"),
    "At so many connections (active and inactive) it gets no new ones; 0 is no limit.",
)
.also(&["uthreshold", "u_threshold"]);
pub static LOWER_THRESHOLD: Key = key(
    "lower_threshold",
    "count, at most upper_threshold",
    Is("0"),
    "Below so many connections it gets new ones again; 0 is three quarters of `upper_threshold`.",
)
.also(&["lthreshold", "l_threshold"]);
pub static DRAINED: Key = key(
    "drained",
    "`true` or `false`",
    Is("false"),
    "Taken out of service by an operator: gets no new connections, as with weight 0, but the weight is kept.",
);
pub static CHECKS: Key = key(
    "checks",
    "list of `services[].checks[]`",
    Words("the service's"),
    "The checks of this backend instead of the service's; `[]` checks nothing.",
);
pub static BACKUP: Key = key(
    "backup",
    "`true` or `false`",
    Is("false"),
    "Serves only while the others have no `quorum`: a backup, or with `checks: []` a sorry server.",
)
.also(&["sorry_server"]);
