//! Services as the agent sees them.

use crate::doctor::finding::{Finding, Id};

#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    /// Each backend with the state that `lb backend list` shows, and whether that is to get new connections.
    pub backends: Vec<(String, String, bool)>,
}

pub fn judge(facts: &Facts) -> Option<Finding> {
    let Facts { name, backends } = facts;
    if backends.iter().any(|(_, _, serves)| *serves) {
        return None;
    }
    let found = match backends.len() {
        0 => "it has no backends".to_owned(),
        _ => {
            let states: Vec<String> =
                backends.iter().take(SHOWN).map(|(key, state, _)| format!("{key} is {state}")).collect();
            let more = backends.len().saturating_sub(SHOWN);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("{}{more}", states.join(", "))
        }
    };
    Some(Finding::new(
        Id::NoBackend,
        format!("service {name}"),
        found,
        "no new connection is served",
        format!(
            "lb backend list {name} says why of each; lb backend add, undrain, or edit -w as the case may be"
        ),
    ))
}

/// Backends that are named; of a hundred that are down, the rest is in the listing.
const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_serves_is_enough() {
        let facts = |serving: &[bool]| Facts {
            name: "web".into(),
            backends: serving.iter().map(|serves| ("10.0.0.1:80".into(), "down".into(), *serves)).collect(),
        };
        assert_eq!(judge(&facts(&[false, true])), None);
        for serving in [&[][..], &[false, false]] {
            assert_eq!(judge(&facts(serving)).map(|finding| finding.id), Some(Id::NoBackend));
        }
        let many = judge(&facts(&[false; 9])).expect("a finding");
        assert!(many.found.ends_with("10.0.0.1:80 is down and 4 more"), "{}", many.found);
    }
}
