//! Compiles the BPF programs of the packet generators and the packet sink.

#[path = "../../runtime/xdp/compile_bpf.rs"]
mod compile_bpf;

fn main() {
    compile_bpf::compile("src/wire/bpf/wire.bpf.c", "wire.bpf.o");
    compile_bpf::compile("src/floods/bpf/flood.bpf.c", "flood.bpf.o");
}
