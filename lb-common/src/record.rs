//! What the build of the program for `lb explain` notes of its way: the steps of one packet.

macro_rules! steps {
    ($($(#[$doc:meta])* $variant:ident,)*) => {
        /// A step of the way, with two words that say more.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step { $($(#[$doc])* $variant,)* }

        impl Step {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Step] = &[$(Step::$variant,)*];
        }
    };
}

steps! {
    /// The address filter knows nothing of the destination.
    Filter,
    /// The endpoints of its port: the exact one, the wildcard or range; 0 for none.
    Endpoints,
    /// An entry of its flow: the value; see [`followed`].
    Flow,
    /// What the service's rules say of the source: the rule; whether it is admitted 0, denied 1, limited 2.
    Source,
    /// The guard: new flows come too fast. The service.
    Guard,
    /// The client's persistence template: the destination; whether connections may be led there.
    Template,
    /// A template is made: the destination.
    TemplateMade,
    /// The destination that the scheduler picked, 0 if none takes connections; whether by hash, since the service's
    /// flows are placed so at the moment.
    Scheduled,
    /// A flow is stored: its value; the value that has to go for it.
    Opened,
    /// No entry is made, and the destination is the one that the hash points to.
    WithoutEntry,
    /// Where it goes: the destination; the service.
    Dest,
    /// How that is reached: [`crate::host::Route`], [`crate::host::Path`].
    Host,
    /// What is counted beside the verdict: its index.
    Event,
    /// What becomes of it.
    Verdict,
}

/// The second word of [`Step::Flow`]: `ticks left 32 | next state 8 | is over to this packet 1`. `left` may be
/// negative.
#[inline(always)]
pub const fn followed(left: i32, next: u8, is_over: bool) -> u64 {
    left as u32 as u64 | (next as u64) << 32 | (is_over as u64) << 40
}

/// Steps that there is room for. No way has more than half as many.
pub const STEPS: usize = 32;

/// The steps of the last packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record {
    pub count: u64,
    /// Number of the step, and its two words.
    pub steps: [[u64; 3]; STEPS],
}

const _: () = assert!(size_of::<Record>() == 8 + STEPS * 24);
