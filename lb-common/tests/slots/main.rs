//! The slot protocol (`src/bucket.rs`): the shipped functions, run by every party in every order.
//!
//! `explore` is the model checker: it knows x86-TSO and tries all interleavings of two or three
//! parties exhaustively. Not loom: its reduction leaves out interleavings as soon as a thread loads a
//! word that it stores to later, as each claim does (tokio-rs/loom issues 166 and 392; it found neither
//! of the two faults in `find` that these tests found), and it has no x86-TSO. Not shuttle: it has no
//! weak memory, and no end of its search where parties have this many steps.
//!
//! **Shown for every interleaving** of the parties that a test names, with narrow slots and with wide
//! ones of one and the same fingerprint:
//!
//! * what a look-up finds is the client's own: the old flow, the new one, or none (`readers`);
//! * a live flow is found whatever others do in its bucket;
//! * a slot goes to one party, each replaced value to exactly one, so that all counts add up to what the
//!   table holds, and no slot stays locked (`settled`, after every test);
//! * what stands under a key is a destination of that key's flow, also after the slot changed hands and
//!   its word is the same as before (`equal_words`);
//! * of a packet and an eviction, an expiry or a flush of its flow one takes place, and a FIN is not lost
//!   to a refresh; an established flow is never evicted (`claims`);
//! * the sweep of a client's old entry does not clear its new one;
//! * a packet finds its flow while the agent moves it to another table, once, and is not forgotten (`transfers`);
//! * a dead agent's lock is nobody else's until the next agent frees it;
//! * a look-up in the table of endpoints, which has one writer and no locks, finds the key's own endpoint, the old or
//!   the new one, while the agent puts in, changes and removes keys, as long as a freed slot waits for a grace period
//!   before it is filled (`endpoints`).
//!
//! **Left over**, each shown by a test that fails when it is gone: one flow in two slots after two CPUs
//! placed it in the same instant; equal words (a packet moves another flow of the same destination, a
//! flush removes it).
//!
//! **Not shown here**: more than three parties, but for the stress; that a reader stands still while
//! its slot changes hands three times, its own key comes back in between and the first and the third
//! flow have one destination, which a look-up would believe; that compiler and JIT keep the order of
//! volatile accesses; the state machine and the clock, of which the parties here are a transcript.
mod claims;
mod endpoints;
mod equal_words;
mod explore;
mod party;
mod play;
mod readers;
mod stress;
mod table;
mod transfers;
mod word;
