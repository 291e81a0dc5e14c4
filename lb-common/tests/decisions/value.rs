//! The value word's fields, for every field at once.

use lb_common::{
    tcp::State,
    tick::Tick,
    value::{DEST_BITS, Value},
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn fields_go_in_and_come_out(
        dest in 0..1u32 << DEST_BITS, state in 0..16u8, flags in any::<u8>(), expiry in any::<u32>(),
        next in 0..16u8, later in any::<u32>(),
    ) {
        let value = Value::new(dest, State(state), flags, Tick(expiry));
        prop_assert_eq!(
            (value.dest(), value.state(), value.flags(), value.expiry()),
            (dest, State(state), flags, Tick(expiry))
        );
        let moved = value.moved_to(State(next), Tick(later));
        prop_assert_eq!(moved, Value::new(dest, State(next), flags, Tick(later)));
        // Exactly one of these, but for a word of no state and something else in it.
        prop_assert_eq!(value.is_flow(), state != 0 && state != 15);
        prop_assert_eq!(value.is_locked(), state == 15);
        prop_assert_eq!(value.is_free(), value == Value(0));
    }
}
