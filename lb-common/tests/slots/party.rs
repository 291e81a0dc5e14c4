//! The parties of the protocol: a CPU with a packet, as `lb-ebpf/src/flow.rs` does it, and the agent,
//! as `lb-userspace/src/dataplane/flows.rs` does it. Both crates need a kernel, so their few lines
//! around the shipped `bucket` functions are written down here again, under the same names.

use lb_common::{
    bucket::{Claim, Hit, Word, candidate, claim, expire, find, remove, retake},
    tcp::{self, State, flag},
    tick::Tick,
    value::Value,
};

use crate::table::{Client, Counts, PAST, Table};

/// Ticks that a refresh must gain.
const REFRESH: i32 = 8;
/// Ticks until any flow expires. That all states have the same makes equal words likelier than they
/// are.
pub const TIMEOUT: u32 = 60;

pub const SYN: u8 = flag::SYN;
pub const ACK: u8 = flag::ACK;
pub const FIN: u8 = flag::FIN | flag::ACK;
pub const RST: u8 = flag::RST;

/// What somebody's work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A packet went to this destination by a flow, found or stored.
    To(u32),
    /// A packet of no known flow that opens none, or that found no room.
    Lost,
    /// The agent's or a sweep's: whether it freed the slot.
    Freed(bool),
}

/// One party, with what it counted.
pub struct Party<'a, B> {
    /// A flow's candidate buckets.
    pub first: &'a B,
    pub second: &'a B,
    pub now: Tick,
    pub counts: Counts,
}

impl<'a, B: Table> Party<'a, B> {
    pub fn new(first: &'a B, second: &'a B, now: Tick) -> Self {
        Self { first, second, now, counts: Counts::default() }
    }

    /// `in_table` and, if the packet may, `open`; `n` is the destination of a new connection.
    pub fn packet(&mut self, client: Client, flags: u8, n: u32) -> Way {
        let key = B::key(client);
        let (mut bucket, mut hit) = (self.first, find(self.first, &key));
        if hit.is_miss() {
            (bucket, hit) = (self.second, find(self.second, &key));
        }
        if !hit.is_miss()
            && let Way::To(dest) = self.follow(bucket, hit, client, flags)
        {
            return Way::To(dest);
        }
        if tcp::opens(flags) { self.open(client, flags, n) } else { Way::Lost }
    }

    /// `in_table` while tables are replaced: lost if it is not in this one, or not any more.
    pub fn known_here(&mut self, client: Client, flags: u8) -> Way {
        let mut way = Way::Lost;
        for _ in 0..2 {
            let key = B::key(client);
            let (mut bucket, mut hit) = (self.first, find(self.first, &key));
            if hit.is_miss() {
                (bucket, hit) = (self.second, find(self.second, &key));
            }
            if hit.is_miss() || is_over(hit.value, flags, self.now) {
                return Way::Lost;
            }
            let (dest, state) = (hit.value.dest(), hit.value.state());
            let (next, expiry) = (tcp::next(state, flags), self.now.after(TIMEOUT));
            way = Way::To(dest);
            if next == state && expiry.until(hit.value.expiry()) < REFRESH {
                return way;
            }
            if bucket.value(hit.slot).cas(hit.value.0, hit.value.moved_to(next, expiry).0) {
                self.counts.moved(dest, state, next);
                return way;
            }
        }
        way
    }

    /// `forget`: lets the client's flow in this table expire.
    pub fn forget(&mut self, client: Client) {
        for bucket in [self.first, self.second] {
            let hit = find(bucket, &B::key(client));
            if !hit.is_miss() {
                bucket.value(hit.slot).cas(hit.value.0, hit.value.moved_to(hit.value.state(), PAST).0);
            }
        }
    }

