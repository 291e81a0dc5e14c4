//! sh, dh and mh: where in its table a packet's address points (`ip_vs_sh.c`, `ip_vs_dh.c`,
//! `ip_vs_mh.c`).

use crate::scheduler::MH;

/// Entries of the tables of sh and dh: `CONFIG_IP_VS_SH_TAB_BITS` and `CONFIG_IP_VS_DH_TAB_BITS` are 8
/// by default.
pub const SH_TABLE: u32 = 1 << SH_BITS;
const SH_BITS: u32 = 8;
/// Entries of mh's table, a prime: `CONFIG_IP_VS_MH_TAB_INDEX` is 12 by default.
pub const MH_TABLE: u32 = 4093;

/// The two fixed keys of mh: where a member's permutation begins and where a client points, and the
/// permutation's skip.
pub const MH_KEYS: [u64; 2] = [2_654_435_761, 2_654_446_892];

/// What is hashed: an address in host order plus a port in host order (0 unless ports are hashed).
#[inline(always)]
pub const fn key(folded: u32, port: u16) -> u32 {
    folded.wrapping_add(port as u32)
}

/// An address as one word in host order: an IPv6 one is folded by XOR. Words are as loaded from the
/// packet's bytes; an IPv4 address is `[address, 0]`.
#[inline(always)]
pub const fn fold(address: [u64; 2]) -> u32 {
    let word = address[0] ^ address[1];
    u32::from_be((word ^ word >> 32) as u32)
}

/// The table's entry that `key` points to; `offset` 0 at first, the fallback tries further ones.
#[inline(always)]
pub fn entry(scheduler: u8, key: u32, offset: u32, size: u32) -> u32 {
    if scheduler == MH {
        siphash(MH_KEYS[0], offset.wrapping_add(key)) % size
    } else {
        // The golden ratio in 32 bits (`hash_32` in `include/linux/hash.h`).
        (offset.wrapping_add(key.wrapping_mul(0x61c8_8647) >> (32 - SH_BITS))) % size
    }
}

/// SipHash-1-3 of one little-endian word with both halves of the key equal, its low 32 bits: what
/// 64-bit kernels call `hsiphash_1u32` (`lib/siphash.c`; Aumasson and Bernstein, "SipHash", 2012).
#[inline(always)]
pub fn siphash(key: u64, word: u32) -> u32 {
    let mut v = [
        key ^ 0x736f_6d65_7073_6575,
        key ^ 0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        key ^ 0x7465_6462_7974_6573,
    ];
    let last = 4 << 56 | word as u64;
    v[3] ^= last;
    round(&mut v);
    v[0] ^= last;
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use super::*;
    use crate::scheduler::SH;

    #[test]
    fn siphash_is_siphash_1_3() {
        for (key, word) in [(0, 0), (MH_KEYS[0], 0x0102_0304), (MH_KEYS[1], u32::MAX), (u64::MAX, 7)] {
            let mut hasher = siphasher::sip::SipHasher13::new_with_keys(key, key);
            hasher.write(&word.to_le_bytes());
            assert_eq!(siphash(key, word), hasher.finish() as u32);
        }
    }

    #[test]
    fn an_address_is_folded_in_host_order() {
        let v4 = u64::from(u32::from_ne_bytes([192, 0, 2, 1]));
        assert_eq!(fold([v4, 0]), 0xc000_0201);
        // 2001:db8::1
        let bytes = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0];
        let words = [u64::from_ne_bytes(bytes), u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1])];
        assert_eq!(fold(words), 0x2001_0db8 ^ 1);
    }

    #[test]
    fn entries_lie_in_the_table_and_offsets_move_on() {
        assert_eq!(entry(SH, 0, 0, SH_TABLE), 0);
        assert_eq!(entry(SH, 1, 0, SH_TABLE), 0x61);
        assert_eq!(entry(SH, 1, 255, SH_TABLE), 0x60);
        assert_ne!(entry(MH, 1, 0, MH_TABLE), entry(MH, 1, 1, MH_TABLE));
    }
}
