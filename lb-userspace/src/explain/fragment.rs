//! A packet as one of the fragments of its datagram. PURE.

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};

/// Which one. It is the last one, unless it is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits of an IPv4 datagram, 32 of an IPv6 one.
    pub id: u32,
    /// Bytes, a multiple of 8; 0 is the first fragment's.
    pub offset: u16,
}

/// `7238,0`, `0x1c46,1480`.
///
/// # Errors
/// What is wrong with the text.
pub fn fragment(text: &str) -> Result<Fragment, String> {
    let (id, offset) = text
        .split_once(',')
        .ok_or("say ID,OFFSET: identification of the datagram, and bytes before the fragment in it")?;
    let number = match id.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => id.parse(),
    };
    let id = number.map_err(|_| format!("`{id}` is no identification: 7238, 0x1c46"))?;
    let offset: u16 = offset.parse().map_err(|_| format!("`{offset}` is no offset: bytes below 65536"))?;
    if !offset.is_multiple_of(8) {
        return Err(format!("the offset of a fragment is a multiple of 8 bytes, which {offset} is not"));
    }
    Ok(Fragment { id, offset })
}

impl Fragment {
    pub(super) const fn is_first(self) -> bool {
        self.offset == 0
    }

    /// Makes it of a whole IP packet without options and extension headers.
    ///
    /// # Errors
    /// What is wrong with the question.
    pub(super) fn cut(self, packet: &[u8]) -> Result<Vec<u8>, String> {
        let offset = IpFragOffset::try_new(self.offset / 8).map_err(|error| error.to_string())?;
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            let (mut header, payload) = Ipv6Header::from_slice(packet).map_err(|error| error.to_string())?;
            let body = self.body(payload);
            let fragment = Ipv6FragmentHeader::new(header.next_header, offset, self.is_first(), self.id);
            header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            let length = Ipv6FragmentHeader::LEN + body.len();
            header.set_payload_length(length).map_err(|error| error.to_string())?;
            return Ok([&header.to_bytes()[..], &fragment.to_bytes(), &body].concat());
        }
        let (mut header, payload) = Ipv4Header::from_slice(packet).map_err(|error| error.to_string())?;
        let body = self.body(payload);
        header.identification = u16::try_from(self.id).map_err(|_| {
            format!("the identification of an IPv4 datagram is below 65536, which {} is not", self.id)
        })?;
        (header.dont_fragment, header.more_fragments) = (false, self.is_first());
        header.fragment_offset = offset;
        header.set_payload_len(body.len()).map_err(|error| error.to_string())?;
        header.header_checksum = header.calc_header_checksum();
        Ok([&header.to_bytes()[..], &body].concat())
    }

    /// The first one has the transport header, and all but the last are of eights of bytes (RFC 791 section 3.2, RFC
    /// 8200 section 4.5).
    fn body(self, payload: &[u8]) -> Vec<u8> {
        if self.is_first() {
            let mut body = payload.to_vec();
            body.resize(payload.len().next_multiple_of(8), 0);
            return body;
        }
        vec![0; payload.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_in_decimal_or_as_tcpdump_does() {
        assert_eq!(fragment("7238,0"), Ok(Fragment { id: 7238, offset: 0 }));
        assert_eq!(fragment("0x1c46,1480"), Ok(Fragment { id: 0x1c46, offset: 1480 }));
        for (wrong, word) in
            [("7238", "ID,OFFSET"), ("x,0", "identification"), ("1,65536", "below"), ("1,7", "multiple of 8")]
        {
            let error = fragment(wrong).expect_err(wrong);
            assert!(error.contains(word), "{wrong}: {error}");
        }
    }
}
