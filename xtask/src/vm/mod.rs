//! `cargo xtask vm`: one program under the oldest kernel that lb supports, Debian's 6.1, in qemu.
//!
//! TCG, never KVM: guests hang where nested virtualisation is half there. The way of a run:
//! `kernel` fetches the package once, `rootfs` makes an initramfs of busybox, modules and the
//! program with its libraries, `qemu` boots it and reads its result.

pub mod bench;
mod cpio;
mod ipvs_diff;
mod kernel;
mod qemu;
mod rootfs;
mod scratch;
mod steps;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, Subcommand};

use crate::build;
use crate::clock::Stopwatch;
use crate::metadata;
use crate::repo;
use crate::setup::{self, Group};
use crate::tally::Tally;

/// Loading and verifying takes 10 s there for each test, so of the packet tables those that show that
/// the program loads and forwards under that kernel, the builds of `lb trace`, with its ring and filters, and of
/// `lb explain`, and those that look into two tables.
/// The one that is skipped uses up the headroom by metadata, which TEST_RUN of 6.1 refuses (EINVAL).
const PACKET_TESTS: KernelTests = KernelTests {
    target: "packets",
    args: &[
        "forward::",
        "vlan::",
        "trace::several_traces",
        "verifier::",
        "growth::flows_stay_where_they_are_in_every_phase",
        "--skip",
        "a_tag_that_does_not_fit",
    ],
    modules: &[],
    commands: &[],
    nics: &[],
    // Of each most is the verifier's work.
    threads: 2,
    icount: false,
    limit: Duration::from_secs(1800),
};
/// How many instructions a packet takes: by a clock that counts them, so on any machine the same.
const COUNTS: KernelTests = KernelTests {
    target: COUNT_TARGET,
    args: &["no_way_has_become_longer_by_a_tenth", "--nocapture"],
    modules: &[],
    commands: &[],
    nics: &[],
    threads: 1,
    icount: true,
    limit: Duration::from_secs(600),
};
/// What the development machine cannot show: VLAN devices, bonds, IPVS, SCTP sockets; NICs, and settings that are the
/// whole machine's.
const LABS: KernelTests = KernelTests {
    target: LAB_TARGET,
    args: &[],
    modules: &[
        "8021q",
        "bonding",
        "bridge",
        "ip_vs",
        "nft_ct",
        "sctp",
        "virtio_net",
        "virtio_pci",
        "vmxnet3",
    ],
    commands: &["ipvsadm", "nft"],
    nics: &["virtio-net-pci", "vmxnet3"],
    threads: 1,
    icount: false,
    limit: Duration::from_secs(900),
};
/// The test targets that run nowhere else.
pub const LAB_TARGET: &str = "vm61";
pub const COUNT_TARGET: &str = "instructions";
/// Where `lb` lies in the VM.
const LB: &str = "/vm/lb";
/// Boot takes 10 s, the tables some more; TCG on a busy machine is slow.
const DEFAULT_LIMIT: u64 = 180;

#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run packet tests and labs under kernel 6.1, and count a packet's instructions
    Test,
    /// Run any program of this machine, as root: `vm run -- /bin/sh -c 'ip link'`
    Run(RunArgs),
    /// Which source files, or lines, the instructions of a packet fall to, for each way of one
    Steps(steps::Args),
    /// Random scripts on our data plane and on the real IPVS: a table of the differences
    IpvsDiff(ipvs_diff::Args),
}

#[derive(ClapArgs)]
struct RunArgs {
    /// A file to take along: HOST or HOST:GUEST, into /vm, where the program runs, if not said otherwise
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    files: Vec<String>,
    /// A command to take along with its libraries, into /sbin
    #[arg(long = "command", value_name = "NAME")]
    commands: Vec<String>,
    /// A variable of the program's environment
    #[arg(long = "env", value_name = "KEY=VALUE")]
    envs: Vec<String>,
    /// A kernel module to load first (veth always is; others load on demand or by modprobe)
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// A NIC of qemu's (`qemu-system-x86_64 -device help` lists them), on a wire that leads nowhere
    #[arg(long = "nic", value_name = "DEVICE")]
    nics: Vec<String>,
    /// Kill it after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_LIMIT)]
    timeout: u64,
    /// One CPU whose every clock counts instructions: 1 instruction = 1 ns, repeatable within 1 %
    #[arg(long)]
    icount: bool,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// A test target of lb-tests as it runs in the VM.
struct KernelTests {
    target: &'static str,
    args: &'static [&'static str],
    modules: &'static [&'static str],
    commands: &'static [&'static str],
    nics: &'static [&'static str],
    /// Tests at a time, on two CPUs.
    threads: u8,
    /// See [`RunArgs::icount`].
    icount: bool,
    /// On a busy machine.
    limit: Duration,
}

/// What one boot of the VM does.
struct Job {
    program: PathBuf,
    args: Vec<String>,
    /// On this machine, in the VM.
    files: Vec<(PathBuf, PathBuf)>,
    commands: Vec<String>,
    envs: Vec<(String, String)>,
    modules: Vec<String>,
    /// Further arguments of the kernel, and of modules as `MODULE.NAME=VALUE`.
    kernel_args: &'static str,
    /// Devices of qemu's, each on a wire of its own that leads nowhere.
    nics: Vec<String>,
    limit: Duration,
    icount: bool,
    /// A plugin for qemu, and the file that it writes.
    plugin: Option<(PathBuf, PathBuf)>,
}

