//! A service compiled for the scheduler: an immutable region of the `ARENA` array.
//!
//! Region, in 64-bit words: a [`Header`] (three words), the members, the *levels* of wrr, the slot
//! table (two destinations a word), the *spread* (the same): where flows without an entry go. Publishing a region is one store of a [`Published`] word.
//! The cursor stands outside (position of the next new connection), so that the rotation goes on.
//!
//! The array's values are [`Piece`]s, since a look-up costs as much as reading ten words. A region begins so that its
//! header stands in one piece, and its members begin another one.

/// Words of the arena that one look-up finds.
pub type Piece = [u64; PIECE_WORDS as usize];
pub const PIECE_WORDS: u32 = 32;
/// Where in a piece each region begins.
pub const REGION_AT: u32 = PIECE_WORDS - HEADER_WORDS;

/// Which piece a region's header stands in; its members begin the next one.
#[inline(always)]
pub const fn header_piece(region: u32) -> u32 {
    region / PIECE_WORDS
}

/// `offset 32 | length 16 | number 16`: which words of the arena are the service's generation.
/// Length 0: the service has none and serves nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Published(pub u64);

impl Published {
    pub const fn new(offset: u32, length: u16, number: u16) -> Self {
        Self(offset as u64 | (length as u64) << 32 | (number as u64) << 48)
    }

    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn length(self) -> u16 {
        (self.0 >> 32) as u16
    }

    pub const fn number(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// Most backends a service may have.
pub const MAX_MEMBERS: u32 = 1024;
/// Most entries of a slot table; a longer rotation is computed from its levels.
pub const MAX_TABLE: u32 = 1 << 16;
/// Words before the members.
pub const HEADER_WORDS: u32 = 3;

/// First words of a region.
///
/// Word 0: `period 32 | levels 16 | members 16`; word 1: `table length 32 | scheduler 8 | flags 8 | spread length 16`;
/// word 2: see [`Start`], the agent's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of rr and wrr: new connections until the rotation repeats. Else the number of eligible members.
    /// 0: no member is eligible.
    pub period: u32,
    pub levels: u16,
    pub members: u16,
    /// Entries of the slot table. Of rr and wrr equal to `period`, or 0 when the rotation is computed.
    pub table: u32,
    /// See [`crate::scheduler`].
    pub scheduler: u8,
    /// See [`crate::scheduler::flag`].
    pub flags: u8,
    /// Entries of the spread: a consistent hash over the members that take connections. 0 where the scheduler hashes
    /// itself.
    pub spread: u16,
}

/// Third word of a region: where the rotation stood when it was published, `position's low bits 32 |
/// destination served last 32` (0: none). It tells "none served since" from "one round served".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Start(pub u64);

impl Start {
    pub const fn new(position: u64, last: u32) -> Self {
        Self(position & 0xffff_ffff | (last as u64) << 32)
    }

    pub const fn is_at(self, position: u64) -> bool {
        self.0 as u32 == position as u32
    }

    pub const fn last(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl Header {
    pub const fn words(self) -> [u64; 2] {
        [
            self.period as u64 | (self.levels as u64) << 32 | (self.members as u64) << 48,
            self.table as u64
                | (self.scheduler as u64) << 32
                | (self.flags as u64) << 40
                | (self.spread as u64) << 48,
        ]
    }

    /// Out of the [`header_piece`].
    #[inline(always)]
    pub const fn from_piece(piece: &Piece) -> Self {
        Self::from_words([piece[REGION_AT as usize], piece[REGION_AT as usize + 1]])
    }

    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self {
            period: words[0] as u32,
            levels: (words[0] >> 32) as u16,
            members: (words[0] >> 48) as u16,
            table: words[1] as u32,
            scheduler: (words[1] >> 32) as u8,
            flags: (words[1] >> 40) as u8,
            spread: (words[1] >> 48) as u16,
        }
    }

    /// Word index of the first level and table word, relative to the region. Members begin at [`HEADER_WORDS`].
    #[inline(always)]
    pub const fn levels_at(&self) -> u32 {
        HEADER_WORDS + self.members as u32
    }

    #[inline(always)]
    pub const fn table_at(&self) -> u32 {
        self.levels_at() + self.levels as u32
    }

    #[inline(always)]
    pub const fn spread_at(&self) -> u32 {
        self.table_at() + self.table.div_ceil(2)
    }

    /// Words of the whole region.
    pub const fn length(&self) -> u32 {
        self.spread_at() + (self.spread as u32).div_ceil(2)
    }
}

/// One member in walk order: `destination 32 | weight 16`. Weight 0 takes no new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Member(pub u64);

impl Member {
    pub const fn new(dest: u32, weight: u16) -> Self {
        Self(dest as u64 | (weight as u64) << 32)
    }

