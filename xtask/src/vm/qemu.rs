//! Booting the VM: serial console out, nothing in, one result line.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::cmd::Cmd;
use crate::vm::Job;
use crate::vm::kernel::Kernel;
use crate::vm::scratch::Scratch;

/// What init prints last.
const RESULT: &str = "VM-RESULT: ";
/// Boots with an initramfs of 60 MB and leaves room for the flow tables at their tested sizes.
const MEMORY_MB: &str = "1024";
/// `panic=-1` and `-no-reboot`: a panic ends qemu at once.
const KERNEL_ARGS: &str = "console=ttyS0 panic=-1 quiet";

/// Boots the kernel with this initramfs; the exit status that init reported.
pub fn boot(kernel: &Kernel, initramfs: &[u8], job: &Job, mut each: impl FnMut(&str)) -> Result<i32> {
    let image = Scratch::new("initramfs")?;
    fs::write(&image.0, initramfs).with_context(|| format!("cannot write {}", image.0.display()))?;
    let mut result = None;
    let ended = command(kernel, &image, job).lines(|line| {
        result = result_of(line).or(result);
        if result_of(line).is_none() {
            each(line);
        }
    })?;
    match result {
        Some(status) => Ok(status),
        None => bail!(
            "the VM ended ({ended}) before its program did: no `{RESULT}` line came. The lines above say how far it \
             got; a kernel panic stands there too"
        ),
    }
}

fn command(kernel: &Kernel, image: &Scratch, job: &Job) -> Cmd {
    let cpu: &[&str] = match job.icount {
        true => &["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off"],
        false => &["-accel", "tcg,thread=multi", "-smp", "2"],
    };
    let nics = job.nics.iter().enumerate().flat_map(|(n, device)| {
        let wire = format!("hubport,id=nic{n},hubid={n}");
        ["-netdev".to_owned(), wire, "-device".to_owned(), format!("{device},netdev=nic{n}")]
    });
    let plugin = job.plugin.iter().flat_map(|(plugin, out)| {
        // In its options a comma in a value is doubled.
        let [plugin, out] = [plugin, out].map(|path| path.to_string_lossy().replace(',', ",,"));
        ["-plugin".to_owned(), format!("{plugin},out={out}")]
    });
    // It ends with us, however we end (prctl(2), PR_SET_PDEATHSIG).
    Cmd::new("setpriv")
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(cpu)
        .args([
            "-cpu",
            "max",
            "-m",
            MEMORY_MB,
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&image.0)
        .args(["-append", &format!("{KERNEL_ARGS} {}", job.kernel_args)])
        .args(nics)
        .args(plugin)
        .limit(job.limit)
}

fn result_of(line: &str) -> Option<i32> {
    line.trim().strip_prefix(RESULT)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::result_of;

    #[test]
    fn only_the_result_line_is_a_result() {
        assert_eq!(result_of("VM-RESULT: 101"), Some(101));
        assert_eq!(result_of("VM-RESULT: "), None);
        assert_eq!(result_of("echo VM-RESULT: 0"), None);
    }
}
