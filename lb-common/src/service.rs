//! The pinned record of a service.

/// Longest service name, in bytes.
pub const NAME_LEN: usize = 63;