    #[inline(always)]
    pub const fn dest(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn weight(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// The same, of a member that the agent has written: above its weight a word is 0.
    #[inline(always)]
    pub const fn weight_alone(self) -> u64 {
        self.0 >> 32
    }
}

/// A run of wrr's weight levels that serve the same members: `first position 32 | lowest weight
/// served 16 | members served 16`. Positions from `first` on go round the members whose weight is at
/// least `threshold`, in walk order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Level(pub u64);

impl Level {
    pub const fn new(first: u32, threshold: u16, members: u16) -> Self {
        Self(first as u64 | (threshold as u64) << 32 | (members as u64) << 48)
    }

    #[inline(always)]
    pub const fn first(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn threshold(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    pub const fn members(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// Reads words of the arena: the kernel's map, or a slice.
pub trait Arena {
    fn word(&self, index: u32) -> Option<u64>;
}

/// The destination at a position of the rotation, out of the slot table.
#[inline(always)]
pub fn from_table<A: Arena>(arena: &A, region: u32, header: &Header, position: u32) -> Option<u32> {
    half(arena, region + header.table_at(), position)
}

/// The destination of a flow without an entry that has this hash. By its high bits, so that a table of twice the
/// entries divides each of them.
#[inline(always)]
pub fn from_spread<A: Arena>(arena: &A, region: u32, header: &Header, hash: u32) -> Option<u32> {
    if header.spread == 0 {
        return None;
    }
    let entry = (hash as u64 * header.spread as u64) >> 32;
    half(arena, region + header.spread_at(), entry as u32)
}

#[inline(always)]
fn half<A: Arena>(arena: &A, table: u32, position: u32) -> Option<u32> {
    let pair = arena.word(table + position / 2)?;
    Some(if position & 1 == 0 { pair as u32 } else { (pair >> 32) as u32 })
}

/// A search for the destination at a position of a rotation too long for a table, one arena word
/// per [`Search::step`], so that the kernel can bound and verify it (`bpf_loop`). The index comes from
/// the caller: a counter kept in here would make the verifier walk every turn of the loop. Small, because it
/// lies on the program's stack: kernel 6.1 rounds each frame up to 32 bytes, and the deepest calls use all there is.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    position: u32,
    /// Members still to be passed by; the one found when it is 0.
    skip: u32,
    /// Of the level that the position is in.
    threshold: u16,
    levels: u16,
    members: u16,
    /// The answer; 0: none yet.
    pub found: u32,
}

impl Search {
    pub const fn new(header: &Header, position: u32) -> Self {
        Self { position, skip: 0, threshold: 0, levels: header.levels, members: header.members, found: 0 }
    }

    /// Whether there is nothing to look at from `index` on.
    #[inline(always)]
    pub const fn is_over(&self, index: u32) -> bool {
        self.found != 0 || index >= self.levels as u32 + self.members as u32
    }

    /// Where in the region the word of turn `index` stands: levels come first, and then members.
    #[inline(always)]
    pub const fn word(&self, index: u32) -> u32 {
        let levels = self.levels as u32;
        HEADER_WORDS + if index < levels { self.members as u32 + index } else { index - levels }
    }

    /// Looks at [`Search::word`] `index`.
    #[inline(always)]
    pub fn step(&mut self, index: u32, word: u64) {
        if index < self.levels as u32 {
            let level = Level(word);
            // Levels ascend by position: the last that begins at or before it is the one.
            if level.first() <= self.position {
                self.threshold = level.threshold();
                let round = self.position - level.first();
                self.skip = if level.members() == 0 { 0 } else { round % level.members() as u32 };
            }
        } else {
            let member = Member(word);
            if member.weight() != 0 && member.weight() >= self.threshold {
                if self.skip == 0 {
                    self.found = member.dest();
                } else {
                    self.skip -= 1;
                }
            }
        }
    }
}

/// The destination at `position` (of a period) of the rotation: what the kernel serves.
pub fn at<A: Arena>(arena: &A, region: u32, header: &Header, position: u32) -> Option<u32> {
    if header.table != 0 {
        return from_table(arena, region, header, position);
    }
    let mut search = Search::new(header, position);
    let mut index = 0;
    while !search.is_over(index) {
        search.step(index, arena.word(region + search.word(index))?);
        index += 1;
    }
    if search.found == 0 { None } else { Some(search.found) }
}