    fn follow(&mut self, bucket: &B, hit: Hit, client: Client, flags: u8) -> Way {
        let (mut slot, mut value) = (hit.slot, hit.value);
        for _ in 0..2 {
            let (dest, state) = (value.dest(), value.state());
            if is_over(value, flags, self.now) {
                return Way::Lost;
            }
            let next = tcp::next(state, flags);
            let expiry = self.now.after(TIMEOUT);
            if next == state && expiry.until(value.expiry()) < REFRESH {
                return Way::To(dest);
            }
            if bucket.value(slot).cas(value.0, value.moved_to(next, expiry).0) {
                self.counts.moved(dest, state, next);
                return Way::To(dest);
            }
            let again = find(bucket, &B::key(client));
            if again.is_miss() {
                return Way::To(dest);
            }
            (slot, value) = (again.slot, again.value);
        }
        Way::To(value.dest())
    }

    /// A new connection.
    pub fn open(&mut self, client: Client, flags: u8, n: u32) -> Way {
        let state = tcp::next(State::NONE, flags);
        self.open_with(client, client.value(n, state, self.now.after(TIMEOUT)), flags)
    }

    pub fn open_with(&mut self, client: Client, value: Value, flags: u8) -> Way {
        let mut before = self.retake(self.first, client, value, flags);
        if before.is_free() {
            before = self.retake(self.second, client, value, flags);
        }
        if before.is_free() {
            before = self.store(client, value);
        }
        if before.is_locked() {
            return Way::Lost;
        }
        if before.is_flow() {
            self.counts.ended(before);
        }
        self.counts.opened(value);
        Way::To(value.dest())
    }

    fn retake(&self, bucket: &B, client: Client, value: Value, flags: u8) -> Value {
        let hit = find(bucket, &B::key(client));
        if !hit.is_miss()
            && is_over(hit.value, flags, self.now)
            && retake(bucket, hit, &B::key(client), value, self.now)
        {
            hit.value
        } else {
            Value::FREE
        }
    }

    fn store(&self, client: Client, value: Value) -> Value {
        let key = B::key(client);
        for _ in 0..2 {
            let (a, b) = (candidate(self.first, self.now), candidate(self.second, self.now));
            let claimed = if b.beats(&a) {
                claim(self.second, b, &key, value, self.now)
            } else {
                claim(self.first, a, &key, value, self.now)
            };
            match claimed {
                Claim::Stored(before) => return before,
                Claim::Full => return Value::locked(self.now),
                Claim::Lost => {}
            }
        }
        Value::locked(self.now)
    }

    /// One slot of a CPU's sweep.
    pub fn sweep(&mut self, bucket: &B, slot: usize) -> Way {
        self.expire(bucket, slot, Value::locked(self.now))
    }

    /// One slot of the agent's sweep.
    pub fn agent_sweep(&mut self, bucket: &B, slot: usize) -> Way {
        self.expire(bucket, slot, Value::locked_by_agent(self.now))
    }

    fn expire(&mut self, bucket: &B, slot: usize, lock: Value) -> Way {
        let expired = expire(bucket, slot, self.now, lock);
        if let Some(value) = expired {
            self.counts.ended(value);
        }
        Way::Freed(expired.is_some())
    }

    /// The agent removes what it listed as `seen`.
    pub fn flush(&mut self, bucket: &B, slot: usize, seen: Value) -> Way {
        let removed = remove(bucket, slot, seen, Value::locked_by_agent(self.now));
        if let Some(value) = removed {
            self.counts.ended(value);
        }
        Way::Freed(removed.is_some())
    }

    /// A starting agent frees what a dead one left locked.
    pub fn free_abandoned(&mut self, bucket: &B, slot: usize) -> Way {
        let abandoned = Value(bucket.value(slot).load()).is_locked_by_agent();
        if abandoned {
            bucket.tag(slot).store(0);
            bucket.value(slot).store(Value::FREE.0);
        }
        Way::Freed(abandoned)
    }
}

fn is_over(value: Value, flags: u8, now: Tick) -> bool {
    value.expiry().is_past(now) || (value.state().is_reusable() && tcp::opens(flags))
}