impl Job {
    fn new(program: PathBuf, args: &[&str]) -> Self {
        Self {
            program,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            files: Vec::new(),
            commands: Vec::new(),
            envs: Vec::new(),
            modules: Vec::new(),
            kernel_args: "",
            nics: Vec::new(),
            limit: Duration::from_secs(DEFAULT_LIMIT),
            icount: false,
            plugin: None,
        }
    }

    fn from_args(args: &RunArgs) -> Result<Self> {
        let (program, rest) = args.command.split_first().context("no program is given")?;
        let program = match program.contains('/') {
            true => PathBuf::from(program),
            false => repo::find_command(program)
                .with_context(|| format!("there is no command {program} in PATH"))?,
        };
        let rest: Vec<_> = rest.iter().map(String::as_str).collect();
        let mut job = Self::new(program, &rest);
        for file in &args.files {
            let (host, guest) =
                file.split_once(':').map_or((file.as_str(), None), |(host, guest)| (host, Some(guest)));
            let name = Path::new(host).file_name().with_context(|| format!("--file {file}: no file name"))?;
            job.files.push((host.into(), guest.map_or_else(|| Path::new("/vm").join(name), PathBuf::from)));
        }
        for env in &args.envs {
            let (key, value) =
                env.split_once('=').with_context(|| format!("--env {env}: write KEY=VALUE"))?;
            job.envs.push((key.to_owned(), value.to_owned()));
        }
        job.commands.clone_from(&args.commands);
        job.modules.clone_from(&args.modules);
        job.nics.clone_from(&args.nics);
        job.limit = Duration::from_secs(args.timeout);
        job.icount = args.icount;
        Ok(job)
    }

    /// Boots, runs, powers off. Every line goes to `each`; the program's exit status comes back.
    fn run(&self, each: impl FnMut(&str)) -> Result<i32> {
        let kernel = kernel::fetch()?;
        let image = rootfs::build(&kernel, self)?;
        let watch = Stopwatch::start();
        let status = qemu::boot(&kernel, &image, self, each)?;
        eprintln!("xtask: the VM ran for {watch}, {} MB initramfs", image.len() / 1_000_000);
        Ok(status)
    }
}

pub fn main(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Vm])?;
    match &args.verb {
        Verb::Test => {
            setup::ensure(&[Group::Build])?;
            let mut tally = packet_tests()?;
            tally += counts()?;
            tally += labs()?;
            println!("{tally}");
            ensure!(tally.failed == 0, "tests failed under kernel 6.1: see above");
            Ok(())
        }
        Verb::Steps(args) => steps::main(args),
        Verb::IpvsDiff(args) => ipvs_diff::main(args),
        Verb::Run(args) => match Job::from_args(args)?.run(|line| println!("{line}"))? {
            0 => Ok(()),
            status => bail!("the program ended with status {status} in the VM"),
        },
    }
}

/// Runs packet tables under kernel 6.1.
pub fn packet_tests() -> Result<Tally> {
    run_tests(&PACKET_TESTS)
}

/// Counts the instructions that a packet takes.
pub fn counts() -> Result<Tally> {
    run_tests(&COUNTS)
}

/// Runs the labs that need VLAN devices and bonds.
pub fn labs() -> Result<Tally> {
    run_tests(&LABS)
}

/// Compares with the kernel's IPVS, by one script of each scheduler.
pub fn ipvs_diff() -> Result<()> {
    ipvs_diff::short()
}

/// What the VM cannot do without; apt-get fetches Debian's kernel.
const TOOLS: [&str; 3] = ["qemu-system-x86_64", "busybox", "apt-get"];

/// Not run is not passed: who cannot or will not run the VM has to say so.
fn check_tools(is_there: impl Fn(&str) -> bool) -> Result<()> {
    match TOOLS.into_iter().find(|tool| !is_there(tool)) {
        None => Ok(()),
        Some(tool) => bail!(
            "nothing was tested under kernel 6.1: {tool} is missing on this machine; install it (apt-get is Debian's and \
             Ubuntu's), or leave the VM out with `cargo xtask test --without-vm`"
        ),
    }
}

fn run_tests(tests: &KernelTests) -> Result<Tally> {
    check_tools(|tool| repo::find_command(tool).is_some())?;
    let program = metadata::build_test("lb-tests", tests.target)?;
    let threads = format!("--test-threads={}", tests.threads);
    let mut job = Job::new(program, &[&[threads.as_str()], tests.args].concat());
    job.files.push((build::lb(false)?, LB.into()));
    job.envs.push(("LB_BIN".to_owned(), LB.to_owned()));
    let owned = |these: &[&str]| these.iter().map(|&one| one.to_owned()).collect();
    (job.modules, job.commands, job.nics) = (owned(tests.modules), owned(tests.commands), owned(tests.nics));
    (job.icount, job.limit) = (tests.icount, tests.limit);
    let mut tally = Tally::NONE;
    let status = job.run(|line| {
        println!("{line}");
        tally += Tally::of_line(line).unwrap_or_default();
    })?;
    if status != 0 && tally.failed == 0 {
        println!("the test program ended with status {status} without a failed test: see above");
        tally += Tally::FAILED;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_cannot_run_is_a_failure() {
        check_tools(|_| true).expect("all is there");
        for tool in TOOLS {
            let error = check_tools(|there| there != tool).expect_err("one is missing").to_string();
            assert!(error.contains(tool) && error.contains("--without-vm"), "{error}");
        }
    }
}
