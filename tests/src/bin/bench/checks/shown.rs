//! The figures of a load of checks, as they are printed and written.

use serde::Serialize;

/// Shares are of a CPU, or of the time.
#[derive(Serialize)]
pub struct Load {
    pub what: &'static str,
    pub per_second: f64,
    /// By the servers.
    pub accepted_per_second: f64,
    pub failed: u64,
    pub down: usize,
    /// Half of the checks, 99 %, 99.9 % and all began within so long. None: longer than 5 s.
    pub late_us: [Option<u64>; 4],
    pub of_a_cpu: f64,
    pub user_percent: f64,
    pub system_percent: f64,
    pub us_of_cpu_each: f64,
    /// Times what it takes for a connection.
    pub of_the_bare_loop: f64,
    pub resident_mib: f64,
    pub threads: Vec<Thread>,
}

#[derive(Serialize)]
pub struct Thread {
    pub name: String,
    pub of_a_cpu: f64,
    pub ready_without_one: f64,
}

/// How long the agent took to answer under that load.
#[derive(Serialize)]
pub struct Asked {
    pub requests: Vec<Request>,
    pub checks_per_second: f64,
    /// 99 % of the checks.
    pub late_us: Option<u64>,
}

#[derive(Serialize)]
pub struct Request {
    pub what: &'static str,
    pub times: usize,
    pub median_ms: f64,
    pub longest_ms: f64,
}

impl Load {
    pub fn print(&self) {
        println!(
            "  checks a second: {:.0} (the servers accepted {:.0}); failed: {}; backends down: {}",
            self.per_second, self.accepted_per_second, self.failed, self.down
        );
        let [half, most, nearly, all] = self.late_us.map(late);
        println!("  begun late by: half {half}, 99 % {most}, 99.9 % {nearly}, all {all}");
        println!(
            "  of a CPU: {:.1} % (user {:.1}, system {:.1}); a check: {:.1} us, {:.1} times the bare loop's; resident: {:.0} MiB",
            self.of_a_cpu * 100.0,
            self.user_percent,
            self.system_percent,
            self.us_of_cpu_each,
            self.of_the_bare_loop,
            self.resident_mib
        );
        for Thread { name, of_a_cpu, ready_without_one } in &self.threads {
            println!(
                "  thread {name:>12}: {:5.1} % of a CPU, {:5.1} % of the time without one though ready",
                of_a_cpu * 100.0,
                ready_without_one * 100.0
            );
        }
    }
}

impl Asked {
    pub fn print(&self) {
        for Request { what, times, median_ms, longest_ms } in &self.requests {
            println!(
                "  GET /v1/{what:<8} meanwhile: median {median_ms:.1} ms, longest {longest_ms:.1} ms of {times}"
            );
        }
        println!(
            "  checks meanwhile: {:.0} a second, 99 % begun within {}",
            self.checks_per_second,
            late(self.late_us)
        );
    }
}

fn late(us: Option<u64>) -> String {
    us.map_or("> 5 s".to_owned(), |us| format!("< {} ms", us as f64 / 1000.0))
}
