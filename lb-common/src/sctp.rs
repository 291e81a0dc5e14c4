//! The input-only SCTP state machine: what a director sees in Direct Routing (`net/netfilter/ipvs/ip_vs_proto_sctp.c`,
//! `sctp_states` rows INPUT-ONLY, `set_sctp_state`).
//!
//! What a packet does to its association is said in a byte of TCP's flags, so that what looks at them need not know the
//! protocol: INIT opens as SYN does, ABORT breaks off as RST does, and everything else goes on as ACK does. The upper half
//! of the byte, in which ACK is, says which event it was.

use crate::tcp::{State, flag, in_row, row};

/// Bytes of the common header, and of the head of a chunk behind it (RFC 9260 section 3).
pub const HEADER_LEN: usize = 12;
pub const CHUNK_LEN: usize = 4;

/// Chunk types (RFC 9260 section 3.2).
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

// Events, as they stand in the upper half of the flags; those that go on have ACK's bit. DATA stands for all chunks that
// say nothing about the association.
const SHIFT: u32 = 4;
const ABORT: u8 = 0;
const INIT: u8 = 2;
const DATA: u8 = 1;
const INIT_ACK: u8 = 3;
const COOKIE_ECHO: u8 = 5;
const COOKIE_ACK: u8 = 7;
const SHUTDOWN: u8 = 9;
const SHUTDOWN_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 13;
const ERROR: u8 = 15;
const ABORT_BEHIND: u8 = 4;

/// What a packet does with an ABORT behind its first chunk: it closes the association. But the first chunk alone says
/// whether it may open one (`sctp_conn_schedule`), so it has not RST's bit.
pub const ABORTED_BEHIND: u8 = ABORT_BEHIND << SHIFT;

/// What a packet does whose first chunk is of type `first`.
#[inline(always)]
pub const fn flags(first: u8) -> u8 {
    match first {
        chunk::INIT => INIT << SHIFT | flag::SYN,
        chunk::ABORT => ABORT << SHIFT | flag::RST,
        chunk::INIT_ACK => INIT_ACK << SHIFT,
        chunk::COOKIE_ECHO => COOKIE_ECHO << SHIFT,
        chunk::COOKIE_ACK => COOKIE_ACK << SHIFT,
        chunk::SHUTDOWN => SHUTDOWN << SHIFT,
        chunk::SHUTDOWN_ACK => SHUTDOWN_ACK << SHIFT,
        chunk::SHUTDOWN_COMPLETE => SHUTDOWN_COMPLETE << SHIFT,
        chunk::ERROR => ERROR << SHIFT,
        _ => DATA << SHIFT,
    }
}

/// From the first chunk to the one behind it, of which only an ABORT counts: 0 if that is not looked at. RFC 9260
/// section 3.3.7 lets control chunks stand before one; IPVS looks behind these two. `length`: the first one's.
#[inline(always)]
pub const fn to_second(first: u8, length: u16) -> u32 {
    if (first == chunk::COOKIE_ECHO || first == chunk::COOKIE_ACK) && length as usize >= CHUNK_LEN {
        // Chunks are padded to four bytes.
        (length as u32 + 3) & !3
    } else {
        0
    }
}

