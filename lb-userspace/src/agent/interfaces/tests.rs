//! Which interfaces want a program, as they come and go.

use super::*;

const PROGRAM: u32 = 77;

fn link(index: u32, name: &str, program: Option<u32>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        kind: None,
        parent: None,
        vlan: None,
        master: None,
        xdp: program.map(|id| XdpProgram { mode: XdpMode::Native, id }).into_iter().collect(),
    }
}

/// eth0, which has the program.
fn attached() -> Interfaces {
    let links = [link(2, "eth0", Some(PROGRAM))];
    let spec = InterfaceSpec {
        name: "eth0".to_owned(),
        mode: AttachMode::Native,
        offloads: OffloadPolicy::default(),
    };
    let model = Model { interfaces: vec![spec], ..Model::default() };
    let mut interfaces = Interfaces::resolve(&model, &links).expect("it is there");
    assert!(interfaces.lacks_program() && interfaces.lacks_program_on("eth0"));
    interfaces.shared(&Attached {
        interface: "eth0".to_owned(),
        ifindex: 2,
        generic: false,
        program_id: PROGRAM,
        verified_instructions: None,
        adopted: false,
        fallback: None,
    });
    assert!(!interfaces.follow(&links) && !interfaces.lacks_program());
    interfaces
}

#[test]
fn one_that_is_made_again_is_attached_to() {
    let mut interfaces = attached();
    assert!(interfaces.follow(&[link(3, "eth0", None)]));
    assert!(interfaces.lacks_program() && !interfaces.lacks_program_on("eth1"));
}

#[test]
fn one_that_comes_back_under_its_old_index_is_attached_to() {
    let mut interfaces = attached();
    assert!(!interfaces.follow(&[]), "there is nothing to attach to");
    assert!(!interfaces.lacks_program());
    assert_eq!(interfaces.missing(), ["eth0"]);
    assert!(interfaces.follow(&[link(2, "eth0", None)]));
    assert!(interfaces.missing().is_empty() && interfaces.lacks_program_on("eth0"));
}

/// Between two looks.
#[test]
fn one_whose_program_is_another_one_is_attached_to() {
    for other in [None, Some(PROGRAM + 1)] {
        assert!(attached().follow(&[link(2, "eth0", other)]), "{other:?}");
    }
}

#[test]
fn what_failed_is_tried_again_at_once_where_something_is_new() {
    let later = Duration::from_secs(30);
    let mut interfaces = attached();
    interfaces.follow(&[link(3, "eth0", None)]);
    interfaces.not_before = later;
    interfaces.follow(&[link(3, "eth0", None)]);
    assert_eq!(interfaces.not_before, later);
    interfaces.follow(&[Link { mtu: 9000, ..link(3, "eth0", None) }]);
    assert_eq!(interfaces.not_before, Duration::ZERO);
}

/// They are those of the last attempt, not of each.
#[test]
fn a_fallback_is_told_once() {
    let mut interfaces = attached();
    let why = Some("not supported".to_owned());
    let attached = interfaces.all[0].attached.clone().expect("it is there");
    let fallen = Attached { generic: true, fallback: why, ..attached.clone() };
    report(&fallen, &mut interfaces.fallbacks);
    report(&fallen, &mut interfaces.fallbacks);
    report(&Attached { adopted: true, ..attached.clone() }, &mut interfaces.fallbacks);
    assert_eq!(interfaces.warnings().count(), 1);
    report(&attached, &mut interfaces.fallbacks);
    assert_eq!(interfaces.warnings().count(), 0);
}
