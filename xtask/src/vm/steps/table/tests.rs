use super::super::counts;
use super::*;

/// A program of two files, with an instruction of core's behind the first one's, and the bare swap.
fn said(windows: &[&str]) -> Said {
    let mut said = Said::default();
    let code = [
        "maker 900 910",
        "code 100 140",
        "line 100 7 /x/lb-ebpf/src/main.rs",
        "line 110 9 /library/core/src/ptr.rs",
        "line 120 3 /x/lb-common/src/tcp.rs",
        "code 200 220",
        "line 200 1 /x/lb-ebpf/src/bench.rs",
    ];
    for line in code.iter().chain(windows) {
        assert!(said.take(&format!("STEPS {line}")), "{line}");
    }
    said
}

fn windows(text: &str) -> Vec<Window> {
    counts::parse(text).expect("counts")
}

#[test]
fn a_way_is_its_smallest_round_by_file() {
    let said = said(&["window 2 50 bare MAC swap", "window 2 57 known", "window 2 56 known"]);
    let windows = windows(
        "window\n200 4 0\n900 10 0\n\
         window\n100 9 0\n900 8 0\n\
         window\n100 2 0\n104 2 0\n110 2 16\n120 1 0\n900 8 0\n",
    );
    let text = all(&said, &windows, "known", 0).expect("a table");
    let table: Vec<_> = text.lines().skip_while(|line| !line.starts_with("known")).collect();
    let words: Vec<Vec<_>> = table.iter().map(|line| line.split_whitespace().collect()).collect();
    // The round of 9 steps: it is smaller than that of 23.
    assert_eq!(words[1], ["lb-ebpf/src/main.rs", "5", "0", "0", "5"]);
    assert_eq!(words[2], ["sum", "5", "0", "0", "5"]);
    // (9 + 8) / 2 - (4 + 10) / 2
    assert!(
        table[3].ends_with(
            "with 4 for its making, less 2 and 5 of a bare MAC swap: 1; `vm test`, by the VM's clock: 7"
        ),
        "{text}"
    );
}

#[test]
fn a_library_s_and_the_kernel_s_stand_beside_ours() {
    let said = said(&["window 1 9 known"]);
    let text = all(&said, &windows("window\n100 1 0\n104 1 0\n110 1 8\n120 5 0\n900 5 5\nff00 5 5\n"), "", 1)
        .expect("tables");
    let row = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name)).expect(name);
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("lb-ebpf/src/main.rs "), ["2", "1", "8", "11"]);
    assert_eq!(row("lb-common/src/tcp.rs "), ["5", "0", "0", "5"]);
    assert_eq!(row("sum"), ["7", "1", "8", "16"]);
    assert_eq!(row("lb-ebpf/src/main.rs:7"), ["2", "1", "8", "11"]);
    assert!(!text.contains("tcp.rs:3"), "one line was asked for: {text}");
}

#[test]
fn cells_add_up() {
    let third = Steps { own: 1, library: 0, kernel: 0 };
    let cells = rounded(&[third; 6], 3);
    assert_eq!(cells.iter().map(|steps| steps.own).sum::<u64>(), 2);
    assert!(cells.iter().all(|steps| steps.own <= 1));
}

#[test]
fn what_was_not_counted_is_an_error() {
    let said = said(&["window 1 9 known"]);
    all(&said, &[], "", 0).expect_err("a window is missing");
    let error = all(&said, &windows("window\n"), "unknown", 0).expect_err("no such way").to_string();
    assert!(error.contains("`unknown`") && error.contains("known"), "{error}");
}
