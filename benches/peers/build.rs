//! Compiles the BPF programs of the packet generator and the packet sink.

#[path = "../../runtime/xdp/compile_bpf.rs"]
mod compile_bpf;

fn main() {
    compile_bpf::compile("src/wire/bpf/wire.bpf.c", "wire.bpf.o");
}
