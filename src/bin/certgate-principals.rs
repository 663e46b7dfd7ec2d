//! The helper that sshd asks for principals; see [`certgate::node::helper`].

fn main() -> std::process::ExitCode {
    certgate::node::helper::main()
}
