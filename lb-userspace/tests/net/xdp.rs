//! XDP features, and what is attached.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
};

use lb::{
    dataplane::bpf::opened,
    net::{
        Event, Events, Netlink,
        xdp::{self, XdpMode},
    },
};
use rtnetlink::{
    LinkUnspec,
    packet_route::link::{LinkAttribute, LinkXdp},
};

use crate::{
    link::event,
    namespace::{Namespace, Pair},
    neighbour::eth0,
};

/// XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE (`include/uapi/linux/if_link.h`).
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split('.').map(|n| n.parse().expect("a number"));
    (numbers.next().expect("major"), numbers.next().expect("minor"))
}

#[test]
fn driver_features() {
    let pair = Pair::new();
    pair.here.run_async(|| async {
        let eth0 = eth0(&Netlink::connect().expect("connects")).await;
        let features = xdp::features(eth0).expect("answers");
        assert_eq!(features.is_some(), kernel() >= (6, 3), "kernel {:?}", kernel());
        if let Some(features) = features {
            assert!(features.basic() && features.redirect() && features.rx_sg(), "veth: {features:?}");
            // A veth takes redirected frames only while its peer has NAPI: GRO on, or an XDP program.
            assert!(!features.ndo_xmit(), "veth: {features:?}");
            let lo = xdp::features(1).expect("answers").expect("this kernel tells");
            assert!(!lo.basic() && !lo.redirect(), "lo: {lo:?}");
            let error = xdp::features(999).expect_err("no interface");
            assert_eq!(error.errno(), Some(libc::ENODEV));
        }
    });
}

#[test]
fn the_attached_program_is_told() {
    let namespace = Namespace::new();
    // The kernel tells only of links that are up.
    namespace.ip("link add eth0 type veth peer name v1\nlink set eth0 up");
    namespace.run_async(|| async {
        let net = Netlink::connect().expect("connects");
        let program = pass();
        for (flags, mode) in [(DRV_MODE, XdpMode::Native), (SKB_MODE, XdpMode::Generic)] {
            let mut events = Events::subscribe().expect("subscribes");
            attach(eth0(&net).await, program.as_raw_fd(), flags).await;
            let links = net.links().await.expect("lists");
            let link = links.iter().find(|link| link.name == "eth0").expect("eth0");
            assert_eq!(link.xdp.iter().map(|p| p.mode).collect::<Vec<_>>(), [mode]);
            assert_ne!(link.xdp[0].id, 0);
            event(&mut events, |e| matches!(e, Event::Link(l) if l.xdp == link.xdp).then_some(())).await;
            attach(link.index, -1, flags).await;
            event(&mut events, |e| matches!(e, Event::Link(l) if l.xdp.is_empty()).then_some(())).await;
        }
    });
}

async fn attach(ifindex: u32, program: i32, flags: u32) {
    let (connection, handle, _) = rtnetlink::new_connection().expect("connects");
    tokio::spawn(connection);
    let mut message = LinkUnspec::new_with_index(ifindex).build();
    message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(program), LinkXdp::Flags(flags)]));
    handle.link().set(message).execute().await.expect("attaches");
}

/// A program that is `return XDP_PASS`.
fn pass() -> OwnedFd {
    // r0 = XDP_PASS (BPF_ALU64 | BPF_MOV | BPF_K); exit (BPF_JMP | BPF_EXIT).
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let license = c"GPL";
    // The head of union bpf_attr for BPF_PROG_LOAD: type, count, instructions, license; the kernel takes
    // what is missing as zero.
    let attributes: [u64; 3] = [6 | 2 << 32, instructions.as_ptr() as u64, license.as_ptr() as u64];
    const BPF_PROG_LOAD: libc::c_int = 5;
    // SAFETY: the attributes point to two instructions and a string that outlive the call.
    unsafe { opened(BPF_PROG_LOAD, &attributes) }.expect("bpf(BPF_PROG_LOAD)")
}
