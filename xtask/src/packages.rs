//! The Debian and Ubuntu packages that building, testing and the demo need, each with its use.

/// To build: the XDP program, and the C libraries below the sockets.
pub(crate) const BUILD: &[&str] = &[
    "build-essential", // the C libraries below the AF_XDP sockets, the fuzzer
    "clang",           // compiles the XDP program
    "libbpf-dev",      // the XDP program's headers
    "libclang-dev",    // the bindings of those libraries
    "libelf-dev",
    "zlib1g-dev",
    "m4",
    "pkg-config",
];

/// To test and to show: real peers.
pub(crate) const PEERS: &[&str] = &[
    "iproute2", // network namespaces
    "ethtool",  // their interfaces' offloads
    "iputils-ping",
    "nginx-light",
    "openssl", // nginx's certificate
    "curl",
    "wrk",
    "iperf3",
    "tcpdump", // what shows VLAN tags
    "redis-server",
    "dnsmasq-base", // the program without the service
    "postgresql",
    "mariadb-server-core", // likewise
    "nftables",            // what firewalled servers are behind
    "procps",              // sysctl
    "util-linux",          // setpriv, taskset
];

/// To test in a virtual machine.
pub(crate) const MACHINE: &[&str] = &[
    "qemu-system-x86",
    "kmod",                   // indexes and loads its kernel's modules
    "debian-archive-keyring", // what its kernel is verified by
];

/// To compare with there.
pub(crate) const MACHINE_PEERS: &[&str] = &["ipvsadm"];

/// To compare with on the wire.
pub(crate) const WIRE: &[&str] = &["haproxy", "libnginx-mod-stream"];

/// The packages among all these that bring a service, and what systemd calls it: none of them may run
/// beside what the tests start themselves.
pub(crate) const SERVICES: &[(&str, &str)] = &[
    ("nginx-light", "nginx"),
    ("redis-server", "redis-server"),
    ("postgresql", "postgresql"),
    ("ipvsadm", "ipvsadm"),
    ("haproxy", "haproxy"),
];

/// Debian's own compiler for Wasm, where rustup cannot fetch its target.
pub(crate) const WASM: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev",
    "rust-web-src",
    "lld",
];

/// To count instructions.
pub(crate) const COUNT: &[&str] = &["valgrind"];
