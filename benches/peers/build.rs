//! Compiles the generator and the sink.

#[path = "../../runtime/xdp/compile_bpf.rs"]
mod compile_bpf;

fn main() {
    compile_bpf::compile("src/bpf/wire.bpf.c", "wire.bpf.o");
}
