//! The oldest kernel that the data plane runs on. PURE.

/// The oldest one that we promise: `bpf_loop` came with 5.17, XDP fragments with 5.18.
const OLDEST: (u32, u32) = (6, 1);

/// What is needed, for people, and why.
pub const NEEDED: &str = "6.1 or newer (XDP fragments and bpf_loop)";

/// Whether the kernel of this `uname -r` is older. One that cannot be told is not: the verifier has the last word.
pub fn is_too_old(release: &str) -> bool {
    version(release).is_some_and(|found| found < OLDEST)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("6.1.0-56-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn older_ones_are_known() {
        for release in ["5.10.0-28-amd64", "5.19.17", "6.0.19", "4.18.0-553.el8_10.x86_64"] {
            assert!(is_too_old(release), "{release}");
        }
        for release in ["6.1.0-56-amd64", "6.2.1", "6.18.44", "7.0.0-rc1", "odd"] {
            assert!(!is_too_old(release), "{release}");
        }
        assert!(NEEDED.starts_with(&format!("{}.{} ", OLDEST.0, OLDEST.1)));
    }
}
