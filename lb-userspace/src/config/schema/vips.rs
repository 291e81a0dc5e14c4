//! The keys of what is done about the services' addresses.

use super::*;
pub static SECTION: Section =
    Section { path: "vips", doc: "What is done about the services' addresses.", keys: &[&ADD_TO] };
pub static ADD_TO: Key = key(
    "add_to",
    "interface name",
    Words("the operator adds them"),
    "The agent adds every VIP to this interface, as /32 or /128.",
);
