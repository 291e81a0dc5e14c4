//! What the rules apply to. A path that ends in `/` is a directory with all below it.

/// The PURE ring of lb-userspace: decisions without IO, tested without a kernel.
const PURE: &[&str] = &[
    "lb-userspace/src/config/",
    "lb-userspace/src/events/",
    "lb-userspace/src/doctor/finding.rs",
    "lb-userspace/src/doctor/held.rs",
    "lb-userspace/src/doctor/judge/",
    "lb-userspace/src/doctor/probe/frame.rs",
    "lb-userspace/src/doctor/report.rs",
    "lb-userspace/src/explain/packet.rs",
    "lb-userspace/src/explain/story.rs",
    "lb-userspace/src/health/",
    "lb-userspace/src/estimator.rs",
    "lb-userspace/src/model/",
    "lb-userspace/src/neigh/cache.rs",
    "lb-userspace/src/overlay/",
    "lb-userspace/src/overlay.rs",
    "lb-userspace/src/plan/",
    "lb-userspace/src/plan.rs",
    "lb-userspace/src/pressure.rs",
    "lb-userspace/src/trace/place.rs",
    "lb-userspace/src/trace/question.rs",
    "lb-userspace/src/trace/report.rs",
];

/// Files in those directories that do their ring's IO, with the reason.
const PURE_EXCEPT: &[(&str, &str)] = &[
    ("lb-userspace/src/config/file.rs", "reads the config file"),
    ("lb-userspace/src/events/file.rs", "appends to the event log and syncs it"),
    ("lb-userspace/src/overlay/file.rs", "reads and writes the state file"),
    ("lb-userspace/src/overlay/journal.rs", "appends to the state file and syncs it"),
];

/// Where `unsafe` may stand, with the reason. Everywhere else it is a finding.
const UNSAFE: &[(&str, &str)] = &[
    ("lb-common/src/user.rs", "aya's Pod marks the map types as plain bytes"),
    ("lb-ebpf/src/", "packet and map access in the kernel is through raw pointers"),
    ("lb-userspace/src/clock.rs", "adjtimex(2) takes a pointer"),
    ("lb-userspace/src/dataplane/bpf.rs", "bpf(2)"),
    ("lb-userspace/src/dataplane/link.rs", "a pointer for bpf(2), to end a link"),
    ("lb-userspace/src/dataplane/mapped.rs", "maps the flow tables"),
    (
        "lb-userspace/src/doctor/probe/socket.rs",
        "binds a packet socket to an interface, which nix has no address for",
    ),
    ("lb-userspace/src/net/ethtool.rs", "ethtool's ioctl takes a pointer"),
    (
        "lb-userspace/tests/net/xdp.rs",
        "pointers for bpf(2), to load somebody else's program of two instructions",
    ),
    ("tests/src/clock.rs", "adjtimex(2) takes a pointer"),
    ("tests/src/feeder.rs", "hands its parameters to a BPF map as plain bytes"),
    ("tests/src/jited.rs", "pointers for bpf(2), to ask what the kernel made of a program"),
    ("tests/src/mark.rs", "an instruction that does nothing, for qemu's plugin to see"),
    ("tests/src/netns.rs", "enters a namespace between fork and exec"),
    ("tests/src/proc.rs", "sets the parent-death signal between fork and exec"),
    ("tests/src/xdp_pass.rs", "pointers for bpf(2), to load a program of two instructions"),
    ("xtask/steps-plugin/src/qemu.rs", "qemu calls it, and is called, through pointers"),
    ("xtask/src/sys.rs", "kill(2) and signal(2)"),
];

/// Whether a file belongs to the PURE ring.
pub fn is_pure(name: &str) -> bool {
    matches(PURE.iter(), name) && !matches(PURE_EXCEPT.iter().map(|(path, _)| path), name)
}

/// Whether a file is listed as one that needs `unsafe`.
pub fn may_be_unsafe(name: &str) -> bool {
    matches(UNSAFE.iter().map(|(path, _)| path), name)
}

/// Whether all of a file is test code (the lib of `tests/` is a harness, and counts as code).
pub fn is_test_file(name: &str) -> bool {
    let directories = name.rsplit_once('/').map_or("", |(directories, _)| directories);
    name.ends_with("/tests.rs")
        || directories.split('/').skip(1).any(|part| part == "tests" || part == "benches")
}

fn matches<'a>(mut list: impl Iterator<Item = &'a &'a str>, name: &str) -> bool {
    list.any(|path| if path.ends_with('/') { name.starts_with(path) } else { name == *path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pure_ring_has_its_exceptions() {
        assert!(is_pure("lb-userspace/src/model/mod.rs"));
        assert!(is_pure("lb-userspace/src/neigh/cache.rs"));
        assert!(!is_pure("lb-userspace/src/neigh/netlink.rs"));
        assert!(!is_pure("lb-userspace/src/config/file.rs"));
    }

    #[test]
    fn tests_are_told_from_the_harness() {
        assert!(is_test_file("lb-userspace/src/plan/tests.rs"));
        assert!(is_test_file("lb-userspace/src/plan/tests/wrr.rs"));
        assert!(is_test_file("tests/tests/packets/main.rs"));
        assert!(!is_test_file("tests/src/netns.rs"));
        assert!(!is_test_file("lb-userspace/src/main.rs"));
    }
}
