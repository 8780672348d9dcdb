//! Compiles the XDP program.

mod compile_bpf;

fn main() {
    compile_bpf::compile("src/bpf/waxwing.bpf.c", "waxwing.bpf.o");
}
