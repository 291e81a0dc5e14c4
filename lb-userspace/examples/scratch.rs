use lb::{dataplane::*, model::*};
fn main() -> anyhow::Result<()> {
    let layout = Layout::new("/sys/fs/bpf", "scratch");
    let _ = detach(&layout);
    let pins = Pins::open(
        layout.clone(),
        lb::clock::kernel_hz()?,
        FlowSizes { ipv4: 65536, wide: 16384 },
        Limits::default(),
    )?;
    println!("hz {} meta {:?}", pins.meta.hz, pins.meta);
    let mut o = Object::open(&layout, &pins.meta, 1)?;
    for jumbo in [false, true] {
        let mut o = Object::open(&layout, &pins.meta, 1)?;
        let p = match o.director(jumbo) {
            Ok(p) => p,
            Err(e) => {
                println!("{e}");
                let _ = detach(&layout);
                std::process::exit(1)
            }
        };
        println!(
            "jumbo {jumbo} verified {:?} jited {:?}",
            p.info()?.verified_instruction_count(),
            p.info()?.size_jitted()
        );
    }
    let c = Clock::calibrate(&mut o, &pins.maps, pins.meta.hz)?;
    println!("{:?} {:?}", c, c.now());
    detach(&layout)?;
    Ok(())
}
