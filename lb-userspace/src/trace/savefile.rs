//! Packets as a file of pcapng, which tcpdump and Wireshark read. PURE but for the writer that it is given.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use super::Packet;

/// Being written. Each packet's comment says what became of it.
pub struct SaveFile<W: Write> {
    writer: PcapNgWriter<W>,
    /// Their numbers in the file.
    interfaces: BTreeMap<String, u32>,
    /// Bytes of a frame at most.
    snap: u32,
}

impl<W: Write> SaveFile<W> {
    /// # Errors
    /// It cannot be written.
    pub fn new(writer: W, snap: u32) -> io::Result<Self> {
        let writer = PcapNgWriter::new(writer).map_err(io_error)?;
        Ok(Self { writer, interfaces: BTreeMap::new(), snap })
    }

    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, packet: &Packet) -> io::Result<()> {
        let interface_id = self.interface(&packet.interface)?;
        let nanoseconds = u64::try_from(packet.time.as_nanosecond()).unwrap_or(0);
        let backend = packet.backend.map_or_else(String::new, |backend| format!(" to {backend}"));
        let comment = format!("lb: {}{backend}: {}", packet.verdict, packet.cause);
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(nanoseconds),
            original_len: packet.length,
            data: Cow::Owned(packet.frame_bytes().unwrap_or_default()),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        };
        self.writer.write_block(&block.into_block()).map_err(io_error)?;
        Ok(())
    }

    /// # Errors
    /// It cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(id) = self.interfaces.get(name) {
            return Ok(*id);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snap,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                // Nanoseconds, which is what this crate writes.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_block(&block.into_block()).map_err(io_error)?;
        let id = self.interfaces.len() as u32;
        self.interfaces.insert(name.to_owned(), id);
        Ok(id)
    }
}

impl SaveFile<Vec<u8>> {
    /// What has been written since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}
