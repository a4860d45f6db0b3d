//! The `cosmount` command.

fn main() -> std::process::ExitCode {
    cosmount::cli::main()
}
