//! What an agent finds of an earlier one and cannot use.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use lb::api::types::Status;
use lb_common::{SCHEMA_VERSION, meta::Meta};
use lb_tests::{hello::spread, lab::Lab, topo::Topology};

use crate::setup::{HELLO, HelloLab, SERVICE, config, said, xdp_program};

#[test]
fn pins_of_another_schema() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 2))?;
        let agent = &hello.agent;
        fs::create_dir_all(agent.pins().join("v77"))?;
        let mut meta = Array::<MapData, Meta>::create(1, 0)?;
        meta.set(0, Meta { schema: 77, ..Meta::default() }, 0)?;
        meta.pin(agent.pins().join("meta"))?;
        let before = tree(&agent.pins())?;

        let error = agent.start_refused(&[])?;
        let ours = format!("version {SCHEMA_VERSION}");
        said(&error, &[&agent.pins().to_string_lossy(), "schema version 77", &ours, "lb detach"])?;
        ensure!(tree(&agent.pins())? == before, "it changed the pins to {:#?}", tree(&agent.pins())?);
        let program = xdp_program(&lab.net.director.netns)?;
        ensure!(program.is_empty() && !agent.socket().exists(), "{program}");

        agent.detach()?;
        agent.start()?;
        ensure!(spread(hello.client(), HELLO, 4)?.values().eq(&[2, 2]));
        Ok(())
    });
}

/// A map that is missing, or too small: taken for what it is not, packets would go anywhere.
#[test]
fn damaged_pins() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.terminate()?;
        let flows = agent.pins().join(format!("v{SCHEMA_VERSION}")).join("FLOWS4_0");
        fs::remove_file(&flows)?;
        Array::<MapData, u64>::create(1, 0)?.pin(&flows)?;
        let before = (tree(&agent.pins())?, agent.link("eth0")?);
        said(&agent.start_refused(&[])?, &[&flows.to_string_lossy(), "1 entries", "lb detach"])?;
        ensure!((tree(&agent.pins())?, agent.link("eth0")?) == before, "it changed something");
        ensure!(spread(hello.client(), HELLO, 4)?.values().eq(&[2, 2]), "the old program goes on");
        Ok(())
    });
}

#[test]
fn damaged_journal() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.lb(&["backend", "drain", SERVICE, &hello.address(2)])?.ok()?;
        agent.kill9()?;
        let journal = agent.state().join("overlay.json");
        let text = fs::read_to_string(&journal)?;
        ensure!(text.contains("drain"), "{text}");
        fs::write(&journal, &text[..text.len() / 2])?;
        agent.start()?;
        let status: Status = agent.json(&["status"])?;
        let aside = agent.state().join("overlay.json.damaged-1");
        let warning = status.warnings.first().context("no warning")?;
        said(warning, &[&aside.to_string_lossy(), "lost"])?;
        ensure!(fs::read_to_string(&aside)? == text[..text.len() / 2]);
        said(&agent.lb(&["status"])?.ok()?, &[&aside.to_string_lossy()])?;
        said(&agent.log(), &["ERROR", "damaged"])?;
        // The file alone holds: nobody is drained.
        ensure!(status.overlay.is_empty() && spread(hello.client(), HELLO, 4)?.values().eq(&[2, 2]));
        Ok(())
    });
}

/// Every path below `dir`.
fn tree(dir: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            paths.extend(tree(&path)?);
        }
        paths.push(path.to_string_lossy().into_owned());
    }
    paths.sort();
    Ok(paths)
}
