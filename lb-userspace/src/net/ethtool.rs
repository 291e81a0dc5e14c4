//! Driver name and offload features of an interface, through the SIOCETHTOOL ioctl.
//!
//! The ioctl and not the ethtool netlink family: that has no driver name, and the structures are small.
//! Read first: `include/uapi/linux/ethtool.h`, `net/ethtool/ioctl.c`.

use std::{
    collections::BTreeMap,
    io, mem,
    os::{fd::AsRawFd, unix::net::UnixDatagram},
};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GRXFHINDIR: u32 = 0x38;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;

/// ETH_GSTRING_LEN, in words.
const STRING_WORDS: usize = 32 / 4;
/// `struct ethtool_drvinfo`, in words.
const DRVINFO_WORDS: usize = 196 / 4;

/// What an interface can do in hardware, by the kernel's names (`ethtool -k`).
pub type Features = BTreeMap<String, Feature>;

/// One feature of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    pub active: bool,
    /// Can be switched: the driver knows it and does not hold it fixed.
    pub changeable: bool,
}

/// Why an interface could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} of interface {interface:?}: {source}{}", super::error::hint(source))]
    Refused { action: &'static str, interface: String, source: io::Error },
    #[error("interface {interface:?} knows no feature {feature:?} (`ethtool -k {interface}` lists them)")]
    NoSuchFeature { interface: String, feature: String },
    #[error(
        "the driver of interface {interface:?} keeps {feature} {}; it cannot be switched here",
        if *wanted { "off" } else { "on" }
    )]
    Fixed { interface: String, feature: String, wanted: bool },
}

/// The name of the driver, such as `virtio_net`, `veth` or `ixgbe`.
pub fn driver(interface: &str) -> Result<String, Error> {
    let mut info = vec![0; DRVINFO_WORDS];
    info[0] = ETHTOOL_GDRVINFO;
    call(interface, "read the driver", &mut info)?;
    Ok(text(&info[1..1 + STRING_WORDS]))
}

/// Queues that an interface receives by, those that also send among them.
pub fn receive_queues(interface: &str) -> Result<u32, Error> {
    // struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count.
    let mut channels = vec![0; 9];
    channels[0] = ETHTOOL_GCHANNELS;
    call(interface, "read the queues", &mut channels)?;
    Ok(channels[5] + channels[8])
}

/// The receive queue for each value of the hash of what comes in (RSS); empty if the driver has none.
pub fn indirection(interface: &str) -> Result<Vec<u32>, Error> {
    // struct ethtool_rxfh_indir: cmd, size, rings. Size 0 asks for the size (`ethtool_get_rxfh_indir`, which refuses
    // any other than the device's own).
    let mut head = vec![ETHTOOL_GRXFHINDIR, 0];
    call(interface, "read the size of the hash table", &mut head)?;
    let size = head[1] as usize;
    if size == 0 {
        return Ok(Vec::new());
    }
    let mut table = vec![0; 2 + size];
    (table[0], table[1]) = (ETHTOOL_GRXFHINDIR, head[1]);
    call(interface, "read the hash table", &mut table)?;
    table.drain(..2);
    Ok(table)
}

/// All features of an interface.
pub fn features(interface: &str) -> Result<Features, Error> {
    let names = feature_names(interface)?;
    let blocks = names.len().div_ceil(32);
    // struct ethtool_gfeatures: cmd, size, then {available, requested, active, never_changed} per block.
    let mut words = vec![0; 2 + 4 * blocks];
    words[0] = ETHTOOL_GFEATURES;
    words[1] = blocks as u32;
    call(interface, "read the features", &mut words)?;
    let bit = |field: usize, index: usize| words[2 + 4 * (index / 32) + field] >> (index % 32) & 1 == 1;
    let named = names.into_iter().enumerate().filter(|(_, name)| !name.is_empty());
    Ok(named
        .map(|(i, name)| (name, Feature { active: bit(2, i), changeable: bit(0, i) && !bit(3, i) }))
        .collect())
}

/// Switches a feature on or off; `false` if it was so already.
pub fn set_feature(interface: &str, feature: &str, on: bool) -> Result<bool, Error> {
    let no_such = || Error::NoSuchFeature { interface: interface.into(), feature: feature.into() };
    let names = feature_names(interface)?;
    let index = names.iter().position(|name| name == feature).ok_or_else(no_such)?;
    let is_on = || Ok::<_, Error>(features(interface)?.get(feature).is_some_and(|f| f.active));
    if is_on()? == on {
        return Ok(false);
    }
    // struct ethtool_sfeatures: cmd, size, then {valid, requested} per block; all blocks must be there.
    let blocks = names.len().div_ceil(32);
    let mut words = vec![0; 2 + 2 * blocks];
    words[0] = ETHTOOL_SFEATURES;
    words[1] = blocks as u32;
    let mask = 1 << (index % 32);
    words[2 + 2 * (index / 32)] = mask;
    words[2 + 2 * (index / 32) + 1] = if on { mask } else { 0 };
    call(interface, "change the features", &mut words)?;
    // A driver may take the wish and not fulfil it (ETHTOOL_F_WISH), for example while another feature
    // depends on this one.
    if is_on()? != on {
        return Err(Error::Fixed { interface: interface.into(), feature: feature.into(), wanted: on });
    }
    Ok(true)
}

/// Names by bit number; a bit without a name is an empty string.
fn feature_names(interface: &str) -> Result<Vec<String>, Error> {
    // struct ethtool_sset_info: cmd, reserved, sset_mask (64 bits), data.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    call(interface, "count the features", &mut info)?;
    let count = info[4] as usize;
    // struct ethtool_gstrings: cmd, string_set, len, data. The kernel writes all names, whatever `len`
    // says; their number is a constant of the running kernel (NETDEV_FEATURE_COUNT).
    let mut strings = vec![0; 3 + count * STRING_WORDS];
    strings[0] = ETHTOOL_GSTRINGS;
    strings[1] = ETH_SS_FEATURES;
    strings[2] = count as u32;
    call(interface, "read the names of the features", &mut strings)?;
    Ok(strings[3..].chunks_exact(STRING_WORDS).map(text).collect())
}

/// The NUL-terminated string in these words.
fn text(words: &[u32]) -> String {
    let octets: Vec<u8> =
        words.iter().flat_map(|w| w.to_ne_bytes()).take_while(|&octet| octet != 0).collect();
    String::from_utf8_lossy(&octets).into_owned()
}

/// Runs one ethtool command. `command` starts with the command's number and must be as long as the
/// command's structure with all that the kernel appends to it: the private callers above see to that.
fn call(interface: &str, action: &'static str, command: &mut [u32]) -> Result<(), Error> {
    let failed = |source| Error::Refused { action, interface: interface.to_owned(), source };
    // Any socket will do (`net/socket.c`, sock_do_ioctl passes it to dev_ioctl of the socket's namespace).
    let socket = UnixDatagram::unbound().map_err(failed)?;
    // SAFETY: `ifreq` is plain integers and a union of plain data and pointers: all zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last octet stays 0.
    if interface.len() >= request.ifr_name.len() {
        return Err(failed(io::Error::from_raw_os_error(libc::ENODEV)));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: the socket is open, `request` is a whole ifreq, and its data points to `command`, which is
    // exclusively borrowed and long enough for the command that it names (see above).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(()) }
}
