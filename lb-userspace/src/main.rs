//! `lb`: every role in one binary; see [`lb::cli`].

fn main() -> std::process::ExitCode {
    lb::cli::main()
}