/// By event: the states after it. A table, since the verifier would follow each way through a choice.
static AFTER: [u64; 16] = {
    const NO: State = State::NONE;
    const I1: State = State::SCTP_INIT1;
    const IN: State = State::SCTP_INIT;
    const CE: State = State::SCTP_COOKIE_ECHOED;
    const ES: State = State::SCTP_ESTABLISHED;
    const SR: State = State::SCTP_SHUTDOWN_RECEIVED;
    const CL: State = State::SCTP_CLOSED;
    /// `after`: of NO, I1, IN, CE, ES, SR, CL.
    const fn of(after: [State; 7]) -> u64 {
        // The numbers before 7 are TCP's and UDP's. The last one goes on as from NO.
        let [no, i1, initiated, ce, es, sr, cl] = after;
        row(&[no, NO, NO, NO, NO, NO, NO, i1, initiated, ce, es, sr, cl, no])
    }
    let mut after = [of([CL; 7]); 16];
    //                                        NO  I1  IN  CE  ES  SR  CL
    after[DATA as usize] = of([ES, I1, IN, CE, ES, SR, CL]);
    after[INIT as usize] = of([I1, IN, IN, CE, ES, SR, IN]);
    after[INIT_ACK as usize] = of([CE, CE, CE, CE, ES, SR, CL]);
    after[COOKIE_ECHO as usize] = of([ES, ES, ES, CE, ES, SR, CL]);
    after[COOKIE_ACK as usize] = of([ES, I1, IN, ES, ES, SR, CL]);
    after[SHUTDOWN as usize] = of([SR, I1, IN, CE, SR, SR, CL]);
    after[SHUTDOWN_ACK as usize] = of([CL, IN, IN, CE, CL, SR, CL]);
    after[SHUTDOWN_COMPLETE as usize] = of([CL, CL, CL, CE, ES, CL, CL]);
    after[ERROR as usize] = of([CL, I1, IN, CE, ES, SR, CL]);
    after[ABORT as usize] = of([CL; 7]);
    after[ABORT_BEHIND as usize] = of([CL; 7]);
    after
};

/// The state after a client's packet with `flags`, as [`flags`] makes them.
#[inline(always)]
pub fn next(state: State, flags: u8) -> State {
    in_row(AFTER[(flags >> SHIFT) as usize], state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{opens, resets, retransmits_syn};

    fn walk(chunks: &[u8]) -> State {
        chunks.iter().fold(State::NONE, |state, first| next(state, flags(*first)))
    }

    #[test]
    fn the_usual_way_through_direct_routing() {
        assert_eq!(walk(&[chunk::INIT]), State::SCTP_INIT1);
        assert_eq!(walk(&[chunk::INIT, chunk::INIT]), State::SCTP_INIT);
        let up = [chunk::INIT, chunk::COOKIE_ECHO, chunk::DATA, chunk::SACK, chunk::HEARTBEAT];
        assert_eq!(walk(&up), State::SCTP_ESTABLISHED);
        assert_eq!(walk(&[&up[..], &[chunk::SHUTDOWN]].concat()), State::SCTP_SHUTDOWN_RECEIVED);
        let down = [&up[..], &[chunk::SHUTDOWN, chunk::SHUTDOWN_COMPLETE]].concat();
        assert_eq!(walk(&down), State::SCTP_CLOSED);
        assert_eq!(walk(&[&up[..], &[chunk::SHUTDOWN_ACK]].concat()), State::SCTP_CLOSED, "the server began");
        assert_eq!(walk(&[&up[..], &[chunk::ABORT]].concat()), State::SCTP_CLOSED);
        assert_eq!(walk(&[&down[..], &[chunk::INIT]].concat()), State::SCTP_INIT);
    }

    #[test]
    fn what_goes_on_by_hash_is_taken_up_as_from_none() {
        for first in 0..=u8::MAX {
            assert_eq!(next(State::SCTP_NONE, flags(first)), next(State::NONE, flags(first)), "{first}");
        }
    }

    #[test]
    fn an_init_opens_and_an_abort_resets() {
        for first in 0..=u8::MAX {
            assert_eq!(opens(flags(first)), first == chunk::INIT, "{first}");
            assert_eq!(resets(State::SCTP_ESTABLISHED, flags(first)), first == chunk::ABORT, "{first}");
        }
        assert!(!resets(State::SCTP_CLOSED, flags(chunk::ABORT)));
        assert!(retransmits_syn(State::SCTP_INIT1, flags(chunk::INIT)));
        assert!(!retransmits_syn(State::SCTP_ESTABLISHED, flags(chunk::INIT)));
    }

    #[test]
    fn an_abort_may_stand_behind_a_cookie() {
        assert_eq!(to_second(chunk::COOKIE_ECHO, 5), 8);
        assert_eq!(to_second(chunk::COOKIE_ACK, 4), 4);
        assert_eq!(to_second(chunk::COOKIE_ACK, 3), 0, "no chunk is so short");
        assert_eq!(to_second(chunk::DATA, 20), 0);
    }
}
