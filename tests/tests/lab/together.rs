//! Changes that are asked for at the same time are made together, and each is answered for itself.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::ensure;
use lb::{
    api::{
        client::Client,
        types::{BackendAdd, ServiceView},
    },
    model::{BackendKey, ServiceName},
};
use lb_tests::{lab::Lab, topo::Topology};

use crate::setup::{HelloLab, PORT, SERVICE, decided};

/// Each is asked for by two clients: whoever comes second is refused. One cannot be had at all, and one names a service
/// that is not there; nobody else suffers from those.
#[test]
fn each_of_many_changes_has_its_own_answer() {
    Lab::test(Topology::one_segment(2), |lab| {
        lab.net.director.netns.ip("route add 10.9.9.0/24 via 172.18.14.1")?;
        let hello = HelloLab::start(lab, 2)?;
        let addresses: Vec<IpAddr> = (150..182).map(|last| IpAddr::from([172, 18, 14, last])).collect();
        let mut asked: Vec<(&str, IpAddr)> = vec![(SERVICE, "10.9.9.9".parse()?), ("nobody", addresses[0])];
        asked.extend(addresses.iter().flat_map(|address| [(SERVICE, *address); 2]));

        let client = Client::new(hello.agent.socket());
        let one = async |(service, address): (&str, IpAddr)| {
            let add = BackendAdd {
                key: BackendKey { address, port: PORT },
                weight: 1,
                upper_threshold: 0,
                lower_threshold: 0,
            };
            let done = client.backend_add(&ServiceName::new(service)?, &add).await;
            anyhow::Ok((service.to_owned(), address, done.map_err(|error| error.to_string())))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answers = runtime.block_on(futures::future::try_join_all(asked.into_iter().map(one)))?;

        let mut added: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for (service, address, answer) in answers {
            match answer {
                Ok(_) => *added.entry(address).or_default() += 1,
                Err(error) if service != SERVICE => ensure!(error.contains("nobody"), "{error}"),
                Err(error) if !addresses.contains(&address) => ensure!(error.contains("gateway"), "{error}"),
                Err(error) => ensure!(error.contains(&address.to_string()), "{error}"),
            }
        }
        ensure!(added == addresses.iter().map(|address| (*address, 1)).collect(), "{added:?}");
        let before = decided(&hello.agent.services()?);
        ensure!(before[0].backends.len() == 2 + addresses.len(), "{before:#?}");

        // All of them stand in the journal.
        hello.agent.kill9()?;
        hello.agent.start()?;
        let after = decided(&hello.agent.services()?);
        let keys = |services: &[ServiceView]| -> Vec<String> {
            services[0].backends.iter().map(|backend| backend.key.to_string()).collect()
        };
        ensure!(keys(&after) == keys(&before), "{after:#?}");
        Ok(())
    });
}
