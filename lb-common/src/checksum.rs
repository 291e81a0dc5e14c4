//! Internet checksum arithmetic (RFC 1071), and its incremental update (RFC 1624).

/// Folds a sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// An IPv4 header's third 32-bit word, as loaded on a little-endian machine (TTL, protocol,
/// checksum), with the TTL one lower and the checksum updated for it.
///
/// The TTL is the high byte of its 16-bit word in network order; taking 0x0100 from the word adds it
/// to the one's complement checksum, which is 1 in the byte order of the load (`ip_decrease_ttl`).
#[inline(always)]
pub const fn decrement_ttl(word: u32) -> u32 {
    let sum = (word >> 16) + 1;
    ((word & 0xffff) - 1) | ((sum + (sum >> 16)) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(header: &[u8]) -> u16 {
        !fold(header.chunks(2).map(|w| u64::from(u16::from_le_bytes([w[0], w[1]]))).sum())
    }

    #[test]
    fn the_incremental_update_equals_a_full_one_for_every_ttl_and_many_headers() {
        for ttl in 2..=255u8 {
            for id in (0..=u16::MAX).step_by(251) {
                let mut header = [0x45, 0, 0, 40, 0, 0, 0x40, 0, ttl, 6, 0, 0, 10, 1, 2, 3, 172, 18, 14, 100];
                header[4..6].copy_from_slice(&id.to_be_bytes());
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_le_bytes());
                let word = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
                header[8..12].copy_from_slice(&decrement_ttl(word).to_le_bytes());
                assert_eq!(header[8], ttl - 1);
                let all = fold(header.chunks(2).map(|w| u64::from(u16::from_le_bytes([w[0], w[1]]))).sum());
                assert_eq!(all, 0xffff, "ttl {ttl} id {id}");
            }
        }
    }
}
