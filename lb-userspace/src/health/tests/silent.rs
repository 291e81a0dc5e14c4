//! Checks of datagrams that need no answer.

use super::*;

/// A service whose check goes both ways, and its health.
fn watched() -> (Service, Health) {
    let mut service = service(fast(), &["10.0.0.1"]);
    service.health.checks[0].via = None;
    let mut health = Health::new(7, Saved::default(), Clocks::default());
    health.watch(Duration::ZERO, &model(std::slice::from_ref(&service)));
    (service, health)
}

/// Every attempt of some rounds ends so, by its target.
fn rounds(health: &mut Health, ends: impl Fn(IpAddr) -> Pass) {
    for _ in 0..20 {
        let now = health.deadline().expect("a check");
        let mut actions = Vec::new();
        health.handle(now, Input::Time, &mut actions);
        for action in actions {
            let Action::Attempt(Wanted { due, id, probe }) = action else { continue };
            let outcome = Outcome { took: Duration::ZERO, result: Ok(ends(probe.target.ip())) };
            health.handle(due, Input::Done(id, outcome), &mut Vec::new());
        }
    }
}

#[test]
fn silence_through_the_vip_is_believed_where_the_own_address_is_silent_too() {
    let (service, mut health) = watched();
    let (vip, key) = (IpAddr::from([192, 0, 2, 1]), service.backends[0].key);
    let reply = || Pass::new("a reply of 5 bytes");
    rounds(&mut health, |_| Pass::silence());
    assert!(health.healthy(&service.name, key), "nobody answers anywhere");
    rounds(&mut health, |_| reply());
    assert!(health.healthy(&service.name, key));
    rounds(&mut health, |target| if target == vip { Pass::silence() } else { reply() });
    assert!(!health.healthy(&service.name, key));
    let told = health.checks(&service.name, key).into_iter().find_map(|check| check.trouble());
    let told = told.expect("a cause");
    assert!(told.contains("but not here: no reply (is 192.0.2.1 on its lo?"), "{told}");
    // A server that gives an answer to clients alone: odd, and no fault.
    rounds(&mut health, |target| if target == vip { reply() } else { Pass::silence() });
    assert!(health.healthy(&service.name, key));
}
