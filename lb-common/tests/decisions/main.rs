//! The pure decisions against independent statements of what they have to be.
mod capacity;
mod endpoints;
mod filter;
mod hash;
mod population;
mod sctp;
mod tcp;
mod tick;
mod value;
