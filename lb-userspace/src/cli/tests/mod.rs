//! The command line from the outside: what parses, what it asks, what it prints, how it ends.

mod docs;
mod parsing;
mod running;
mod tables;
