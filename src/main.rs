//! The command `chaski`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
