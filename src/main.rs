//! The `wardfs` program.

fn main() -> std::process::ExitCode {
    wardfs::cli::main()
}
