//! Driver and features of a veth.

use lb::net::{ethtool, offload};

use crate::namespace::Namespace;

#[test]
fn features_are_read_and_switched() {
    let namespace = Namespace::new();
    namespace.ip("link add v0 type veth peer name v1");
    namespace.run(|| {
        assert_eq!(ethtool::driver("v0").expect("answers"), "veth");
        let is_active = |name: &str| ethtool::features("v0").expect("answers")[name].active;
        let blocking = || -> Vec<_> {
            offload::in_the_way(&ethtool::features("v0").expect("answers"), true)
                .iter()
                .map(|o| o.feature)
                .collect()
        };
        assert!(is_active("rx-vlan-hw-parse") && !is_active("rx-lro"));
        assert!(blocking().contains(&"rx-vlan-hw-parse"));
        assert!(ethtool::set_feature("v0", "rx-vlan-hw-parse", false).expect("switches"));
        assert!(!ethtool::set_feature("v0", "rx-vlan-hw-parse", false).expect("is off"));
        assert!(!is_active("rx-vlan-hw-parse"));
        assert!(!blocking().contains(&"rx-vlan-hw-parse"));
        assert!(ethtool::set_feature("v0", "rx-vlan-hw-parse", true).expect("switches back"));
        assert!(is_active("rx-vlan-hw-parse"));
    });
}

/// What ethtool(8) prints is the reference.
#[test]
fn features_are_what_ethtool_says() {
    let namespace = Namespace::new();
    namespace.ip("link add v0 type veth peer name v1");
    namespace.run(|| {
        let features = ethtool::features("v0").expect("answers");
        for (ours, theirs) in [
            ("rx-vlan-hw-parse", "rx-vlan-offload"),
            ("rx-gro", "generic-receive-offload"),
            ("rx-lro", "large-receive-offload"),
            ("rx-gro-list", "rx-gro-list"),
            ("rx-gro-hw", "rx-gro-hw"),
            ("tx-nocache-copy", "tx-nocache-copy"),
        ] {
            let output = std::process::Command::new("ethtool").args(["-k", "v0"]).output().expect("ethtool");
            let text = String::from_utf8(output.stdout).expect("text");
            let line =
                text.lines().map(str::trim).find(|l| l.starts_with(&format!("{theirs}:"))).expect(theirs);
            assert_eq!(features[ours].active, line.contains(": on"), "{line}");
            assert_eq!(features[ours].changeable, !line.contains("[fixed]"), "{line}");
        }
    });
}

#[test]
fn refusals_say_what_is_wrong() {
    let namespace = Namespace::new();
    namespace.ip("link add v0 type veth peer name v1");
    namespace.run(|| {
        let message = |result: Result<bool, ethtool::Error>| result.expect_err("refused").to_string();
        assert!(message(ethtool::set_feature("v0", "rx-warp", true)).contains("no feature \"rx-warp\""));
        assert!(message(ethtool::set_feature("v0", "rx-lro", true)).contains("keeps rx-lro off"));
        assert!(message(ethtool::set_feature("nosuch", "rx-lro", true)).contains("interface \"nosuch\""));
        assert!(ethtool::driver("a-name-that-is-much-too-long").is_err());
        assert!(ethtool::driver("lo").is_err() || ethtool::driver("lo").is_ok_and(|d| !d.is_empty()));
    });
}
